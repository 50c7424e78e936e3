//! The image store: blobs by digest, one unpacked tree per layer, names, and a record for each image.
//!
//! Runs as root in the host's namespaces. Other processes use the same directory at the same time; all that is visible
//! is complete, because everything is made in `tmp`, synced, and renamed. A process that is killed leaves only what
//! [`Store::collect`] removes. What a lookup by name costs does not depend on how many images there are.
//!
//! | path | content |
//! |---|---|
//! | `v1.lock` | shared by all who use the store, exclusive for the collector |
//! | `blobs/sha256/HEX` | manifests, configurations, compressed layers |
//! | `layers/HEX/root` | the tree of the layer with this diff id, in overlayfs form; beside it `layer.json`, whose mtime is when the tree was last compared with its digest |
//! | `layers/HEX.damaged-*` | what was a layer's and is damaged; pods may still run from it |
//! | `images/HEX` | the record of the image with this manifest digest, and its own digest; its mtime is the time of last use |
//! | `names/NAME/@VERSION` | symbolic link whose text is an image id; `@` alone: the newest of the name |
//! | `names/NAME/@sha256:HEX` | likewise, for an image that was fetched by this digest |
//! | `marks/NAME/@VERSION` | by key, when the last accepted signature under this name was made; never collected |
//! | `block/HEX.erofs` | block image made from the layers, a cache; `HEX.json` says of which, and its digest |
//! | `tmp/`, `locks/` | work under way |

mod compare;
mod export;
mod gc;
mod import;
mod layer;
mod marks;
mod names;
mod tree;
mod verify;

pub use gc::{Alone, Collected, InUse};
pub use import::Documents;
pub use layer::StoredLayer;
pub use layer::{Incoming, Open};
pub use marks::Marked;
pub use names::Named;
pub use verify::{Damage, Verified};

use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::name::{ImageName, Version};
use crate::ownership::{self, Exposed};
use crate::provenance::Came;
use crate::reference::IdPrefix;
use crate::signature::Signature;
use crate::source::{SourceError, parse_native};
use crate::trust::decide::same_name;
use crate::unpack::UnpackError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Longest record of an image.
const RECORD_BYTES_MAX: u64 = 80 << 20;

/// Why the store could not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system said no.
    #[error("{what}")]
    Io {
        /// The operation and its object.
        what: String,
        /// Its errno.
        source: io::Error,
    },
    /// No such image.
    #[error("no image `{0}` in the store")]
    Missing(String),
    /// An id prefix of several images.
    #[error("`{0}` is the start of the ids of {1} images")]
    Ambiguous(String, usize),
    /// A blob, record or tree is not what it was when it was stored.
    #[error("the image store is damaged: {0}")]
    Damaged(String),
    /// The file that says how new the last accepted image of a name was.
    #[error("`{path}`, which says how new the last accepted image of a name was, cannot be read: {why}")]
    Marks {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// Others than root can change the store, or look into it.
    #[error("the image store is open to others")]
    Exposed(#[source] Exposed),
    /// A layer was refused.
    #[error("layer {number}")]
    Layer {
        /// Its place in the image, from 1.
        number: usize,
        /// Why.
        source: UnpackError,
    },
    /// An image was refused.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StoreError {
    let what = what.into();
    move |source| StoreError::Io { what, source }
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
    /// Digest of the index at the source that led to that manifest: what cosign signs of an image for several machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// The ways in which these bytes came here. Records of older versions have none: such an image is fetched again where a
    /// rule asks where it came from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub came: Vec<Came>,
    /// The user named the image by that digest.
    #[serde(default)]
    pub pinned: bool,
    /// It was let in by `--insecure-options=image`.
    #[serde(default)]
    pub insecure: bool,
}

impl Origin {
    /// Whether a registry gave the image out under this name.
    pub(crate) fn came_as(&self, wanted: &ImageName) -> bool {
        self.came.iter().any(|came| matches!(came, Came::Registry { name, .. } if same_name(name, wanted)))
    }
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
    /// Unpacked layers in overlayfs form, lowest first, each once: absolute paths of directories that nobody writes to.
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

/// `images/HEX`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    config: Digest,
    size_bytes: u64,
    imported_unix_secs: u64,
    origin: Origin,
    signatures: Vec<Signature>,
}

impl Record {
    /// One line of JSON, and a line with its digest: nothing else would tell that a time or a source was changed.
    fn to_bytes(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).expect("strings and numbers always serialise");
        format!("{text}\n{}\n", Digest::of(text.as_bytes())).into_bytes()
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
        let (text, digest) = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n')).ok_or("is not whole")?;
        if digest != Digest::of(text.as_bytes()).to_string() {
            return Err("was changed".to_owned());
        }
        serde_json::from_str(text).map_err(|error| format!("does not parse: {error}"))
    }
}

/// An open store. While it is open, nothing is collected.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lock: File,
}

const DIRECTORIES: [&str; 9] =
    ["", "blobs/sha256", "layers", "images", "names", "marks", crate::block::DIRECTORY, "tmp", "locks"];

