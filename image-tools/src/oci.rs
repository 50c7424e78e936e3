//! Manifests and indexes of the OCI image specification, and of Docker's schema 2.
//!
//! A document is either a manifest or an index, by its own words and by those of whoever points at it; one that could be
//! read as both is refused (CVE-2021-41190). What is read passes the specification's own types (`oci/spec.rs`).

mod spec;

use crate::compression::Compression;
use crate::digest::Digest;
use oci_spec::image::{ImageIndex, ImageManifest, MediaType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// A plain layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotation of an index entry that names its tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Longest manifest or index: what registries accept.
pub const BYTES_MAX: u64 = 4 << 20;
/// Most manifests in an index.
const MANIFESTS_MAX: usize = 1000;

/// Why a manifest or index was refused.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not JSON, or not of the expected form.
    #[error("parse the image manifest")]
    Json(#[from] serde_json::Error),
    /// Something in it is wrong.
    #[error("the image manifest {0}")]
    Invalid(String),
}

fn invalid(text: impl Into<String>) -> ManifestError {
    ManifestError::Invalid(text.into())
}

/// A pointer to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What an artifact manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Which machines an image is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Which machines an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` of `arm`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A list of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// One or the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // There is one at a time, and it is short-lived.
pub enum Document {
    /// An image or artifact.
    Manifest(Manifest),
    /// A list.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses `bytes`, which somebody pointed at with `declared` as media type.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > BYTES_MAX {
            return Err(invalid(format!("is longer than {BYTES_MAX} bytes")));
        }
        let shape: Shape = serde_json::from_slice(bytes)?;
        if shape.schema_version != Some(2) || shape.fs_layers.is_some() {
            return Err(invalid("is not of schema version 2"));
        }
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(invalid("has both layers and manifests"));
        }
        let is_index = shape.manifests.is_some();
        for media_type in shape.media_type.as_deref().into_iter().chain(declared) {
            let known = if is_index { [INDEX, DOCKER_INDEX] } else { [MANIFEST, DOCKER_MANIFEST] };
            if !known.contains(&media_type) {
                let what = if is_index { "an index" } else { "a manifest" };
                return Err(invalid(format!("is {what} and says it is `{}`", media_type.escape_default())));
            }
        }
        if let (Some(declared), Some(own)) = (declared, shape.media_type.as_deref())
            && declared != own
        {
            return Err(invalid(format!("says it is `{own}` where `{declared}` was promised")));
        }
        if is_index {
            let index = Index::try_from(serde_json::from_slice::<ImageIndex>(bytes)?)?;
            if index.manifests.len() > MANIFESTS_MAX {
                return Err(invalid(format!("lists more than {MANIFESTS_MAX} manifests")));
            }
            return Ok(Self::Index(index));
        }
        let manifest = Manifest::try_from(serde_json::from_slice::<ImageManifest>(bytes)?)?;
        if manifest.layers.len() > crate::config::LAYERS_MAX {
            return Err(invalid(format!("has more than {} layers", crate::config::LAYERS_MAX)));
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Descriptor {
    /// A pointer to `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A pointer to a blob.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, artifact_type: None, platform: None, annotations: None }
    }

    /// How the layer it points at is compressed; an error if it points at no layer.
    pub fn layer_compression(&self) -> Result<Compression, ManifestError> {
        let docker = |name: &str| match name {
            "application/vnd.docker.image.rootfs.diff.tar" => Some(Compression::None),
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Compression::Gzip),
            "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
            _ => None,
        };
        let known = match MediaType::from(self.media_type.as_str()) {
            MediaType::ImageLayer | MediaType::ImageLayerNonDistributable => Some(Compression::None),
            MediaType::ImageLayerGzip | MediaType::ImageLayerNonDistributableGzip => Some(Compression::Gzip),
            MediaType::ImageLayerZstd | MediaType::ImageLayerNonDistributableZstd => Some(Compression::Zstd),
            MediaType::Other(name) => docker(&name),
            _ => None,
        };
        known.ok_or_else(|| invalid(format!("has a layer of the unknown type `{}`", self.media_type.escape_default())))
    }

    /// The tag of an index entry.
    pub fn ref_name(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }
}

/// The media type of a layer in a native manifest.
pub fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        Compression::None | Compression::Xz => LAYER,
    }
}

/// The architecture of this machine in the words of the specification.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":2}}"#, Digest::of(b"{}"))
    }

    #[test]
    fn cve_2021_41190_media_type_confusion() {
        let config = descriptor(CONFIG);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(MANIFEST));
        assert!(matches!(Document::parse(manifest.as_bytes(), Some(MANIFEST)), Ok(Document::Manifest(_))));
        assert!(matches!(Document::parse(index.as_bytes(), None), Ok(Document::Index(_))));
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","config":{config},"layers":[]}}"#);
        let twice = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"layers":[]}}"#);
        let old = r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned();
        for (text, declared) in [
            (&manifest, Some(INDEX)),
            (&index, Some(MANIFEST)),
            (&both, None),
            (&typed, None),
            (&typed, Some(MANIFEST)),
            (&twice, None),
            (&old, None),
            (&"{}".to_owned(), None),
            (&"[]".to_owned(), None),
        ] {
            assert!(Document::parse(text.as_bytes(), declared).is_err(), "{text} as {declared:?}");
        }
    }
}
