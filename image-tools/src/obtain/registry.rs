//! Images of registries: what a name means there, whether it may run, and only then its layers.
//!
//! Everything a judgement needs is small (manifest, configuration, signatures) and is read first, so nothing of an image
//! that nobody trusts is downloaded, let alone unpacked. Layers then go through the store's one pass, several at a time.

use super::{Claim, Images, Insecure, ObtainError, Obtained, PullPolicy, Terms, Trust, check_platform};
use crate::config::{self, Layer};
use crate::cosign::canonical_name;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::name::{ImageName, Version};
use crate::oci::{self, Descriptor, Manifest};
use crate::pipeline::Expected;
use crate::progress::Progress;
use crate::reference::NameReference;
use crate::registry::{Platform, Registry, RemoteImage, Repository, Settings};
use crate::signature::Signature;
use crate::source::{Content, Description, SourceError, describe, docker_config, native_manifest, parse_native};
use crate::statement::Subject;
use crate::store::{Documents, Incoming, Origin, StoredImage};
use std::io::{self, Read};

/// An image at a registry whose small documents are here.
struct Remote {
    image: RemoteImage,
    manifest: Manifest,
    content: Content,
    diff_ids: Vec<Digest>,
    subject: Subject,
}

impl Images {
    /// Fetches an image by name from its registry, as far as it is not in the store.
    pub(super) fn fetch_registry(&self, wanted: &NameReference, terms: &Terms) -> Result<Obtained, ObtainError> {
        let Terms { pull, insecure, ref platform } = *terms;
        if pull == PullPolicy::Never {
            return Err(ObtainError::Absent(wanted.to_string()));
        }
        let registry = Registry::new(self.registry_settings(insecure)?)?;
        let repository = registry.repository(&canonical_name(&wanted.name))?;
        let remote = inspect(&repository, wanted, platform)?;
        check_platform(&remote.subject.name, &remote.subject.os, &remote.subject.architecture, platform)?;
        let foreign = self.policy.takes_foreign(&remote.subject);
        let signatures = super::signatures::find(&repository, &remote.image, foreign)?;
        let claim =
            Claim { subject: &remote.subject, signatures: &signatures, pinned: wanted.digest.is_some(), insecure };
        let (trust, audit) = self.judge(&claim)?;
        let image = self.take(&repository, &remote, signatures, wanted, &trust)?;
        self.store.touch(&image.id);
        Ok(Obtained { image, trust, audit })
    }

    /// How to reach registries, as the administrator and the vendor say, and as this one run allows.
    pub(super) fn registry_settings(&self, insecure: Insecure) -> Result<Settings, ObtainError> {
        let mut settings = Settings::load(&self.policy.dirs().configuration())?;
        settings.insecure_tls = insecure.tls;
        settings.plain_http = insecure.http;
        Ok(settings)
    }

    /// Brings the layers into the store, and the image when they are all there.
    fn take(
        &self,
        repository: &Repository,
        remote: &Remote,
        signatures: Vec<Signature>,
        wanted: &NameReference,
        trust: &Trust,
    ) -> Result<StoredImage, ObtainError> {
        let progress = Progress::new(&remote.subject.to_string(), &remote.manifest.layers);
        let mut incoming = Vec::with_capacity(remote.diff_ids.len());
        for (number, (descriptor, diff_id)) in remote.manifest.layers.iter().zip(&remote.diff_ids).enumerate() {
            incoming.push(layer(repository, descriptor, diff_id, number, &progress)?);
        }
        let layers = self.store.add_layers(&incoming, &Limits::default())?;
        drop(incoming);
        let (manifest, config) = match &remote.content {
            Content::Native { manifest, config } => (manifest.clone(), config.clone()),
            Content::Foreign(description) => {
                let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
                let Subject { name, version, .. } = &remote.subject;
                let config = describe(description.clone(), name.clone(), version.clone(), &diff_ids);
                config.check().map_err(SourceError::from)?;
                let config = config.to_bytes();
                let blobs: Vec<_> = layers.iter().map(|layer| (layer.compression, layer.digest, layer.size)).collect();
                (native_manifest(&config, &blobs), config)
            }
        };
        let native = matches!(remote.content, Content::Native { .. });
        let origin = Origin {
            source: format!("docker://{wanted}"),
            manifest: (!native).then_some(remote.image.manifest.digest),
            index: remote.image.index,
            pinned: wanted.digest.is_some(),
            insecure: *trust == Trust::Insecure,
        };
        let image = self.store.add_image(&Documents { manifest, config, signatures, origin })?;
        let asked = canonical_name(&wanted.name);
        if image.name != asked {
            // A native image keeps its own name, and is found again by the one it was asked for.
            self.store.set_name(&asked, wanted.version.as_ref(), &remote.subject.architecture, &image.id)?;
        }
        progress.finish();
        Ok(image)
    }
}

/// Reads manifest and configuration, and what they say the image is.
fn inspect(repository: &Repository, wanted: &NameReference, platform: &Platform) -> Result<Remote, ObtainError> {
    let image = repository.image(wanted.version.as_ref(), wanted.digest.as_ref(), platform)?;
    let oci::Document::Manifest(manifest) = image.manifest.content.clone() else {
        return Err(unusable(wanted, "is an index where a manifest should be"));
    };
    let config = small_blob(repository, &manifest.config, config::BYTES_MAX as u64, wanted)?;
    let (content, diff_ids, subject) = match manifest.config.media_type.as_str() {
        config::MEDIA_TYPE => native(&image, config, wanted)?,
        oci::CONFIG | oci::DOCKER_CONFIG => foreign(&image, &config, wanted)?,
        other => {
            return Err(unusable(wanted, &format!("is no image: its configuration is `{}`", other.escape_default())));
        }
    };
    if diff_ids.len() != manifest.layers.len() {
        return Err(unusable(wanted, "has another number of layers in its manifest than in its configuration"));
    }
    Ok(Remote { image, manifest, content, diff_ids, subject })
}

