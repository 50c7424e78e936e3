//! Native image files that were changed so that all their digests are right again: what a liar would make.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use tests::image::{Layer, digest};

/// A native image taken apart.
pub(crate) struct Forged {
    blobs: BTreeMap<String, Vec<u8>>,
    marker: Vec<u8>,
    /// `index.json`: the image first, its signatures behind it.
    pub(crate) index: Value,
}

impl Forged {
    pub(crate) fn open(file: &Path) -> Self {
        let mut archive = tar::Archive::new(std::fs::File::open(file).unwrap());
        let mut forged = Self { blobs: BTreeMap::new(), marker: Vec::new(), index: Value::Null };
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            match name.as_str() {
                "index.json" => forged.index = serde_json::from_slice(&content).unwrap(),
                "oci-layout" => forged.marker = content,
                _ if content.is_empty() => {}
                _ => drop(forged.blobs.insert(digest(&content), content)),
            }
        }
        forged
    }

    /// The content that a descriptor names.
    pub(crate) fn blob(&self, descriptor: &Value) -> &[u8] {
        &self.blobs[descriptor["digest"].as_str().unwrap()]
    }

    /// The JSON that a descriptor names.
    pub(crate) fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(self.blob(descriptor)).unwrap()
    }

    /// Other content, and a descriptor that is true of it.
    pub(crate) fn put(&mut self, descriptor: &mut Value, content: &[u8]) {
        descriptor["digest"] = json!(digest(content));
        descriptor["size"] = json!(content.len());
        self.blobs.insert(digest(content), content.to_vec());
    }

    /// The image's own descriptor.
    pub(crate) fn image(&self) -> Value {
        self.index["manifests"][0].clone()
    }

    /// Changes the first signature: its manifest and each of its blobs pass through `change`, and are digested anew.
    pub(crate) fn change_signature(&mut self, change: impl Fn(&mut Value, &mut Vec<Vec<u8>>)) {
        let mut descriptor = self.index["manifests"][1].clone();
        let mut manifest = self.json(&descriptor);
        let mut layers = manifest["layers"].as_array().unwrap().clone();
        let mut contents: Vec<Vec<u8>> = layers.iter().map(|layer| self.blob(layer).to_vec()).collect();
        change(&mut manifest, &mut contents);
        for (layer, content) in layers.iter_mut().zip(&contents) {
            self.put(layer, content);
        }
        manifest["layers"] = json!(layers);
        self.put(&mut descriptor, manifest.to_string().as_bytes());
        self.index["manifests"][1] = descriptor;
    }

    /// Takes the signature of another image, said to be of this one.
    pub(crate) fn take_signature(&mut self, other: &Self) {
        self.blobs.extend(other.blobs.clone());
        let image = self.image();
        self.index["manifests"] = json!([image, other.index["manifests"][1]]);
        self.change_signature(|manifest, _| {
            manifest["subject"]["digest"] = image["digest"].clone();
            manifest["subject"]["size"] = image["size"].clone();
        });
    }

    pub(crate) fn write(&self, file: &Path) {
        let mut archive = Layer::new().file("oci-layout", 0o644, &self.marker);
        archive = archive.file("index.json", 0o644, self.index.to_string().as_bytes());
        for (name, content) in &self.blobs {
            archive = archive.file(&format!("blobs/sha256/{}", &name[7..]), 0o644, content);
        }
        std::fs::write(file, archive.tar()).unwrap();
    }
}
