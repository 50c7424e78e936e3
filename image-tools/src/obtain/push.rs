//! Sending an image of the store to a registry, with its signatures.
//!
//! What is sent is an index with two manifests over the same layers: the native one, to which the signatures refer, and one
//! with an ordinary OCI configuration, so that other tools can pull and run the image. They take the first entry that is
//! for their platform; `pod` takes the one of the native artifact type.

use super::{Images, Insecure, ObtainError};
use crate::config::{App, ImageConfig, Layer, Protocol};
use crate::digest::Digest;
use crate::name::Version;
use crate::oci::{self, Descriptor, Index, Manifest, Platform};
use crate::reference::NameReference;
use crate::registry::{NATIVE_TYPE, Registry, RegistryError, Repository};
use crate::source::parse_native;
use crate::store::StoredImage;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Cursor;

impl Images {
    /// Sends the image and its signatures, and returns the digest that the tag names afterwards. What the registry has
    /// already is not sent again; the tag is set last.
    ///
    /// # Errors
    /// A reference with a digest, which only the registry can make, and whatever the registry refuses.
    pub fn push(&self, image: &StoredImage, to: &NameReference, insecure: Insecure) -> Result<Digest, ObtainError> {
        if to.digest.is_some() {
            let what = format!("push to `{to}`: a digest is the result of a push");
            return Err(RegistryError::Local { what, source: std::io::ErrorKind::InvalidInput.into() }.into());
        }
        let registry = Registry::new(self.registry_settings(insecure)?)?;
        let repository = registry.repository(&crate::cosign::canonical_name(&to.name))?;
        let manifest = self.store.blob(&image.id, oci::BYTES_MAX)?;
        let config = image.config.to_bytes();
        let (parsed, _) = parse_native(&manifest, &config)?;
        for layer in &parsed.layers {
            let path = self.store.blob_path(&layer.digest);
            repository.push_blob(&layer.digest, layer.size, || File::open(path))?;
        }
        let foreign_config = oci_config(&image.config);
        let foreign = oci_manifest(&parsed, &foreign_config);
        push_bytes(&repository, &config)?;
        push_bytes(&repository, &foreign_config)?;
        for bytes in [&manifest, &foreign] {
            repository.push_manifest(&Digest::of(bytes).to_string(), oci::MANIFEST, bytes)?;
        }
        self.push_signatures(&repository, image, manifest.len() as u64)?;
        let index = index(&image.config, &manifest, &foreign);
        let latest = Version::latest();
        let tag = to.version.as_ref().or(image.version.as_ref()).unwrap_or(&latest);
        repository.push_manifest(tag.as_str(), oci::INDEX, &index)?;
        Ok(Digest::of(&index))
    }

    /// Signatures that are about the native manifest; those of the image it was converted from say nothing about it.
    fn push_signatures(
        &self,
        repository: &Repository,
        image: &StoredImage,
        manifest_bytes: u64,
    ) -> Result<(), ObtainError> {
        if image.origin.manifest.is_some() {
            return Ok(());
        }
        for signature in &image.signatures {
            // cosign's older form is not about a manifest of its own; it is read and never written.
            let Ok(artifact) = signature.to_artifact(&image.id, manifest_bytes) else { continue };
            for (_, bytes) in &artifact.blobs {
                push_bytes(repository, bytes)?;
            }
            repository.push_referrer(&image.id, artifact.artifact_type, oci::MANIFEST, &artifact.manifest)?;
        }
        Ok(())
    }
}

fn push_bytes(repository: &Repository, bytes: &[u8]) -> Result<(), ObtainError> {
    repository.push_blob(&Digest::of(bytes), bytes.len() as u64, || Ok(Cursor::new(bytes)))?;
    Ok(())
}

fn index(config: &ImageConfig, native: &[u8], foreign: &[u8]) -> Vec<u8> {
    let platform = Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant: None };
    let entry = |bytes: &[u8], artifact_type: Option<&str>| Descriptor {
        platform: Some(platform.clone()),
        artifact_type: artifact_type.map(str::to_owned),
        ..Descriptor::of(oci::MANIFEST, bytes)
    };
    let manifests = vec![entry(foreign, None), entry(native, Some(NATIVE_TYPE))];
    let index = Index { schema_version: 2, media_type: Some(oci::INDEX.to_owned()), manifests, annotations: None };
    serde_json::to_vec(&index).expect("strings and numbers always serialise")
}

fn oci_manifest(native: &Manifest, config: &[u8]) -> Vec<u8> {
    let manifest = Manifest { config: Descriptor::of(oci::CONFIG, config), ..native.clone() };
    serde_json::to_vec(&manifest).expect("strings and numbers always serialise")
}

/// The configuration in the words of the OCI image specification, as far as it has them.
fn oci_config(config: &ImageConfig) -> Vec<u8> {
    let diff_ids: Vec<Digest> = config.layers.iter().map(Layer::diff_id).collect();
    let mut document = json!({
        "architecture": config.architecture,
        "os": config.os,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut execution = config.app.as_ref().map_or_else(Map::new, execution);
    if !config.labels.is_empty() {
        execution.insert("Labels".to_owned(), json!(config.labels));
    }
    document["config"] = Value::Object(execution);
    if let Some(created) = &config.created {
        document["created"] = json!(created);
    }
    serde_json::to_vec(&document).expect("strings and numbers always serialise")
}

fn execution(app: &App) -> Map<String, Value> {
    let user = match &app.group {
        Some(group) => format!("{}:{group}", app.user),
        None => app.user.clone(),
    };
    let environment: Vec<String> = app.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let entrypoint_end = app.default_arguments_at.unwrap_or(app.exec.len()).min(app.exec.len());
    let (entrypoint, arguments) = app.exec.split_at(entrypoint_end);
    let mut ports = Map::new();
    for port in &app.ports {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        for number in port.port..=port.port.saturating_add(port.count - 1) {
            ports.insert(format!("{number}/{protocol}"), json!({}));
        }
    }
    let volumes: Map<String, Value> = app.mount_points.iter().map(|point| (point.path.clone(), json!({}))).collect();
    let fields = [
        ("User", json!(user), true),
        ("WorkingDir", json!(app.working_directory), true),
        ("Env", json!(environment), !environment.is_empty()),
        ("Entrypoint", json!(entrypoint), !entrypoint.is_empty()),
        ("Cmd", json!(arguments), !arguments.is_empty()),
        ("StopSignal", json!(app.stop_signal), app.stop_signal.is_some()),
        ("ExposedPorts", Value::Object(ports.clone()), !ports.is_empty()),
        ("Volumes", Value::Object(volumes.clone()), !volumes.is_empty()),
    ];
    fields.into_iter().filter(|(_, _, present)| *present).map(|(name, value, _)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{describe, docker_config};

    #[test]
    fn the_configuration_survives_the_words_of_oci() {
        let text = json!({
            "os": "linux", "architecture": "amd64", "created": "2026-01-01T00:00:00Z",
            "config": {
                "User": "nobody:100", "WorkingDir": "/srv", "Env": ["PATH=/bin", "A=b=c"],
                "Entrypoint": ["/app", "-v"], "Cmd": ["serve"], "StopSignal": "SIGQUIT",
                "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"x": "y"},
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"layer")]},
        });
        let parse = |bytes: &[u8]| docker_config::parse(bytes).expect("a good configuration");
        let (description, diff_ids) = parse(text.to_string().as_bytes());
        let name = crate::name::ImageName::parse("a").expect("name");
        let config = describe(description.clone(), name, None, &diff_ids);
        assert_eq!(parse(&oci_config(&config)), (description, diff_ids));
    }
}
