//! The bytes that run are the bytes that were judged: each part of the store is changed by hand, as a failing disk, a bad
//! backup or another program with root's rights would. A run refuses what a look can tell, `image verify` sees all of it,
//! and the command that it advises heals it.
//!
//! It is stage0 that looks, so one stage1 is enough; the block image is what a microVM is given.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tests::image::{Layer, Recipe};
use tests::{Outcome, Test, probe_bytes, probe_layer};

const NAME: &str = "example.com/app:1";

fn on_host(name: &str, body: fn(&Test)) {
    tests::on_stage("namespaces", name, body);
}

/// A signed image of two layers, in the store, and its file.
struct World<'a> {
    t: &'a Test,
    file: PathBuf,
    id: String,
}

impl<'a> World<'a> {
    fn new(t: &'a Test) -> Self {
        let second = Layer::new().directory("etc", 0o755).file("etc/second", 0o644, b"second layer");
        let mut recipe = Recipe::new([probe_layer(&probe_bytes()), second]);
        recipe.entrypoint = vec!["/probe".into()];
        let file = t.signed(&recipe, NAME);
        let id = t.cli(["fetch".as_ref(), file.as_os_str()]).assert_ok().stdout.trim().to_owned();
        Self { t, file, id }
    }

    fn store(&self) -> PathBuf {
        self.t.data().join("images")
    }

    fn record(&self) -> PathBuf {
        self.store().join("images").join(&self.id[7..])
    }

    /// `layers/HEX` of the first or second layer.
    fn layer(&self, with: &str) -> PathBuf {
        let mut layers = fs::read_dir(self.store().join("layers")).unwrap().map(|entry| entry.unwrap().path());
        // What was set aside has an extension.
        layers
            .find(|path| path.extension().is_none() && path.join("root").join(with).exists())
            .unwrap_or_else(|| panic!("no layer has {with}"))
    }

    fn blob_of(&self, layer: &Path) -> PathBuf {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(layer.join("layer.json")).unwrap()).unwrap();
        self.store().join("blobs/sha256").join(&record["digest"].as_str().unwrap()[7..])
    }

    fn run(&self) -> Outcome {
        self.t.cli(["run", "--net=none", NAME, "--", "print", "ran"])
    }

    fn verify(&self) -> Outcome {
        self.t.cli(["image", "verify", &self.id])
    }

    /// `image verify` says what is wrong, and what it advises heals it: typed as it stands, but for the directories.
    #[track_caller]
    fn assert_seen_and_healed(&self, says: &str) {
        let outcome = self.verify();
        outcome.assert_refused(125, says);
        let hint = outcome.stderr.lines().find_map(|line| line.strip_prefix("hint: `pod "));
        let hint = hint.and_then(|hint| hint.split('`').next()).unwrap_or_else(|| panic!("no command: {outcome}"));
        self.t.cli(hint.split(' ')).assert_ok().assert_stdout(&self.id);
        self.verify().assert_ok();
        self.run().assert_ok().assert_stdout("ran");
    }
}

/// Changes the record as somebody would who knows its form.
fn edit_record(path: &Path, edit: impl Fn(&mut serde_json::Value)) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let mut record: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    edit(&mut record);
    let changed = record.to_string();
    let rest: Vec<String> = lines.map(|_| tests::image::digest(changed.as_bytes())).collect();
    fs::write(path, [vec![changed], rest].concat().join("\n") + if text.ends_with('\n') { "\n" } else { "" }).unwrap();
}

#[test]
fn a_changed_file_is_seen_and_healed() {
    on_host("a_changed_file_is_seen_and_healed", |t| {
        let world = World::new(t);
        world.verify().assert_ok();
        let file = world.layer("etc/passwd").join("root/etc/passwd");
        let mut text = fs::read(&file).unwrap();
        text[0] ^= 1;
        fs::write(&file, &text).unwrap();
        world.assert_seen_and_healed("etc/passwd` was changed");
        // Without a verification, and with a pod that keeps the damaged tree from being collected.
        fs::write(world.layer("etc/passwd").join("root/etc/passwd"), &text).unwrap();
        t.cli(["fetch".as_ref(), world.file.as_os_str()]).assert_ok();
        world.verify().assert_ok();
        t.cli(["image", "gc", "--grace-period=24h"]).assert_ok();
        world.verify().assert_ok();
    });
}

