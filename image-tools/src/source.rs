//! Images that are not in the store yet: opening any local source and seeing what is in it.
//!
//! Opening reads the small documents only; layers stay where they are, as ranges of files, and are checked against
//! their digests when they are read.

mod appc;
mod docker_archive;
pub mod docker_config;
mod layout;

use crate::archive::ArchiveError;
use crate::compression::Compression;
use crate::config::{App, ConfigError, ImageConfig, Layer, SCHEMA};
use crate::digest::Digest;
use crate::extent::Extent;
use crate::limits::Limits;
use crate::name::{ImageName, Version};
use crate::oci::{self, Manifest, ManifestError};
use crate::reference::{NameReference, Source};
use crate::signature::Signature;
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

/// Why a source could not be opened.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The system said no.
    #[error("read `{path}`")]
    Io {
        /// The file.
        path: String,
        /// The errno.
        source: std::io::Error,
    },
    /// The archive around the image is bad.
    #[error("`{path}` is not an image")]
    Archive {
        /// The file.
        path: String,
        /// Why.
        source: ArchiveError,
    },
    /// A manifest or index is bad.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A configuration is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Anything else that is wrong with the image.
    #[error("`{path}` {why}")]
    Invalid {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// An appc image is put on top of others, and one of them could not be had.
    #[error("`{path}` is made on top of the image `{name}`")]
    Dependency {
        /// The file.
        path: String,
        /// The image below it.
        name: String,
        /// Why it could not be had.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not something on this machine.
    #[error("`{0}` is not a local source")]
    Remote(String),
}

/// What is known of an image that is not native, apart from its name and its layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// `linux`
    pub os: String,
    /// `amd64`, …
    pub architecture: String,
    /// RFC 3339.
    pub created: Option<String>,
    /// The author's labels.
    pub labels: BTreeMap<String, String>,
    /// What a person may want to know about the conversion.
    pub annotations: BTreeMap<String, String>,
    /// The app, if the image says what to run.
    pub app: Option<App>,
}

/// The documents of an image.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // There is one for each image that is opened.
pub enum Content {
    /// It is native already: its bytes are its identity.
    Native {
        /// The manifest.
        manifest: Vec<u8>,
        /// The configuration.
        config: Vec<u8>,
    },
    /// It is to be converted.
    Foreign(Description),
}

/// A layer where it lies.
#[derive(Clone, Debug)]
pub struct SourceLayer {
    /// Its bytes.
    pub extent: Extent,
    /// How they are compressed.
    pub compression: Compression,
    /// Digest of the bytes, if the source says it.
    pub digest: Option<Digest>,
    /// Size of the bytes, if the source says it.
    pub size: Option<u64>,
    /// Digest of the plain content, if the source says it.
    pub diff_id: Option<Digest>,
}

/// An image that an appc image is put on top of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Its name and, if one is asked for, its version.
    pub name: NameReference,
    /// What else must be true of it: `os`, `arch`, and the author's labels.
    pub labels: BTreeMap<String, String>,
    /// `sha512-HEX`: the appc image itself, by its plain bytes, or the first half of that digest.
    pub image_id: Option<String>,
}

/// Finds the layers of a dependency, lowest first.
pub type Resolve<'a> =
    dyn FnMut(&Dependency) -> Result<Vec<SourceLayer>, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// The annotation of a converted appc image that says what it was: `sha512-HEX` of its plain bytes.
pub const APPC_ID: &str = "pod/appc-image-id";

/// An opened source.
#[derive(Clone, Debug)]
pub struct SourceImage {
    /// Names the source gives the image, the best first.
    pub names: Vec<NameReference>,
    /// Digest of the manifest in the source; foreign signatures sign it.
    pub manifest: Option<Digest>,
    /// The documents.
    pub content: Content,
    /// Lowest first.
    pub layers: Vec<SourceLayer>,
    /// What came with it.
    pub signatures: Vec<Signature>,
}

impl SourceImage {
    /// Opens a local source for machines of `architecture`, which needs no other image.
    pub fn open(source: &Source, architecture: &str) -> Result<Self, SourceError> {
        Self::open_with(source, architecture, &mut |_| Err("there is no store here to find it in".into()))
    }

