//! Sending an image of the store to a registry, with its signatures.
//!
//! What is sent is an index with two manifests over the same layers: the native one, to which the signatures refer, and one
//! with an ordinary OCI configuration, so that other tools can pull and run the image. They take the first entry that is
//! for their platform; `pod` takes the one of the native artifact type.

use super::{Images, Insecure, ObtainError};
use crate::config::{App, ImageConfig, Port, Protocol};
use crate::digest::Digest;
use crate::name::{ImageName, Version};
use crate::oci::{self, Descriptor, Index, Manifest, Platform};
use crate::reference::NameReference;
use crate::registry::{NATIVE_TYPE, Registry, RegistryError, Repository};
use crate::signature::Signature;
use crate::source::parse_native;
use crate::statement::Statement;
use crate::store::StoredImage;
use crate::trust::decide::same_name;
use oci_spec::image as spec;
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

    /// Whether `pod` will take the image at that place as what it is called there: it calls itself so, a signature calls it so,
    /// or the place is a mirror of its own registry. Other tools do not ask.
    ///
    /// # Errors
    /// Settings of registries that cannot be read.
    pub fn is_known_as(&self, image: &StoredImage, to: &NameReference) -> Result<bool, ObtainError> {
        let tag = to.version.as_ref().filter(|tag| **tag != Version::latest());
        let answers = |name: &ImageName, version: Option<&Version>| {
            same_name(name, &to.name) && (tag.is_none() || tag == version)
        };
        if answers(&image.name, image.version.as_ref()) {
            return Ok(true);
        }
        // What a statement says is not verified here; whoever fetches the image does that.
        let statements = image.signatures.iter().filter_map(|signature| match signature {
            Signature::Pod { statement, .. } => Statement::parse(statement.as_bytes()).ok(),
            _ => None,
        });
        let mut subjects = statements.map(|statement| statement.subject);
        if subjects.any(|signed| answers(&signed.name, signed.version.as_ref())) {
            return Ok(true);
        }
        let registry = Registry::new(self.registry_settings(Insecure::default())?)?;
        let here = |place: &ImageName| same_name(place, &to.name) && (tag.is_none() || tag == image.version.as_ref());
        Ok(registry.repository(&crate::cosign::canonical_name(&image.name))?.mirrors().any(|place| here(&place)))
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
    let layers: Vec<String> = config.layers.iter().map(|layer| layer.diff_id().to_string()).collect();
    let mut execution = config.app.as_ref().map_or_else(spec::Config::default, execution);
    if !config.labels.is_empty() {
        execution.set_labels(Some(config.labels.clone().into_iter().collect()));
    }
    let mut document = spec::ImageConfiguration::default();
    document
        .set_architecture(config.architecture.as_str().into())
        .set_os(config.os.as_str().into())
        .set_created(config.created.clone())
        .set_config(Some(execution))
        .set_rootfs(
            spec::RootFsBuilder::default().typ("layers").diff_ids(layers).build().expect("no field is missing"),
        );
    // By way of a value, whose maps are sorted: the specification's own have no order, and the digest must not change.
    let sorted = serde_json::to_value(&document).expect("strings and numbers always serialise");
    serde_json::to_vec(&sorted).expect("a value always serialises")
}

fn execution(app: &App) -> spec::Config {
    let user = match &app.group {
        Some(group) => format!("{}:{group}", app.user),
        None => app.user.clone(),
    };
    let environment = app.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let entrypoint_end = app.default_arguments_at.unwrap_or(app.exec.len()).min(app.exec.len());
    let (entrypoint, arguments) = app.exec.split_at(entrypoint_end);
    let present = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    let mut config = spec::Config::default();
    config
        .set_user(Some(user))
        .set_working_dir(Some(app.working_directory.clone()))
        .set_env(present(environment))
        .set_entrypoint(present(entrypoint.to_vec()))
        .set_cmd(present(arguments.to_vec()))
        .set_stop_signal(app.stop_signal.clone())
        .set_exposed_ports(present(app.ports.iter().flat_map(exposed).collect()))
        .set_volumes(present(app.mount_points.iter().map(|point| point.path.clone()).collect()));
    config
}

/// `80/tcp`, one for each port of a range.
fn exposed(port: &Port) -> impl Iterator<Item = String> {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    (port.port..=port.port.saturating_add(port.count - 1)).map(move |number| format!("{number}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{describe, docker_config};
    use serde_json::json;

    #[test]
    fn the_configuration_has_one_form() {
        let labels: serde_json::Map<_, _> = (0..40).map(|n| (format!("label-{n}"), json!("x"))).collect();
        let ports: serde_json::Map<_, _> = (1..40).map(|n| (format!("{n}/tcp"), json!({}))).collect();
        let text = json!({
            "os": "linux", "architecture": "amd64", "config": { "Labels": labels, "ExposedPorts": ports },
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let (description, _) = docker_config::parse(text.to_string().as_bytes()).expect("a good configuration");
        let config = describe(description, ImageName::parse("a").expect("name"), None, &[]);
        assert_eq!(oci_config(&config), oci_config(&config.clone()));
    }

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
        let name = ImageName::parse("a").expect("name");
        let config = describe(description.clone(), name, None, &diff_ids);
        assert_eq!(parse(&oci_config(&config)), (description, diff_ids));
    }
}
