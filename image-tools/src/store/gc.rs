//! Removing images, and what no image and no pod needs any more.

use super::{Store, StoreError, io_error, now_unix_secs};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::oci::Document;
use crate::provenance::Came;
use rustix::fs::FlockOperation;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What pods need: they keep the trees of their layers even after the image is removed.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// Ids of images that pods were made from.
    pub images: HashSet<Digest>,
    /// Directories of layers, and block images, as in [`super::StoredImage::layers`].
    pub paths: HashSet<PathBuf>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images that nobody had used for the grace period.
    pub images: Vec<Digest>,
    /// Trees of layers.
    pub layers: usize,
    /// Blobs.
    pub blobs: usize,
    /// Files and directories that a killed process left.
    pub leftovers: usize,
}

/// The store, with nobody else in it.
#[derive(Debug)]
pub struct Alone<'a>(&'a Store);

impl Alone<'_> {
    /// Removes images that nobody used for `grace_secs` (all unused ones with 0; none with `None`), and content that no
    /// image and no pod needs.
    pub fn collect(&self, grace_secs: Option<u64>, in_use: &InUse) -> Result<Collected, StoreError> {
        self.0.collect(grace_secs, in_use)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0.lock, FlockOperation::LockShared); // Else it ends with the process.
    }
}

impl Store {
    /// Removes an image: at once for whoever asks for it, its content with the next collection.
    pub fn remove(&self, id: &Digest) -> Result<(), StoreError> {
        let image = self.image(id);
        let path = self.record_path(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(id.to_string())),
            result => result.map_err(io_error(format!("remove the image {id}")))?,
        }
        match image {
            Ok(image) => {
                self.forget_names(&image.name, id)?;
                let mut names = image.origin.came.iter().filter_map(|came| match came {
                    Came::Registry { name, .. } if *name != image.name => Some(name),
                    _ => None,
                });
                names.try_for_each(|name| self.forget_names(name, id))
            }
            Err(_) => Ok(()), // What names of a damaged image are left mean nothing, until it is imported again.
        }
    }

    /// Waits until nobody else has the store open. Who starts a pod has, until the pod is written down: what pods need must
    /// be asked after this, or one that was just being started is missed.
    pub fn alone(&self) -> Result<Alone<'_>, StoreError> {
        let locked = rustix::fs::flock(&self.lock, FlockOperation::LockExclusive).map_err(io::Error::from);
        locked.map_err(io_error("lock the image store")).map(|()| Alone(self))
    }

    fn collect(&self, grace_secs: Option<u64>, in_use: &InUse) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        if let Some(grace_secs) = grace_secs {
            let before = now_unix_secs().saturating_sub(grace_secs);
            for id in self.ids()? {
                if self.last_used(&id)? <= before && !in_use.images.contains(&id) {
                    self.remove(&id)?;
                    collected.images.push(id);
                }
            }
        }
        let (blobs, layers) = self.reachable(in_use)?;
        // What was set aside may be what pods run from, under the name that it had.
        let layer_in_use = |path: &Path| in_use.paths.contains(&path.with_extension("").join("root"));
        let what = "collect the image store";
        for path in children(&self.root.join("layers")).map_err(io_error(what))? {
            let known = path.extension().is_none() && digest_of(&path).is_some_and(|digest| layers.contains(&digest));
            if !known && !layer_in_use(&path) {
                self.discard(&path).map_err(io_error(what))?;
                collected.layers += 1;
            }
        }
        for path in children(&self.root.join("blobs/sha256")).map_err(io_error(what))? {
            if !digest_of(&path).is_some_and(|digest| blobs.contains(&digest)) {
                std::fs::remove_file(&path).map_err(io_error(what))?;
                collected.blobs += 1;
            }
        }
        for path in children(&self.root.join(crate::block::DIRECTORY)).map_err(io_error(what))? {
            let known = digest_of(&path).is_some_and(|digest| self.record_path(&digest).exists());
            if !known && !in_use.paths.contains(&path.with_extension("erofs")) {
                self.discard(&path).map_err(io_error(what))?;
                collected.blobs += 1;
            }
        }
        for path in children(&self.root.join("tmp")).map_err(io_error(what))? {
            remove(&path).map_err(io_error(what))?;
            collected.leftovers += 1;
        }
        for path in children(&self.root.join("locks")).map_err(io_error(what))? {
            remove(&path).map_err(io_error(what))?;
        }
        Ok(collected)
    }

    /// When the image was last used, also if its record is damaged.
    fn last_used(&self, id: &Digest) -> Result<u64, StoreError> {
        let metadata = self.record_path(id).metadata().map_err(io_error(format!("look at the image {id}")))?;
        Ok(metadata.mtime().try_into().unwrap_or(0))
    }

    /// What images and pods need: blobs, and trees. A tree and its blob stay together, so that the image can be fetched again
    /// without both. Of a damaged image what can be made out stays.
    fn reachable(&self, in_use: &InUse) -> Result<(HashSet<Digest>, HashSet<Digest>), StoreError> {
        let mut blobs = HashSet::new();
        let mut layers: HashSet<Digest> =
            in_use.paths.iter().filter_map(|path| path.ends_with("root").then(|| digest_of(path.parent()?))?).collect();
        for id in self.ids()? {
            blobs.insert(id);
            if let Ok((record, _)) = self.record(&id) {
                blobs.insert(record.config);
            }
            let manifest = self.blob(&id, crate::oci::BYTES_MAX);
            if let Ok(Ok(Document::Manifest(manifest))) = manifest.map(|manifest| Document::parse(&manifest, None)) {
                blobs.insert(manifest.config.digest);
                blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
                let config = self.blob(&manifest.config.digest, crate::config::BYTES_MAX as u64).ok();
                let config = config.and_then(|config| ImageConfig::parse(&config).ok());
                layers.extend(config.iter().flat_map(|config| &config.layers).map(crate::config::Layer::diff_id));
            }
        }
        for diff_id in &layers {
            if let Ok(Some(layer)) = self.layer(diff_id) {
                blobs.insert(layer.digest);
            }
        }
        Ok((blobs, layers))
    }

    /// Removes a directory so that a kill leaves either all of it or garbage in `tmp`.
    fn discard(&self, path: &Path) -> io::Result<()> {
        let temporary = self.temporary("discarded")?;
        std::fs::rename(path, &temporary)?;
        remove(&temporary)
    }
}

fn digest_of(path: &Path) -> Option<Digest> {
    path.file_stem().and_then(|name| name.to_str()).and_then(Digest::from_hex)
}

pub(super) fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}
