//! Images going in and out of a store, with what goes wrong on the way.

use super::*;
use crate::reference::{NameReference, Source};
use crate::source::SourceImage;
use std::fs;

/// Unpacking gives files their owners.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skip: needs root");
    }
    root
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, body) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *body).expect("a Vec takes all");
    }
    builder.into_inner().expect("a Vec takes all")
}

fn archive(at: &Path, layers: &[Vec<u8>], tag: &str, diff_ids: Option<Vec<Digest>>) -> Source {
    let diff_ids = diff_ids.unwrap_or_else(|| layers.iter().map(|layer| Digest::of(layer)).collect());
    let config = serde_json::json!({
        "os": "linux", "architecture": crate::oci::host_architecture(), "config": { "Cmd": ["/x"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let names: Vec<_> = (0..layers.len()).map(|index| format!("{index}.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": names }]);
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let mut members: Vec<(&str, &[u8])> =
        vec![("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
    members.extend(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
    fs::write(at, tar_of(&members)).expect("a temporary file");
    Source::DockerArchive { path: at.to_owned(), tag: None }
}

fn import(store: &Store, source: &Source) -> Result<StoredImage, StoreError> {
    let image = SourceImage::open(source, crate::oci::host_architecture()).expect("a good source");
    let name = image.names[0].clone();
    let origin = Origin {
        source: source.to_string(),
        manifest: None,
        index: None,
        came: Vec::new(),
        pinned: false,
        insecure: true,
    };
    store.import(&image, &name.name, name.version.as_ref(), origin)
}

fn find(store: &Store, name: &str) -> Result<Digest, StoreError> {
    store.find_name(&NameReference::parse(name).expect("a good name"), crate::oci::host_architecture())
}

fn count(path: PathBuf) -> usize {
    fs::read_dir(path).expect("a directory of the store").count()
}

#[test]
fn images_share_layers_and_names_find_them() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let store = Store::open(&root).expect("a new store");
    let (base, one, two) = (tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")]), tar_of(&[("c", b"3")]));
    let file = directory.path().join("x.tar");
    let first = import(&store, &archive(&file, &[base.clone(), one.clone(), base.clone()], "example.com/app:1", None))
        .expect("imported");
    let second = import(&store, &archive(&file, &[base, two], "example.com/app:2", None)).expect("imported");
    // The same layer twice is stacked once, as the upper one.
    assert_eq!((first.layers.len(), second.layers.len(), count(root.join("layers"))), (2, 2, 3));
    assert_eq!(first.layers[1], second.layers[0]);
    assert_eq!(fs::read(first.layers[1].join("a")).expect("unpacked"), b"1");
    assert_eq!(find(&store, "example.com/app:1").ok(), Some(first.id));
    assert_eq!(find(&store, "example.com/app").ok(), Some(second.id));
    assert!(matches!(find(&store, "example.com/app:3"), Err(StoreError::Missing(_))));
    let prefix = |digits: &str| IdPrefix::parse(digits).expect("digits");
    assert_eq!(store.find_id(&prefix(&first.id.hex()[..12])).ok(), Some(first.id));
    store.remove(&second.id).expect("removed");
    assert_eq!(find(&store, "example.com/app").ok(), Some(first.id));
    assert!(matches!(store.image(&second.id), Err(StoreError::Missing(_))));
    assert_eq!(store.list().expect("listed").len(), 1);
}

#[test]
fn collection_keeps_what_pods_use() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let store = Store::open(&root).expect("a new store");
    let file = directory.path().join("x.tar");
    let image = import(&store, &archive(&file, &[tar_of(&[("a", b"1")])], "app:1", None)).expect("imported");
    // What a killed process leaves.
    fs::create_dir_all(root.join("tmp/x.tree/root")).expect("made");
    fs::write(root.join("blobs/sha256").join(Digest::of(b"x").hex()), "x").expect("made");
    let kept = store.alone().expect("locked").collect(Some(3600), &InUse::default()).expect("collected");
    assert_eq!((kept.images.len(), kept.layers, kept.blobs, kept.leftovers), (0, 0, 1, 1));
    assert!(store.image(&image.id).is_ok());
    let in_use = InUse { images: Default::default(), paths: image.layers.iter().cloned().collect() };
    let collected = store.alone().expect("locked").collect(Some(0), &in_use).expect("collected");
    assert_eq!((collected.images.len(), collected.layers), (1, 0));
    assert!(image.layers[0].join("a").exists());
    let collected = store.alone().expect("locked").collect(None, &InUse::default()).expect("collected");
    assert_eq!((collected.images.len(), collected.layers), (0, 1));
    for name in ["layers", "blobs/sha256", "images", "names", "tmp", "locks"] {
        assert_eq!(count(root.join(name)), 0, "{name}");
    }
}

#[test]
fn refused_layers_leave_nothing_visible() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let store = Store::open(&root).expect("a new store");
    let file = directory.path().join("x.tar");
    let good = tar_of(&[("a", b"1")]);
    let lie = archive(&file, std::slice::from_ref(&good), "app:1", Some(vec![Digest::of(b"other")]));
    assert!(matches!(import(&store, &lie), Err(StoreError::Layer { number: 1, .. })));
    let mut bad = tar_of(&[("b", b"2")]);
    bad[0..9].copy_from_slice(b"../canary");
    let broken = archive(&file, &[good, bad], "app:1", None);
    assert!(matches!(import(&store, &broken), Err(StoreError::Layer { number: 2, .. })));
    assert_eq!((count(root.join("images")), count(root.join("names"))), (0, 0));
    store.alone().expect("locked").collect(None, &InUse::default()).expect("collected");
    assert_eq!((count(root.join("layers")), count(root.join("tmp"))), (0, 0));
}

#[test]
fn two_imports_of_one_image_share_the_work() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let file = directory.path().join("x.tar");
    let layers: Vec<_> = (0..8_u8).map(|index| tar_of(&[("a", &vec![index; 100_000])])).collect();
    let source = archive(&file, &layers, "app:1", None);
    std::thread::scope(|scope| {
        let imports: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| import(&Store::open(&root).expect("a store"), &source).expect("imported").id))
            .collect();
        let ids: Vec<_> = imports.into_iter().map(|import| import.join().expect("no panic")).collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
    });
    assert_eq!((count(root.join("layers")), count(root.join("tmp"))), (8, 0));
}

#[test]
fn damage_is_found_and_exports_are_exact() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let store = Store::open(&root).expect("a new store");
    let file = directory.path().join("x.tar");
    let source = archive(&file, &[tar_of(&[("d/a", b"1"), ("d/b", b"2")])], "app:1", None);
    let image = import(&store, &source).expect("imported");
    assert_eq!(store.verify(&image.id).expect("checked").damage, Vec::new());
    let out = directory.path().join("app.pod");
    store.export(&image.id, &out).expect("exported");
    let other = Store::open(&directory.path().join("other")).expect("a new store");
    let exported = SourceImage::open(&Source::Pod(out), crate::oci::host_architecture()).expect("a native file");
    let origin = image.origin.clone();
    let again = other.import(&exported, &image.name, None, origin).expect("imported");
    assert_eq!(again.id, image.id);
    let plain = directory.path().join("plain");
    store.extract(&image.id, &plain).expect("extracted");
    assert_eq!(fs::read(plain.join("d/b")).expect("extracted"), b"2");
    fs::write(image.layers[0].join("d/b"), "3").expect("changed");
    assert!(store.verify(&image.id).expect("checked").damage[0].to_string().contains("d/b"));
    fs::write(store.blob_path(&image.id), b"{}").expect("changed");
    assert!(matches!(store.image(&image.id), Err(StoreError::Damaged(_))));
}