#[test]
fn added_and_missing_files_are_seen_and_healed() {
    on_host("added_and_missing_files_are_seen_and_healed", |t| {
        let world = World::new(t);
        fs::write(world.layer("etc/second").join("root/evil"), "x").unwrap();
        world.assert_seen_and_healed("evil` was changed");
        fs::remove_file(world.layer("etc/second").join("root/etc/second")).unwrap();
        world.assert_seen_and_healed("etc/second` was changed");
        fs::write(world.layer("etc/second").join("stranger"), "x").unwrap();
        world.assert_seen_and_healed("is none of the store's");
        let record = world.layer("etc/second").join("layer.json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace(r#""opaque_root":false"#, r#""opaque_root":true"#)).unwrap();
        world.assert_seen_and_healed("says something else");
        fs::write(&record, "{").unwrap();
        world.assert_seen_and_healed("layer");
    });
}

#[test]
fn a_tree_that_is_no_directory_of_the_store_does_not_run() {
    on_host("a_tree_that_is_no_directory_of_the_store_does_not_run", |t| {
        let world = World::new(t);
        let elsewhere = t.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("of-the-host"), "x").unwrap();
        let layer = world.layer("etc/second");
        // The root of the tree, then the directory of the layer.
        fs::rename(layer.join("root"), layer.join("moved")).unwrap();
        symlink(&elsewhere, layer.join("root")).unwrap();
        world.run().assert_refused(125, "is not a directory of the store").assert_stderr_has("pod fetch");
        world.assert_seen_and_healed("is not a directory of the store");
        let layer = world.layer("etc/second");
        let copy = t.path("copy");
        fs::create_dir(&copy).unwrap();
        fs::rename(layer.join("root"), copy.join("root")).unwrap();
        fs::rename(layer.join("layer.json"), copy.join("layer.json")).unwrap();
        fs::remove_dir_all(&layer).unwrap();
        symlink(&copy, &layer).unwrap();
        world.run().assert_refused(125, "is not a directory of the store");
        world.assert_seen_and_healed("is not a directory of the store");
        fs::remove_dir_all(world.layer("etc/second")).unwrap();
        world.run().assert_refused(125, "is not there");
        // What cannot run does not keep the others from being listed.
        t.cli(["image", "list"]).assert_ok().assert_stderr_has("is damaged");
        world.assert_seen_and_healed("is not there");
    });
}

#[test]
fn a_record_cannot_choose_the_trees() {
    on_host("a_record_cannot_choose_the_trees", |t| {
        let world = World::new(t);
        let second = world.layer("etc/second");
        let second = format!("sha256:{}", second.file_name().unwrap().to_string_lossy());
        // A tree too many, one too few, one instead of another: once a field of the record, now what follows from the
        // signed configuration.
        let lists = [vec![second.clone(), second.clone()], vec![second.clone()], vec![]];
        for list in lists {
            edit_record(&world.record(), |record| record["trees"] = serde_json::json!(list));
            world.run().assert_refused(125, "record of the image");
            world.assert_seen_and_healed("record of the image");
        }
        // Nor can it choose another configuration.
        edit_record(&world.record(), |record| record["config"] = serde_json::json!(second));
        world.run().assert_refused(125, "damaged");
        world.assert_seen_and_healed("damaged");
    });
}

