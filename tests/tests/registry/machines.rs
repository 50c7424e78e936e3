//! Images for other machines: fetched when asked for, kept beside those of this one, never run, never taken for another's.

use crate::{World, registry_test};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tests::{Key, probe_bytes, probe_recipe};

const NAME: &str = "team/app:1";

fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn elsewhere() -> &'static str {
    if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" }
}

/// A signed native image of this architecture. (Its program is this machine's; nobody looks.)
fn signed_for(w: &World<'_>, key: &Key, architecture: &str) -> PathBuf {
    let layout = w.t.path(&format!("layout-{architecture}"));
    probe_recipe(&probe_bytes()).oci_layout(&layout).unwrap();
    let blob = |digest: &Value| layout.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let write = |descriptor: &mut Value, document: &Value| {
        let bytes = document.to_string();
        descriptor["digest"] = json!(tests::image::digest(bytes.as_bytes()));
        descriptor["size"] = json!(bytes.len());
        fs::write(blob(&descriptor["digest"]), bytes).unwrap();
    };
    let mut index = read(layout.join("index.json"));
    let mut manifest = read(blob(&index["manifests"][0]["digest"]));
    let mut configuration = read(blob(&manifest["config"]["digest"]));
    configuration["architecture"] = json!(architecture);
    write(&mut manifest["config"], &configuration);
    write(&mut index["manifests"][0], &manifest);
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let file = w.t.path(&format!("{architecture}.pod"));
    let source = format!("oci:{}", layout.display());
    w.t.tools(["convert", &source, &file.display().to_string(), "--name", &w.name(NAME)]).assert_ok();
    w.t.sign(&file, key);
    file
}

/// Pushes an image of any architecture.
fn push(w: &World<'_>, file: &Path, architecture: &str, to: &str) -> String {
    let arch = format!("--arch={architecture}");
    let id = w.publisher(&["fetch", &arch, &file.display().to_string()]).assert_ok().stdout.trim().to_owned();
    w.publisher(&["image", "push", &id, &w.place(to)]).assert_ok();
    id
}

registry_test!(images_for_other_machines_are_fetched_when_asked_for, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let other = signed_for(w, &key, elsewhere());
    let file = other.display().to_string();
    w.run(&file).assert_refused(125, &format!("is for linux on {}, this machine is linux on {}", elsewhere(), here()));
    let other_id = push(w, &other, elsewhere(), NAME);
    w.refused(NAME, &format!("linux/{}", elsewhere()));
    let own_id = push(w, &signed_for(w, &key, here()), here(), NAME);
    // One index of both, as publishers make it.
    add_to_index(w, &other_id);
    w.accepted(NAME);
    let fetch = |arch: &str| w.t.cli(["fetch", &format!("--arch={arch}"), &w.place(NAME)]);
    fetch(elsewhere()).assert_ok().assert_stdout(&other_id);
    let kernels_name = if elsewhere() == "arm64" { "aarch64" } else { "x86_64" };
    fetch(kernels_name).assert_ok().assert_stdout(&other_id);
    // The name means what it meant here, and the other one is known by its id, and runs by none.
    w.run(&w.name(NAME)).assert_exit(0).assert_stdout("ran");
    w.run(&other_id).assert_refused(125, &format!("is for linux on {}", elsewhere()));
    let listed = w.t.cli(["image", "list", "--format=json"]).assert_ok().stdout.clone();
    assert!(listed.contains(&own_id) && listed.contains(&other_id), "{listed}");
    let arch = format!("--arch={}", elsewhere());
    w.t.cli(["fetch", "--pull-policy=never", &arch, &w.name(NAME)]).assert_ok().assert_stdout(&other_id);
    w.t.cli(["fetch", "--pull-policy=never", &w.name(NAME)]).assert_ok().assert_stdout(&own_id);
    // Removing one leaves the name of the other.
    w.t.cli(["image", "rm", &own_id]).assert_ok();
    w.t.cli(["fetch", "--pull-policy=never", &w.name(NAME)]).assert_refused(125, "is not in the store");
    w.t.cli(["fetch", "--pull-policy=never", &arch, &w.name(NAME)]).assert_ok().assert_stdout(&other_id);
    fetch("s390x").assert_refused(125, "s390x");
    fetch("arm64/..").assert_refused(2, "an architecture is written as");
});

/// Adds the entries of the image to the index that the tag names, where the registry keeps it.
fn add_to_index(w: &World<'_>, id: &str) {
    let path = w.blob_file(&w.tagged("team/app", "1"));
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut entry = index["manifests"][1].clone();
    entry["digest"] = json!(id);
    entry["size"] = json!(fs::metadata(w.blob_file(id)).unwrap().len());
    entry["platform"]["architecture"] = json!(elsewhere());
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(path, index.to_string()).unwrap();
}

registry_test!(another_machines_image_is_not_taken_for_this_ones, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    push(w, &signed_for(w, &key, elsewhere()), elsewhere(), NAME);
    // The registry says that the image for the other machine is for this one.
    let path = w.blob_file(&w.tagged("team/app", "1"));
    let index = fs::read_to_string(&path).unwrap();
    fs::write(&path, index.replace(elsewhere(), here())).unwrap();
    w.refused(NAME, &format!("is for linux on {}, this machine is linux on {}", elsewhere(), here()));
});