#[test]
fn an_opaque_root_ends_the_stack_and_trees_follow_from_the_configuration() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let store = Store::open(&root).expect("a new store");
    let (low, top) = (tar_of(&[("a", b"1")]), tar_of(&[("c", b"3")]));
    let opaque = tar_of(&[(".wh..wh..opq", b""), ("b", b"2")]);
    let file = directory.path().join("x.tar");
    let layers = [low.clone(), opaque.clone(), top.clone(), low.clone(), top.clone()];
    let image = import(&store, &archive(&file, &layers, "app:1", None)).expect("imported");
    let path = |layer: &[u8]| root.join("layers").join(Digest::of(layer).hex()).join("root");
    // The lowest is hidden by the opaque one, and stands again above it.
    assert_eq!(image.layers, [path(&opaque), path(&low), path(&top)]);
    let image = import(&store, &archive(&file, &[low, opaque.clone()], "app:2", None)).expect("imported");
    assert_eq!(image.layers, [path(&opaque)]);
    // A mark that was taken away shows what was hidden: it is part of the tree, so a verification sees it.
    let tree = File::open(path(&opaque)).expect("a tree");
    rustix::fs::fremovexattr(&tree, c"trusted.overlay.opaque").expect("root may");
    assert!(!store.verify(&image.id).expect("checked").damage.is_empty());
}