    /// Opens a local source, whose dependencies `resolve` finds.
    pub fn open_with(source: &Source, architecture: &str, resolve: &mut Resolve<'_>) -> Result<Self, SourceError> {
        match source {
            Source::DockerArchive { path, tag } => docker_archive::open(&archive(path)?, path, tag.as_deref()),
            Source::OciArchive { path, tag } => {
                let blobs = layout::Blobs::archive(&archive(path)?, path)?;
                layout::open(&blobs, tag.as_deref(), architecture)
            }
            Source::OciDirectory { path, tag } => {
                layout::open(&layout::Blobs::directory(path)?, tag.as_deref(), architecture)
            }
            Source::Pod(path) => {
                let image = layout::open(&layout::Blobs::archive(&file(path)?, path)?, None, architecture)?;
                match image.content {
                    Content::Native { .. } => Ok(image),
                    Content::Foreign(_) => Err(invalid(path, "is an OCI archive, not a native image")),
                }
            }
            Source::Aci(path) => appc::open(&file(path)?, path, resolve),
            Source::Registry(_) | Source::Url(_) => Err(SourceError::Remote(source.to_string())),
        }
    }
}

/// The configuration of a foreign image under its new name.
pub fn describe(
    description: Description,
    name: ImageName,
    version: Option<Version>,
    diff_ids: &[Digest],
) -> ImageConfig {
    let Description { os, architecture, created, labels, annotations, app } = description;
    let layers = diff_ids.iter().map(|diff_id| Layer::Tar { diff_id: *diff_id }).collect();
    ImageConfig { schema: SCHEMA, name, version, os, architecture, created, labels, annotations, layers, app }
}

/// What is left of a native image that gets another name.
pub fn description_of(config: ImageConfig) -> Description {
    let ImageConfig { os, architecture, created, labels, annotations, app, .. } = config;
    Description { os, architecture, created, labels, annotations, app }
}

/// The native manifest of `config` over these layers: compression, digest and size of each blob.
pub fn native_manifest(config: &[u8], layers: &[(Compression, Digest, u64)]) -> Vec<u8> {
    let layer = |(compression, digest, size): &(Compression, Digest, u64)| {
        oci::Descriptor::new(oci::layer_type(*compression), *digest, *size)
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(oci::MANIFEST.to_owned()),
        artifact_type: None,
        config: oci::Descriptor::of(crate::config::MEDIA_TYPE, config),
        layers: layers.iter().map(layer).collect(),
        subject: None,
        annotations: None,
    };
    serde_json::to_vec(&manifest).expect("strings and numbers always serialise")
}

/// Checks that the two documents of a native image belong together, and returns them parsed.
pub fn parse_native(manifest: &[u8], config: &[u8]) -> Result<(Manifest, ImageConfig), SourceError> {
    let oci::Document::Manifest(manifest) = oci::Document::parse(manifest, None)? else {
        return Err(ManifestError::Invalid("is an index".into()).into());
    };
    if manifest.config.media_type != crate::config::MEDIA_TYPE {
        return Err(ManifestError::Invalid("is not that of a native image".into()).into());
    }
    if manifest.config.digest != Digest::of(config) || manifest.config.size != config.len() as u64 {
        return Err(ManifestError::Invalid("names another configuration than the one beside it".into()).into());
    }
    let config = ImageConfig::parse(config)?;
    if config.layers.len() != manifest.layers.len() {
        return Err(ManifestError::Invalid("and the configuration disagree about the number of layers".into()).into());
    }
    Ok((manifest, config))
}

fn file(path: &Path) -> Result<Extent, SourceError> {
    Extent::open(path).map_err(|source| io(path, source))
}

/// An archive may be compressed as a whole (`docker save | gzip`).
fn archive(path: &Path) -> Result<Extent, SourceError> {
    file(path)?.decompressed(&Limits::default()).map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io { path: path.display().to_string(), source }
}

fn invalid(path: &Path, why: impl Into<String>) -> SourceError {
    SourceError::Invalid { path: path.display().to_string(), why: why.into() }
}