impl Store {
    /// Opens the store in `root`, and makes it if it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        // Trees hold set-user-id programs of strangers, so nobody else may look inside either.
        ownership::check_private(root).map_err(StoreError::Exposed)?;
        let path = root.join("v1.lock");
        let open = |flags| rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::from_raw_mode(0o600));
        let lock = match open(OFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let made = Self::make(root);
                // In a directory such as `/tmp`, somebody else may have been faster.
                ownership::check_private(root).map_err(StoreError::Exposed)?;
                made.and_then(|()| Ok(open(OFlags::CREATE)?))
            }
            result => result.map_err(io::Error::from),
        };
        let what = || format!("open the image store `{}`", root.display());
        let lock = File::from(lock.map_err(io_error(what()))?);
        rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(io::Error::from).map_err(io_error(what()))?;
        let root =
            if root.is_absolute() { root.to_owned() } else { std::path::absolute(root).map_err(io_error(what()))? };
        Ok(Self { root, lock })
    }

    /// The directories, for root alone.
    fn make(root: &Path) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        DIRECTORIES.iter().try_for_each(|name| builder.create(root.join(name)))
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn record_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(id.hex())
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A small blob, checked against its digest: what is used is what was verified.
    pub fn blob(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = read(&self.blob_path(digest), bytes_max).map_err(io_error(format!("read the blob {digest}")))?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Damaged(format!("the blob {digest} has other content")));
        }
        Ok(bytes)
    }

    /// The image with this id.
    pub fn image(&self, id: &Digest) -> Result<StoredImage, StoreError> {
        let (record, used) = self.record(id)?;
        let manifest = self.document(id, id, crate::oci::BYTES_MAX)?;
        let config = self.document(id, &record.config, crate::config::BYTES_MAX as u64)?;
        let (_, config) = parse_native(&manifest, &config)
            .map_err(|error| StoreError::Damaged(format!("the documents of the image {id} do not fit: {error}")))?;
        let layers = self.trees(id, &config)?;
        Ok(StoredImage {
            id: *id,
            name: config.name.clone(),
            version: config.version.clone(),
            config,
            layers,
            signatures: record.signatures,
            size_bytes: record.size_bytes,
            imported_unix_secs: record.imported_unix_secs,
            last_used_unix_secs: used,
            origin: record.origin,
        })
    }

    /// A blob that an image of the store must have.
    fn document(&self, id: &Digest, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        match self.blob(digest, bytes_max) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Damaged(format!("the blob {digest} of the image {id} is not there")))
            }
            result => result,
        }
    }

    /// The record and the time of last use.
    fn record(&self, id: &Digest) -> Result<(Record, u64), StoreError> {
        let path = self.record_path(id);
        let what = || format!("read the record of the image {id}");
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(id.to_string())),
            result => result.map_err(io_error(what()))?,
        };
        let used = file.metadata().map_err(io_error(what()))?.mtime();
        let mut bytes = Vec::with_capacity(4 << 10);
        Read::by_ref(&mut file).take(RECORD_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error(what()))?;
        let record =
            Record::parse(&bytes).map_err(|why| StoreError::Damaged(format!("the record of the image {id} {why}")))?;
        Ok((record, used.try_into().unwrap_or(0)))
    }

    /// Where an image says that it came from, for advice only: its record may be damaged.
    pub fn origin(&self, id: &Digest) -> Option<Origin> {
        let bytes = read(&self.record_path(id), RECORD_BYTES_MAX).ok()?;
        let line = bytes.split(|byte| *byte == b'\n').next()?;
        let mut record: serde_json::Value = serde_json::from_slice(line).ok()?;
        serde_json::from_value(record.get_mut("origin")?.take()).ok()
    }

    /// All ids, in no order.
    pub fn ids(&self) -> Result<Vec<Digest>, StoreError> {
        let what = || "list the image store".to_owned();
        let entries = std::fs::read_dir(self.root.join("images")).map_err(io_error(what()))?;
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error(what()))?.file_name();
            ids.extend(name.to_str().and_then(Digest::from_hex));
        }
        Ok(ids)
    }

    /// All images, the newest last. One that is removed meanwhile is left out, and so is one that is damaged.
    pub fn list(&self) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = Vec::new();
        for id in self.ids()? {
            match self.image(&id) {
                Err(StoreError::Missing(_) | StoreError::Damaged(_)) => {}
                result => images.push(result?),
            }
        }
        images.sort_by_key(|image| (image.imported_unix_secs, image.id));
        Ok(images)
    }

    /// Images that cannot be used as they are, and why.
    pub fn damaged(&self) -> Result<Vec<(Digest, String)>, StoreError> {
        let mut damaged = Vec::new();
        for id in self.ids()? {
            if let Err(StoreError::Damaged(why)) = self.image(&id) {
                damaged.push((id, why));
            }
        }
        Ok(damaged)
    }

    /// The one image whose id starts with `prefix`.
    pub fn find_id(&self, prefix: &IdPrefix) -> Result<Digest, StoreError> {
        if let Some(id) = prefix.whole() {
            return if self.record_path(&id).exists() { Ok(id) } else { Err(StoreError::Missing(id.to_string())) };
        }
        let mut found = self.ids()?;
        found.retain(|id| id.hex().starts_with(prefix.as_str()));
        match found[..] {
            [id] => Ok(id),
            [] => Err(StoreError::Missing(format!("sha256:{}", prefix.as_str()))),
            _ => Err(StoreError::Ambiguous(format!("sha256:{}", prefix.as_str()), found.len())),
        }
    }

    /// Notes that the image is used now.
    pub fn touch(&self, id: &Digest) {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        // A read-only store is used all the same.
        let _ = rustix::fs::utimensat(rustix::fs::CWD, self.record_path(id), &times, rustix::fs::AtFlags::empty());
    }
}

pub(crate) fn now_unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4 << 10);
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