#[test]
fn a_mount_in_place_of_a_tree_is_refused() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("images")).expect("a new store");
    let file = directory.path().join("x.tar");
    let image = import(&store, &archive(&file, &[tar_of(&[("a", b"1")])], "app:1", None)).expect("imported");
    // In a mount namespace of this thread's own, so that nothing is left.
    let refused = std::thread::scope(|scope| {
        let mount = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
            let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", flags).expect("root may");
            let nodev = rustix::mount::MountFlags::NODEV;
            rustix::mount::mount("none", &image.layers[0], "tmpfs", nodev, None).expect("root may");
            store.image(&image.id)
        };
        scope.spawn(mount).join().expect("no panic")
    });
    assert!(matches!(refused, Err(StoreError::Damaged(why)) if why.contains("mount")));
    assert!(store.image(&image.id).is_ok());
}

#[test]
fn what_was_set_aside_stays_for_pods_that_run_from_it() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("images");
    let store = Store::open(&root).expect("a new store");
    let source = archive(&directory.path().join("x.tar"), &[tar_of(&[("a", b"1")])], "app:1", None);
    let image = import(&store, &source).expect("imported");
    fs::write(image.layers[0].join("a"), "2").expect("changed");
    let verified = store.verify(&image.id).expect("checked");
    store.set_aside(&image.id, &verified).expect("set aside");
    assert!(matches!(store.image(&image.id), Err(StoreError::Damaged(_))));
    import(&store, &source).expect("imported again");
    assert_eq!(fs::read(image.layers[0].join("a")).expect("unpacked"), b"1");
    let in_use = InUse { images: Default::default(), paths: image.layers.iter().cloned().collect() };
    store.alone().expect("locked").collect(None, &in_use).expect("collected");
    assert_eq!(count(root.join("layers")), 2);
    store.alone().expect("locked").collect(None, &InUse::default()).expect("collected");
    assert_eq!(count(root.join("layers")), 1);
    assert!(store.verify(&image.id).expect("checked").damage.is_empty());
}

#[test]
fn extended_attributes_are_compared_and_extracted() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(&directory.path().join("images")).expect("a new store");
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_pax_extensions([("SCHILY.xattr.user.note", &b"good"[..])]).expect("a Vec takes all");
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o755);
    layer.append_data(&mut header, "program", &b""[..]).expect("a Vec takes all");
    let layer = layer.into_inner().expect("a Vec takes all");
    let source = archive(&directory.path().join("x.tar"), &[layer], "app:1", None);
    let image = import(&store, &source).expect("imported");
    let note = |root: &Path| {
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(root.join("program"), c"user.note", &mut value[..]).expect("an attribute");
        value[..len].to_vec()
    };
    assert_eq!(note(&image.layers[0]), b"good");
    let plain = directory.path().join("plain");
    store.extract(&image.id, &plain).expect("extracted");
    assert_eq!(note(&plain), b"good");
    // As a file capability would be, which makes a program more than it was.
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(image.layers[0].join("program"), c"user.note", b"evil", flags).expect("root may");
    assert!(store.verify(&image.id).expect("checked").damage[0].to_string().contains("program"));
}