type Parts = (Content, Vec<Digest>, Subject);

fn native(image: &RemoteImage, config: Vec<u8>, wanted: &NameReference) -> Result<Parts, ObtainError> {
    let manifest = image.manifest.bytes.clone();
    let (_, parsed) = parse_native(&manifest, &config)?;
    let diff_ids = parsed.layers.iter().map(Layer::diff_id).collect();
    let subject = Subject::of(parsed, image.manifest.digest);
    let Subject { name, version, .. } = &subject;
    if !may_be_called(name, version.as_ref(), wanted) {
        let version = version.as_ref().map_or_else(String::new, |version| format!(":{version}"));
        return Err(unusable(wanted, &format!("is another image there: it calls itself `{name}{version}`")));
    }
    Ok((Content::Native { manifest, config }, diff_ids, subject))
}

fn foreign(image: &RemoteImage, config: &[u8], wanted: &NameReference) -> Result<Parts, ObtainError> {
    let (description, diff_ids) = docker_config::parse(config).map_err(SourceError::from)?;
    let Description { os, architecture, .. } = &description;
    let version = match (&wanted.version, &wanted.digest) {
        (Some(version), _) => Some(version.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(Version::latest()),
    };
    let subject = Subject {
        name: canonical_name(&wanted.name),
        version,
        os: os.clone(),
        architecture: architecture.clone(),
        manifest: image.manifest.digest,
        index: image.index,
    };
    Ok((Content::Foreign(description), diff_ids, subject))
}

/// A native image has a name of its own, which its signatures are about. It answers to a name at a registry only if one of
/// the two names ends, by whole components, with the repository of the other: a registry must not be able to serve one
/// publisher's image where another one was asked for.
fn may_be_called(name: &ImageName, version: Option<&Version>, wanted: &NameReference) -> bool {
    let repository = |name: &ImageName| match name.host() {
        Some(host) => name.as_str()[host.len() + 1..].to_owned(),
        None => name.as_str().to_owned(),
    };
    let ends =
        |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    let asked = repository(&wanted.name);
    let same_name = *name == wanted.name
        || *name == canonical_name(&wanted.name)
        || ends(name.as_str(), &asked)
        || ends(&asked, name.as_str());
    let same_version = match (&wanted.version, version) {
        (Some(asked), Some(version)) => asked == version || *asked == Version::latest(),
        _ => true,
    };
    same_name && same_version
}

fn layer<'a>(
    repository: &'a Repository,
    descriptor: &Descriptor,
    diff_id: &Digest,
    number: usize,
    progress: &'a Progress,
) -> Result<Incoming<'a>, ObtainError> {
    let (digest, size) = (descriptor.digest, descriptor.size);
    let compression = descriptor.layer_compression().map_err(SourceError::from)?;
    Ok(Incoming {
        expected: Expected { digest: Some(digest), size: Some(size), diff_id: Some(*diff_id), compression },
        open: Box::new(move |offset| {
            let reader = repository.blob(&digest, size, offset).map_err(io::Error::other)?;
            Ok(Box::new(progress.watch(number, offset, reader)))
        }),
    })
}

/// A blob that is read into memory, checked.
fn small_blob(
    repository: &Repository,
    descriptor: &Descriptor,
    bytes_max: u64,
    wanted: &NameReference,
) -> Result<Vec<u8>, ObtainError> {
    if descriptor.size > bytes_max {
        return Err(unusable(wanted, &format!("has a configuration of more than {bytes_max} bytes")));
    }
    read_blob(repository, &descriptor.digest, descriptor.size)
}

fn unusable(wanted: &NameReference, why: &str) -> ObtainError {
    SourceError::Invalid { path: format!("docker://{wanted}"), why: why.to_owned() }.into()
}

/// Reads a blob whose size is known to be small.
pub(super) fn read_blob(repository: &Repository, digest: &Digest, size: u64) -> Result<Vec<u8>, ObtainError> {
    let mut bytes = Vec::new();
    let read = repository.blob(digest, size, 0)?.take(size + 1).read_to_end(&mut bytes);
    read.map_err(|source| ObtainError::Read { what: format!("blob {digest}"), source })?;
    let got = Digest::of(&bytes);
    if got != *digest {
        let host = repository.name().to_string();
        return Err(crate::registry::RegistryError::Digest { host, wanted: *digest, got }.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_cannot_serve_one_image_as_another() {
        for (wanted, name, version, may) in [
            ("localhost:5000/demo", "demo", Some("1"), true),
            ("localhost:5000/demo:1", "demo", Some("1"), true),
            ("localhost:5000/demo:latest", "demo", Some("1"), true),
            ("localhost:5000/demo:2", "demo", Some("1"), false),
            ("localhost:5000/demo:2", "demo", None, true),
            ("localhost:5000/mirror/example.com/app", "example.com/app", None, true),
            ("example.com/app", "example.com/app", None, true),
            ("localhost:5000/app", "example.com/team/app", None, true),
            ("localhost:5000/b", "a", None, false),
            ("evil.com/team/app", "example.com/app", None, false),
            ("evil.com/xapp", "app", None, false),
            ("redis", "docker.io/library/redis", None, true),
        ] {
            let wanted_reference = NameReference::parse(wanted).expect(wanted);
            let name = ImageName::parse(name).expect(name);
            let version = version.map(|version| Version::parse(version).expect(version));
            assert_eq!(may_be_called(&name, version.as_ref(), &wanted_reference), may, "{wanted} {name}");
        }
    }
}
