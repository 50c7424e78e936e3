//! Images of registries: what a name means there, whether it may run, and only then its layers.
//!
//! Everything a judgement needs is small (manifest, configuration, signatures) and is read first, so nothing of an image
//! that nobody trusts is downloaded, let alone unpacked. Layers then go through the store's one pass, several at a time.

use super::judge::{Candidate, at_registry, marked, tag};
use super::{Images, Insecure, ObtainError, Obtained, PullPolicy, Terms, Trust, check_platform};
use crate::config::{self, Layer};
use crate::cosign::canonical_name;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::oci::{self, Descriptor, Manifest};
use crate::pipeline::Expected;
use crate::progress::Progress;
use crate::provenance::Came;
use crate::reference::NameReference;
use crate::registry::{Platform, Registry, RemoteImage, Repository, Settings};
use crate::signature::Signature;
use crate::source::{Content, Description, SourceError, describe, docker_config, native_manifest, parse_native};
use crate::statement::Subject;
use crate::store::{Documents, Incoming, Named, Origin, StoredImage};
use std::io;

/// An image at a registry whose small documents are here.
struct Remote {
    image: RemoteImage,
    manifest: Manifest,
    content: Content,
    diff_ids: Vec<Digest>,
    subject: Subject,
}

impl Remote {
    fn is_native(&self) -> bool {
        matches!(self.content, Content::Native { .. })
    }
}

/// What goes into the store with the layers.
struct Taken {
    signatures: Vec<Signature>,
    origin: Origin,
    names: Vec<Named>,
}

impl Images {
    /// Fetches an image by name from its registry, as far as it is not in the store.
    pub(super) fn fetch_registry(&self, wanted: &NameReference, terms: &Terms) -> Result<Obtained, ObtainError> {
        let Terms { pull, insecure, ref platform, .. } = *terms;
        if pull == PullPolicy::Never {
            return Err(ObtainError::Absent(wanted.to_string()));
        }
        let registry = Registry::new(self.registry_settings(insecure)?)?;
        let asked = at_registry(wanted);
        let repository = registry.repository(&asked.name)?;
        let remote = inspect(&repository, wanted, platform)?;
        check_platform(&remote.subject.name, &remote.subject.os, &remote.subject.architecture, platform)?;
        let foreign = self.policy.takes_foreign(&asked.name);
        let signatures = super::signatures::find(&repository, &remote.image, foreign)?;
        let came = [Came::Registry { name: asked.name.clone(), version: tag(&asked), channel: remote.image.channel }];
        let candidate = Candidate { subject: &remote.subject, id: None, came: &came, signatures: &signatures };
        let judgement = self.judge(&candidate, Some(&asked), marked(&asked, &remote.subject.architecture), terms)?;
        let origin = Origin {
            source: format!("docker://{wanted}"),
            manifest: (!remote.is_native()).then_some(remote.image.manifest.digest),
            index: remote.image.index,
            came: came.to_vec(),
            pinned: wanted.digest.is_some(),
            insecure: judgement.trust == Trust::Insecure,
        };
        let mut names = vec![match asked.digest {
            // The user's word is for this once: it does not make the name mean the image.
            Some(digest) => Named::Digest(asked.name.clone(), digest),
            None if remote.is_native() => Named::Version(asked.name.clone(), asked.version.clone()),
            None => Named::Version(asked.name.clone(), tag(&asked)),
        }];
        let own = Named::Version(remote.subject.name.clone(), remote.subject.version.clone());
        if remote.is_native() && !names.contains(&own) && self.is_bound_to_own_name(&candidate, terms)? {
            names.push(own);
        }
        let image = self.take(&repository, &remote, Taken { signatures: signatures.clone(), origin, names })?;
        self.mark(&judgement, terms)?;
        self.store.touch(&image.id);
        Ok(judgement.obtained(image))
    }

    /// How to reach registries, as the administrator and the vendor say, and as this one run allows.
    pub(super) fn registry_settings(&self, insecure: Insecure) -> Result<Settings, ObtainError> {
        let mut settings = Settings::load(&self.policy.dirs().configuration())?;
        settings.insecure_tls = insecure.tls;
        settings.plain_http = insecure.http;
        Ok(settings)
    }

    /// Brings the layers into the store, and the image when they are all there.
    fn take(&self, repository: &Repository, remote: &Remote, taken: Taken) -> Result<StoredImage, ObtainError> {
        let Taken { signatures, origin, names } = taken;
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
        let image = self.store.add_image(&Documents { manifest, config, signatures, origin, names })?;
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
        config::MEDIA_TYPE => native(&image, config)?,
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

fn native(image: &RemoteImage, config: Vec<u8>) -> Result<Parts, ObtainError> {
    let manifest = image.manifest.bytes.clone();
    let (_, parsed) = parse_native(&manifest, &config)?;
    let diff_ids = parsed.layers.iter().map(Layer::diff_id).collect();
    let subject = Subject { index: image.index, ..Subject::of(parsed, image.manifest.digest) };
    Ok((Content::Native { manifest, config }, diff_ids, subject))
}

fn foreign(image: &RemoteImage, config: &[u8], wanted: &NameReference) -> Result<Parts, ObtainError> {
    let (description, diff_ids) = docker_config::parse(config).map_err(SourceError::from)?;
    let Description { os, architecture, .. } = &description;
    let subject = Subject {
        name: canonical_name(&wanted.name),
        version: if wanted.digest.is_some() { wanted.version.clone() } else { tag(wanted) },
        os: os.clone(),
        architecture: architecture.clone(),
        manifest: image.manifest.digest,
        index: image.index,
    };
    Ok((Content::Foreign(description), diff_ids, subject))
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
    super::blob::read_blob(repository, &descriptor.digest, descriptor.size)
}

fn unusable(wanted: &NameReference, why: &str) -> ObtainError {
    SourceError::Invalid { path: format!("docker://{wanted}"), why: why.to_owned() }.into()
}
