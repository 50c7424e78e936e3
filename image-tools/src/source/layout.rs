//! OCI layouts, in a directory or in a tar. A native file is one of these.

use super::{Content, SourceError, SourceImage, SourceLayer, docker_config, invalid, io, parse_native};
use crate::config;
use crate::digest::Digest;
use crate::extent::{Extent, Members};
use crate::oci::{self, Descriptor, Document, Index, Manifest, ManifestError};
use crate::reference::NameReference;
use crate::signature::Signature;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where the files of a layout are.
#[derive(Debug)]
pub(super) struct Blobs {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(OwnedFd),
    Archive(Members),
}

impl Blobs {
    pub(super) fn directory(path: &Path) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| io(path, errno.into()))?;
        Ok(Self { path: path.to_owned(), place: Place::Directory(fd) })
    }

    pub(super) fn archive(extent: &Extent, path: &Path) -> Result<Self, SourceError> {
        let members = Members::index(extent)
            .map_err(|source| SourceError::Archive { path: path.display().to_string(), source })?;
        Ok(Self { path: path.to_owned(), place: Place::Archive(members) })
    }

    fn get(&self, name: &str) -> Result<Extent, SourceError> {
        match &self.place {
            Place::Archive(members) => members.get(name).ok_or_else(|| invalid(&self.path, format!("has no `{name}`"))),
            Place::Directory(fd) => {
                // The directory is a stranger's: nothing outside it is read, and a FIFO is not waited for.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let file = rustix::fs::openat2(fd, name, flags, Mode::empty(), resolve);
                let extent = file.map_err(Into::into).and_then(|file| Extent::whole(file.into()));
                extent.map_err(|source| io(&self.path.join(name), source))
            }
        }
    }

    fn blob(&self, digest: &Digest) -> Result<Extent, SourceError> {
        self.get(&format!("blobs/sha256/{}", digest.hex()))
    }

    /// The bytes of a small blob, if they are what the descriptor says.
    fn document(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Vec<u8>, SourceError> {
        let name = descriptor.digest;
        let extent = self.blob(&name)?;
        if extent.len() != descriptor.size {
            let (is, said) = (extent.len(), descriptor.size);
            return Err(invalid(&self.path, format!("has a blob {name} of {is} bytes where {said} are declared")));
        }
        let bytes = extent.bytes(bytes_max).map_err(|source| io(&self.path, source))?;
        if Digest::of(&bytes) != name {
            return Err(invalid(&self.path, format!("has a blob {name} with other content")));
        }
        Ok(bytes)
    }
}

pub(super) fn open(blobs: &Blobs, tag: Option<&str>, architecture: &str) -> Result<SourceImage, SourceError> {
    let marker = blobs.get("oci-layout")?.bytes(4 << 10).map_err(|source| io(&blobs.path, source))?;
    let marker: serde_json::Value = serde_json::from_slice(&marker).map_err(ManifestError::from)?;
    if !marker["imageLayoutVersion"].as_str().is_some_and(|version| version.starts_with("1.")) {
        return Err(invalid(&blobs.path, "is an OCI layout of an unknown version"));
    }
    let index = blobs.get("index.json")?.bytes(oci::BYTES_MAX).map_err(|source| io(&blobs.path, source))?;
    let Document::Index(index) = Document::parse(&index, None)? else {
        return Err(invalid(&blobs.path, "has a manifest where its index should be"));
    };
    let entry = choose_tag(blobs, &index, tag)?;
    let names = entry.ref_name().and_then(|name| NameReference::parse(name).ok()).into_iter().collect();
    let (descriptor, bytes, manifest) = choose_platform(blobs, entry, architecture)?;
    let config_max = config::BYTES_MAX as u64;
    let config = blobs.document(&manifest.config, config_max)?;
    let (content, diff_ids) = match manifest.config.media_type.as_str() {
        config::MEDIA_TYPE => {
            let (_, parsed) = parse_native(&bytes, &config)?;
            let diff_ids = parsed.layers.iter().map(config::Layer::diff_id).collect();
            (Content::Native { manifest: bytes, config }, diff_ids)
        }
        oci::CONFIG | oci::DOCKER_CONFIG => {
            let (description, diff_ids) = docker_config::parse(&config)?;
            (Content::Foreign(description), diff_ids)
        }
        other => {
            return Err(invalid(
                &blobs.path,
                format!("is no image: its configuration is `{}`", other.escape_default()),
            ));
        }
    };
    let layers = layers(blobs, &manifest, &diff_ids)?;
    let signatures = signatures(blobs, &index, &descriptor)?;
    Ok(SourceImage { names, manifest: Some(descriptor.digest), content, layers, signatures })
}