#[test]
fn a_changed_record_or_blob_is_seen_and_healed() {
    on_host("a_changed_record_or_blob_is_seen_and_healed", |t| {
        let world = World::new(t);
        let text = fs::read_to_string(world.record()).unwrap();
        fs::write(world.record(), text.replace(r#""pinned":false"#, r#""pinned":true"#)).unwrap();
        world.run().assert_refused(125, "was changed");
        world.assert_seen_and_healed("was changed");
        // Where the image came from is not known any more, so the advice cannot name it.
        fs::write(world.record(), "{").unwrap();
        world.verify().assert_refused(125, "is not whole").assert_stderr_has("hint: ");
        t.cli(["image", "gc", "--grace-period=24h"]).assert_ok();
        t.cli(["image", "rm", &world.id]).assert_ok();
        t.cli(["fetch".as_ref(), world.file.as_os_str()]).assert_ok();
        world.verify().assert_ok();

        let manifest = world.store().join("blobs/sha256").join(&world.id[7..]);
        fs::write(&manifest, "{}").unwrap();
        world.run().assert_refused(125, "other content");
        world.assert_seen_and_healed("other content");
        fs::remove_file(&manifest).unwrap();
        world.run().assert_refused(125, "is not there");
        t.cli(["fetch".as_ref(), world.file.as_os_str()]).assert_ok();
        let blob = world.blob_of(&world.layer("etc/second"));
        let mut bytes = fs::read(&blob).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&blob, &bytes).unwrap();
        world.assert_seen_and_healed("blob");
        fs::write(&blob, &bytes[..bytes.len() / 2]).unwrap();
        world.assert_seen_and_healed("blob");
        fs::remove_file(&blob).unwrap();
        world.assert_seen_and_healed("blob");
    });
}

#[test]
fn a_name_that_leads_elsewhere_is_seen_and_healed() {
    on_host("a_name_that_leads_elsewhere_is_seen_and_healed", |t| {
        let world = World::new(t);
        let other = t.signed(&Recipe::new([probe_layer(&probe_bytes())]), "example.org/other:1");
        let other = t.cli(["fetch".as_ref(), other.as_os_str()]).assert_ok().stdout.trim().to_owned();
        let names = world.store().join("names");
        let lead = |link: &Path, id: &str| {
            let _ = fs::remove_file(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&id[7..], link).unwrap();
        };
        // Its own name leads to another image, which that other image's signature does not cover.
        lead(&names.join("example.com/app/@1"), &other);
        assert_ne!(world.run().code, 0);
        world.assert_seen_and_healed("does not carry it");
        // A name that nobody gave it leads to it.
        lead(&names.join("example.org/other/@2"), &world.id);
        world.assert_seen_and_healed("does not carry it");
        t.cli(["image", "verify", &other]).assert_ok();
    });
}

#[test]
fn a_changed_block_image_is_seen_and_made_again() {
    on_host("a_changed_block_image_is_seen_and_made_again", |t| {
        let world = World::new(t);
        // Preparing makes the block image and boots nothing.
        let prepare = || {
            let pod = t.cli(["prepare", "--stage1=kvm", "--net=none", NAME, "--", "print", "ran"]);
            pod.assert_ok().stdout.trim().to_owned()
        };
        let uuid = prepare();
        let block = world.store().join("block").join(format!("{}.erofs", &world.id[7..]));
        world.verify().assert_ok();
        assert!(world.verify().stdout.contains("block image"));
        let whole = fs::read(&block).unwrap();
        let mut changed = whole.clone();
        changed[2048] ^= 1;
        fs::write(&block, &changed).unwrap();
        world.verify().assert_refused(125, "block image");
        world.assert_seen_and_healed("was changed");
        assert!(!block.exists(), "it was not set aside");
        prepare();
        world.verify().assert_ok();
        // What a look can tell is not run: it is made again.
        for spoil in [
            |block: &Path| fs::write(block, "short").unwrap(),
            |block: &Path| {
                fs::rename(block, block.with_extension("moved")).unwrap();
                symlink(block.with_extension("moved"), block).unwrap();
            },
            |block: &Path| fs::remove_file(block.with_extension("json")).unwrap(),
        ] {
            spoil(&block);
            world.verify().assert_refused(125, "block image");
            prepare();
            world.verify().assert_ok();
            assert!(block.symlink_metadata().unwrap().is_file());
        }
        t.cli(["rm", &uuid]).assert_ok();
    });
}

#[test]
fn a_blob_is_not_lost_beside_an_ended_pod() {
    on_host("a_blob_is_not_lost_beside_an_ended_pod", |t| {
        let world = World::new(t);
        world.run().assert_ok();
        t.cli(["image", "rm", NAME]).assert_ok();
        t.cli(["image", "gc"]).assert_ok();
        t.cli(["fetch".as_ref(), world.file.as_os_str()]).assert_ok();
        world.verify().assert_ok();
        t.cli(["image".as_ref(), "export".as_ref(), NAME.as_ref(), t.path("out.pod").as_os_str()]).assert_ok();
        // A store that had lost it already.
        fs::remove_file(world.blob_of(&world.layer("etc/second"))).unwrap();
        t.cli(["run", "--net=none", &world.file.display().to_string(), "--", "print", "ran"]).assert_ok();
        world.verify().assert_ok();
    });
}

#[test]
fn the_image_of_a_prepared_pod_is_not_removed() {
    on_host("the_image_of_a_prepared_pod_is_not_removed", |t| {
        let world = World::new(t);
        let prepared = t.cli(["prepare", "--net=none", NAME, "--", "print", "ran"]);
        let uuid = prepared.assert_ok().stdout.trim().to_owned();
        let refused = t.cli(["image", "rm", NAME]);
        refused.assert_refused(125, &uuid).assert_stderr_has(&format!("`pod rm {uuid}`"));
        t.cli(["image", "gc", "--grace-period=0s"]).assert_ok();
        // What is wrong with it by then is seen, too.
        let layer = world.layer("etc/second");
        fs::rename(layer.join("root"), layer.join("moved")).unwrap();
        symlink(layer.join("moved"), layer.join("root")).unwrap();
        t.cli(["run-prepared", &uuid]).assert_refused(125, "is not a directory of the store");
        world.assert_seen_and_healed("is not a directory of the store");
        t.cli(["run-prepared", &uuid]).assert_ok().assert_stdout("ran");
        t.cli(["image", "rm", NAME]).assert_ok();
    });
}

#[test]
fn when_content_was_verified_is_shown() {
    on_host("when_content_was_verified_is_shown", |t| {
        let world = World::new(t);
        let shown = || t.cli(["image", "list", "--format=json"]).assert_ok().json()[0]["verified_unix_secs"].clone();
        let imported = shown().as_u64().expect("a time");
        for path in ["etc/passwd", "etc/second"].map(|with| world.layer(with).join("layer.json")) {
            let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            fs::File::options().write(true).open(path).unwrap().set_times(old).unwrap();
        }
        assert_eq!(shown().as_u64(), Some(0));
        world.run().assert_ok();
        assert_eq!(shown().as_u64(), Some(0), "a run does not read the content");
        world.verify().assert_ok();
        assert!(shown().as_u64() >= Some(imported));
        assert!(t.cli(["image", "list"]).assert_ok().stdout.contains("VERIFIED"));
    });
}
