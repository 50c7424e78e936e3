//! A registry whose disk was changed: every blob that it has, byte for byte.

use crate::forged::Forged;
use crate::registry_test;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// All blobs of the registry.
fn blobs(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            blobs(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

registry_test!(one_changed_byte_on_the_registrys_disk_is_refused, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let file = w.image("team/app:1", "app");
    w.t.sign(&file, &key);
    let id = w.push(&file, "team/app:1");
    // What a judgement and a run read, by digest; the manifest for other tools and its configuration are not among it.
    let forged = Forged::open(&file);
    let mut parts = BTreeMap::new();
    let mut add = |name: &str, descriptor: &serde_json::Value| {
        parts.insert(descriptor["digest"].as_str().unwrap().to_owned(), name.to_owned());
    };
    let (image, signature) = (forged.image(), forged.index["manifests"][1].clone());
    let (manifest, signature_manifest) = (forged.json(&image), forged.json(&signature));
    add("manifest", &image);
    add("configuration", &manifest["config"]);
    for layer in manifest["layers"].as_array().unwrap() {
        add("layer", layer);
    }
    add("signature's manifest", &signature);
    add("statement", &signature_manifest["layers"][0]);
    add("signature", &signature_manifest["layers"][1]);
    let mut files = Vec::new();
    blobs(&w.server.directory.join("storage/docker/registry/v2/blobs"), &mut files);
    let mut seen = 0;
    for blob in files {
        let whole = fs::read(&blob).unwrap();
        let digest = tests::image::digest(&whole);
        let part = parts.get(&digest);
        seen += usize::from(part.is_some());
        for position in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            fs::write(&blob, &changed).unwrap();
            w.forget();
            let outcome = w.t.cli(["fetch", &w.place("team/app:1")]);
            let shown = part.map_or("something else", String::as_str);
            match part {
                Some(_) => outcome.assert_exit(125),
                // An index may say the same with a byte changed. Then it is what was signed, and nothing else.
                None if outcome.code == 0 => outcome.assert_stdout(&id),
                None => outcome.assert_exit(125),
            };
            assert!(!outcome.stderr.contains("panicked"), "{shown} byte {position}: {outcome}");
        }
        fs::write(&blob, whole).unwrap();
    }
    assert_eq!(seen, parts.len(), "a part of the image was not found at the registry");
    w.accepted("team/app:1");
});
