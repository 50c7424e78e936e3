//! The image store: blobs by digest, one unpacked tree per layer, names, and a record for each image.
//!
//! Runs as root in the host's namespaces. Other processes use the same directory at the same time; all that is visible
//! is complete, because everything is made under a temporary name and renamed.

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::name::{ImageName, Version};
use crate::signature::Signature;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the store could not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system said no.
    #[error("{what}")]
    Io {
        /// The operation and its object.
        what: String,
        /// Its errno.
        source: std::io::Error,
    },
    /// No such image.
    #[error("no image `{0}` in the store")]
    Missing(String),
    /// An id prefix of several images.
    #[error("`{0}` is the start of the ids of {1} images")]
    Ambiguous(String, usize),
    /// A blob, record or tree is not what it was when it was stored.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// Where an image came from and how it got in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The source, as a reference.
    pub source: String,
    /// Digest of the manifest at the source where it is not the native manifest: what foreign signatures sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The user named the image by that digest.
    #[serde(default)]
    pub pinned: bool,
    /// It was let in by `--insecure-options=image`.
    #[serde(default)]
    pub insecure: bool,
}

/// An image that is complete in the store.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Digest of the native manifest.
    pub id: Digest,
    /// Name in the configuration.
    pub name: ImageName,
    /// Version in the configuration.
    pub version: Option<Version>,
    /// The configuration.
    pub config: ImageConfig,
    /// Unpacked layers in overlayfs form, lowest first: absolute paths of directories that nobody writes to.
    pub layers: Vec<PathBuf>,
    /// Signatures that came with the image.
    pub signatures: Vec<Signature>,
    /// Bytes of its blobs and trees; layers shared with other images count in each.
    pub size_bytes: u64,
    /// Seconds since the epoch.
    pub imported_unix_secs: u64,
    /// Seconds since the epoch.
    pub last_used_unix_secs: u64,
    /// Where it came from.
    pub origin: Origin,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    #[allow(dead_code)]
    root: PathBuf,
}

impl Store {
    /// Opens the store in `root`, and makes it if it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Ok(Self { root: root.to_owned() })
    }
}
