//! One layer on its way into the store: compressed bytes into `blobs`, content into `layers`, in one pass.

use super::{Store, StoreError, io_error, read};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::pipeline::{self, BlobError, Expected};
use crate::unpack::{UnpackError, unpack};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Opens a blob from an offset on. It may be called again after a break.
pub type Open<'a> = dyn Fn(u64) -> io::Result<Box<dyn Read + Send + 'a>> + Send + Sync + 'a;

/// A layer that is to be stored.
pub struct Incoming<'a> {
    /// What it must be.
    pub expected: Expected,
    /// Where its bytes come from. Asked to start at an offset when an earlier attempt left a beginning behind, which is
    /// only done if the digest is known.
    pub open: Box<Open<'a>>,
}

impl std::fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.expected.fmt(f)
    }
}

/// A layer in the store; `layers/HEX/layer.json` holds this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredLayer {
    /// Digest of the plain content.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob.
    pub size: u64,
    /// How the blob is compressed.
    #[serde(with = "compression_name")]
    pub compression: Compression,
    /// Bytes of all files in the tree.
    pub tree_bytes: u64,
    /// Entries in the tree.
    pub entries: u64,
    /// It hides all layers below.
    pub opaque_root: bool,
}

mod compression_name {
    use crate::compression::Compression;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
    pub(super) fn serialize<S: Serializer>(compression: &Compression, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compression, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "none" => Ok(Compression::None),
            "gzip" => Ok(Compression::Gzip),
            "zstd" => Ok(Compression::Zstd),
            "xz" => Ok(Compression::Xz),
            _ => Err(D::Error::custom("unknown compression")),
        }
    }
}

/// How the extension of a directory begins that was a layer's and is damaged.
pub(super) const ASIDE: &str = "damaged";

/// A layer that is unpacked but not visible yet.
pub(super) enum Staged {
    /// It was in the store before.
    Present(StoredLayer),
    /// It waits for the sync.
    New {
        layer: StoredLayer,
        tree: PathBuf,
        blob: PathBuf,
        /// Held until the layer is visible, so that who waits for it finds it.
        _lock: Option<File>,
    },
}

