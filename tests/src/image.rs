//! Image sources made in memory: layers as tar archives, written out as an OCI layout or as `docker save` would.
//!
//! Everything is deterministic (times are 0), and nothing is checked: hostile images are made with the same functions.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tar::{EntryType, Header};

/// One layer, uncompressed.
#[derive(Clone)]
pub struct Layer {
    bytes: Vec<u8>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// An empty layer.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Adds an entry of any kind. `name` is written as it is, with `..`, a leading slash or whatever it has.
    #[must_use]
    pub fn entry(self, kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        self.owned_entry(kind, name, link, (mode, 0, 0), content)
    }

    fn owned_entry(self, kind: EntryType, name: &str, link: &str, owner: (u32, u32, u32), content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(owner.0);
        header.set_uid(owner.1.into());
        header.set_gid(owner.2.into());
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        let long = name.len() > 100 || link.len() > 100;
        if !long {
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        let layer = if long { self.pax(&[("path", name.as_bytes()), ("linkpath", link.as_bytes())]) } else { self };
        layer.raw(&header, content)
    }

    /// Adds PAX records for the next entry; empty values are left out.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records.iter().filter(|(_, value)| !value.is_empty()) {
            // The length counts itself, so it is found by trying.
            let rest = key.len() + value.len() + 3;
            let length = (1..8).map(|digits| rest + digits).find(|length| rest + length.to_string().len() == *length);
            content.extend_from_slice(format!("{} {key}=", length.expect("a record is short")).as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.owned_entry(EntryType::XHeader, "pax", "", (0o644, 0, 0), &content)
    }

    /// Adds a header and content as they are, padded to whole blocks.
    #[must_use]
    pub fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// A regular file of root.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.file_of(name, mode, 0, 0, content)
    }

    /// A regular file with an owner.
    #[must_use]
    pub fn file_of(self, name: &str, mode: u32, uid: u32, gid: u32, content: &[u8]) -> Self {
        self.owned_entry(EntryType::Regular, name, "", (mode, uid, gid), content)
    }

    /// A directory of root.
    #[must_use]
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.directory_of(name, mode, 0, 0)
    }

    /// A directory with an owner.
    #[must_use]
    pub fn directory_of(self, name: &str, mode: u32, uid: u32, gid: u32) -> Self {
        self.owned_entry(EntryType::Directory, &format!("{name}/"), "", (mode, uid, gid), b"")
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }

    /// The removal of a name of a lower layer.
    #[must_use]
    pub fn whiteout(self, name: &str) -> Self {
        let path = Path::new(name);
        let last = path.file_name().map(|last| last.to_string_lossy().into_owned()).unwrap_or_default();
        self.file(&path.with_file_name(format!(".wh.{last}")).to_string_lossy(), 0o644, b"")
    }

    /// A directory that hides what lower layers have in it.
    #[must_use]
    pub fn opaque(self, name: &str) -> Self {
        self.directory(name, 0o755).file(&format!("{name}/.wh..wh..opq"), 0o644, b"")
    }

    /// The archive, with its end marker.
    pub fn tar(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// An image: layers and the configuration that Docker and OCI share.
pub struct Recipe {
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub arguments: Vec<String>,
    /// `Env`, each `NAME=VALUE`.
    pub environment: Vec<String>,
    /// `User`.
    pub user: String,
    /// `WorkingDir`.
    pub working_directory: String,
    /// `Volumes`.
    pub volumes: Vec<String>,
    /// `ExposedPorts`, each `80/tcp`.
    pub ports: Vec<String>,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
}

impl Recipe {
    /// An image of these layers that says nothing about how it is run.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            layers: layers.into_iter().collect(),
            entrypoint: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            user: String::new(),
            working_directory: String::new(),
            volumes: Vec::new(),
            ports: Vec::new(),
            stop_signal: None,
            labels: BTreeMap::new(),
        }
    }

    /// The image configuration document.
    pub fn configuration(&self) -> Value {
        let set = |names: &[String]| names.iter().map(|name| (name.clone(), json!({}))).collect();
        let mut config = json!({
            "Entrypoint": self.entrypoint,
            "Cmd": self.arguments,
            "Env": self.environment,
            "User": self.user,
            "WorkingDir": self.working_directory,
            "Volumes": Value::Object(set(&self.volumes)),
            "ExposedPorts": Value::Object(set(&self.ports)),
            "Labels": self.labels,
        });
        if let Some(signal) = &self.stop_signal {
            config["StopSignal"] = json!(signal);
        }
        let layers: Vec<String> = self.layers.iter().map(|layer| digest(&layer.tar())).collect();
        json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": layers },
            "history": [],
        })
    }

    /// Writes an OCI image layout with one manifest, tagged `latest`.
    pub fn oci_layout(&self, directory: &Path) -> Result<()> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let blob = |bytes: &[u8], kind: &str| -> Result<Value> {
            let digest = digest(bytes);
            fs::write(blobs.join(&digest[7..]), bytes)?;
            Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
        };
        let mut layers = Vec::new();
        for layer in &self.layers {
            layers.push(blob(&layer.tar(), "application/vnd.oci.image.layer.v1.tar")?);
        }
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = blob(&serde_json::to_vec(&self.configuration())?, kind)?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let mut manifest = blob(&serde_json::to_vec(&manifest)?, kind)?;
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }

    /// Writes what `docker save NAME:latest` writes.
    pub fn docker_archive(&self, file: &Path) -> Result<()> {
        let config = serde_json::to_vec(&self.configuration())?;
        let config_name = format!("{}.json", &digest(&config)[7..]);
        let mut archive = Layer::new();
        let mut names = Vec::new();
        for layer in &self.layers {
            let tar = layer.tar();
            let name = format!("{}/layer.tar", &digest(&tar)[7..]);
            // Two layers of the same content are one file.
            if !names.contains(&name) {
                archive = archive.file(&name, 0o644, &tar);
            }
            names.push(name);
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": ["test:latest"], "Layers": names }]);
        let archive =
            archive.file(&config_name, 0o644, &config).file("manifest.json", 0o644, &serde_json::to_vec(&manifest)?);
        fs::write(file, archive.tar())?;
        Ok(())
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{sum}")
}