fn is_image(descriptor: &Descriptor) -> bool {
    let known = [oci::MANIFEST, oci::INDEX, oci::DOCKER_MANIFEST, oci::DOCKER_INDEX];
    known.contains(&descriptor.media_type.as_str()) && descriptor.artifact_type.is_none()
}

fn choose_tag<'a>(blobs: &Blobs, index: &'a Index, tag: Option<&str>) -> Result<&'a Descriptor, SourceError> {
    let mut images = index.manifests.iter().filter(|entry| is_image(entry));
    let Some(tag) = tag else {
        return match (images.next(), images.next()) {
            (Some(image), None) => Ok(image),
            (None, _) => Err(invalid(&blobs.path, "has no image in it")),
            (Some(_), Some(_)) => {
                let tags: Vec<_> = index.manifests.iter().filter_map(Descriptor::ref_name).collect();
                Err(invalid(
                    &blobs.path,
                    format!("has several images, so one must be chosen of `{}`", tags.join("` `")),
                ))
            }
        };
    };
    images
        .find(|entry| entry.ref_name() == Some(tag))
        .ok_or_else(|| invalid(&blobs.path, format!("has no image with the tag `{}`", tag.escape_default())))
}

/// Follows one level of index, to the manifest for `architecture`.
fn choose_platform(
    blobs: &Blobs,
    entry: &Descriptor,
    architecture: &str,
) -> Result<(Descriptor, Vec<u8>, Manifest), SourceError> {
    let bytes = blobs.document(entry, oci::BYTES_MAX)?;
    match Document::parse(&bytes, Some(&entry.media_type))? {
        Document::Manifest(manifest) => Ok((entry.clone(), bytes, manifest)),
        Document::Index(index) => {
            let fits = |entry: &&Descriptor| {
                entry.platform.as_ref().is_some_and(|at| at.os == "linux" && at.architecture == architecture)
            };
            let entry = index.manifests.iter().filter(|entry| is_image(entry)).find(fits);
            let entry =
                entry.ok_or_else(|| invalid(&blobs.path, format!("has no image for linux on {architecture}")))?;
            let bytes = blobs.document(entry, oci::BYTES_MAX)?;
            match Document::parse(&bytes, Some(&entry.media_type))? {
                Document::Manifest(manifest) => Ok((entry.clone(), bytes, manifest)),
                Document::Index(_) => Err(invalid(&blobs.path, "has an index in an index")),
            }
        }
    }
}

fn layers(blobs: &Blobs, manifest: &Manifest, diff_ids: &[Digest]) -> Result<Vec<SourceLayer>, SourceError> {
    if diff_ids.len() != manifest.layers.len() {
        let (layers, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(invalid(
            &blobs.path,
            format!("has {layers} layers in its manifest and {ids} in its configuration"),
        ));
    }
    let layer = |(descriptor, diff_id): (&Descriptor, &Digest)| {
        Ok(SourceLayer {
            extent: blobs.blob(&descriptor.digest)?,
            compression: descriptor.layer_compression()?,
            digest: Some(descriptor.digest),
            size: Some(descriptor.size),
            diff_id: Some(*diff_id),
        })
    };
    manifest.layers.iter().zip(diff_ids).map(layer).collect()
}

/// Artifacts of the layout that are signatures of this manifest.
fn signatures(blobs: &Blobs, index: &Index, subject: &Descriptor) -> Result<Vec<Signature>, SourceError> {
    let mut signatures = Vec::new();
    for entry in index.manifests.iter().filter(|entry| entry.artifact_type.is_some()) {
        let bytes = blobs.document(entry, oci::BYTES_MAX)?;
        let found = Signature::from_artifact(&bytes, &subject.digest, |digest, size| {
            let blob = Descriptor::new("", *digest, size);
            blobs.document(&blob, crate::signature::BLOB_BYTES_MAX as u64).map_err(SignatureBlob::Source)
        });
        match found {
            Ok(found) => signatures.extend(found),
            Err(SignatureBlob::Source(error)) => return Err(error),
            Err(SignatureBlob::Signature(error)) => {
                return Err(invalid(&blobs.path, format!("has a bad signature: {error}")));
            }
        }
        if signatures.len() > crate::signature::SIGNATURES_MAX {
            return Err(invalid(&blobs.path, "has too many signatures"));
        }
    }
    Ok(signatures)
}

enum SignatureBlob {
    Source(SourceError),
    Signature(crate::signature::SignatureError),
}

impl From<crate::signature::SignatureError> for SignatureBlob {
    fn from(error: crate::signature::SignatureError) -> Self {
        Self::Signature(error)
    }
}