impl Store {
    /// A layer that is complete in the store.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<StoredLayer>, StoreError> {
        let what = || format!("read the record of the layer {diff_id}");
        match read(&self.layer_path(diff_id).join("layer.json"), 64 << 10) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                StoreError::Damaged(format!("the record of the layer {diff_id} does not parse: {error}"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(what())(error)),
        }
    }

    /// True if nothing of the layer has to be read again.
    fn has(&self, expected: &Expected) -> Result<Option<StoredLayer>, StoreError> {
        let Some(diff_id) = expected.diff_id else { return Ok(None) };
        let Ok(Some(layer)) = self.layer(&diff_id) else { return Ok(None) };
        // A native manifest names its blob, which may be another compression of the same content. A tree whose blob was lost
        // is no help: without the blob the image can be neither verified nor exported.
        let digest = expected.digest.unwrap_or(layer.digest);
        let size = if digest == layer.digest { Some(layer.size) } else { expected.size };
        let blob = self.blob_path(&digest).symlink_metadata();
        let blob_is_whole = blob.is_ok_and(|blob| blob.is_file() && size.is_none_or(|size| blob.len() == size));
        Ok((blob_is_whole && self.open_tree(&diff_id).is_ok()).then_some(layer))
    }

    /// Reads, hashes, keeps and unpacks one layer. Waits for another process that is at the same layer, and then has
    /// nothing to do.
    pub(super) fn stage(&self, number: usize, incoming: &Incoming<'_>, limits: &Limits) -> Result<Staged, StoreError> {
        let expected = incoming.expected;
        if let Some(layer) = self.has(&expected)? {
            return Ok(Staged::Present(layer));
        }
        let key = expected.diff_id.or(expected.digest).map(|digest| digest.hex());
        let lock = key.as_ref().map(|key| self.lock(key)).transpose().map_err(io_error("lock the layer"))?;
        if let Some(layer) = self.has(&expected)? {
            return Ok(Staged::Present(layer));
        }
        let stem = match &key {
            Some(key) => self.root.join("tmp").join(key),
            None => self.temporary("layer").map_err(io_error("name a temporary file"))?,
        };
        let tree = stem.with_extension("tree");
        let blob = stem.with_extension(expected.digest.map_or_else(|| "blob".to_owned(), |digest| digest.hex()));
        make_tree(&tree).map_err(io_error("make the directory of the layer"))?;
        let layer = match self.fill(&tree, &blob, incoming, limits) {
            Ok(layer) => layer,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&tree); // `image gc` removes what is left.
                // What was read well is continued by the next attempt; what was read and found wrong is not.
                if expected.digest.is_none() || !matches!(error, UnpackError::Blob(BlobError::Read(_))) {
                    let _ = std::fs::remove_file(&blob);
                }
                return Err(StoreError::Layer { number, source: error });
            }
        };
        Ok(Staged::New { layer, tree, blob, _lock: lock })
    }

    fn fill(
        &self,
        tree: &Path,
        blob: &Path,
        incoming: &Incoming<'_>,
        limits: &Limits,
    ) -> Result<StoredLayer, UnpackError> {
        let expected = incoming.expected;
        let keep_error = |error| UnpackError::Blob(BlobError::Keep(error));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(blob)
            .map_err(keep_error)?;
        // Without a digest nobody could tell whether the beginning is of the same blob.
        let mut known = if expected.digest.is_some() { file.metadata().map_err(keep_error)?.len() } else { 0 };
        if expected.size.is_some_and(|size| known > size) {
            known = 0;
        }
        file.set_len(known).map_err(keep_error)?;
        let beginning = File::open(blob).map_err(keep_error)?.take(known);
        let rest = (incoming.open)(known).map_err(|error| UnpackError::Blob(BlobError::Read(error)))?;
        file.seek(SeekFrom::End(0)).map_err(keep_error)?;
        let mut skip = known;
        let mut keep = |bytes: &[u8]| {
            let skipped = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            file.write_all(&bytes[skipped..])
        };
        let root = open_directory(&tree.join("root")).map_err(keep_error)?;
        let (summary, actual) = pipeline::run(expected, limits, beginning.chain(rest), &mut keep, |consumer| {
            unpack(root.as_fd(), consumer, limits)
        })?;
        let layer = StoredLayer {
            diff_id: actual.diff_id,
            digest: actual.digest,
            size: actual.size,
            compression: expected.compression,
            tree_bytes: summary.bytes,
            entries: summary.entries,
            opaque_root: summary.opaque_root,
        };
        let text = serde_json::to_vec(&layer).expect("strings and numbers always serialise");
        std::fs::write(tree.join("layer.json"), text).map_err(keep_error)?;
        Ok(layer)
    }

    /// Makes a staged layer visible; the blob first, because the tree is what others look for.
    pub(super) fn publish(&self, staged: Staged) -> Result<StoredLayer, StoreError> {
        let (layer, tree, blob, lock) = match staged {
            Staged::Present(layer) => return Ok(layer),
            Staged::New { layer, tree, blob, _lock } => (layer, tree, blob, _lock),
        };
        let what = || format!("publish the layer {}", layer.diff_id);
        std::fs::rename(&blob, self.blob_path(&layer.digest)).map_err(io_error(what()))?;
        let path = self.layer_path(&layer.diff_id);
        let rename = || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &tree, CWD, &path, RenameFlags::NOREPLACE)
        };
        let mut renamed = rename();
        if renamed == Err(rustix::io::Errno::EXIST) {
            let stands = self.open_tree(&layer.diff_id).is_ok() && matches!(self.layer(&layer.diff_id), Ok(Some(_)));
            if stands {
                // A source that does not tell diff ids was here twice, or the tree had lost its blob, which is back.
                renamed = self.keep_tree(&layer, &tree).map_err(io_error(what()))?;
            } else {
                self.set_tree_aside(&layer.diff_id).map_err(io_error(what()))?;
                renamed = rename();
            }
        }
        renamed.map_err(io::Error::from).map_err(io_error(what()))?;
        drop(lock);
        Ok(layer)
    }

    /// Keeps the tree that is there, which pods may run from. Its record must name a blob that is there.
    fn keep_tree(&self, layer: &StoredLayer, fresh: &Path) -> io::Result<rustix::io::Result<()>> {
        let before = self.layer(&layer.diff_id).ok().flatten();
        if before.is_none_or(|before| !self.blob_path(&before.digest).exists()) {
            std::fs::rename(fresh.join("layer.json"), self.layer_path(&layer.diff_id).join("layer.json"))?;
        }
        std::fs::remove_dir_all(fresh)?;
        Ok(Ok(()))
    }

    /// Waits until nobody else works on `key`.
    fn lock(&self, key: &str) -> io::Result<File> {
        let path = self.root.join("locks").join(key);
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// A name in `tmp` that nobody else has.
    pub(super) fn temporary(&self, what: &str) -> io::Result<PathBuf> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(self.root.join("tmp").join(format!("{what}-{:016x}", u64::from_ne_bytes(random))))
    }
}

/// A fresh directory with an empty `root` in it.
fn make_tree(tree: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(tree)?;
    let root = tree.join("root");
    std::fs::create_dir(&root)?;
    // Whatever the umask says; an entry for the root may set another.
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

pub(super) fn open_directory(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
