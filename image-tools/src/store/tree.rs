//! The trees that an image is made of: which ones, in what order, and that each is a directory of the store.
//!
//! Nothing of this is written down: it follows from the configuration, which the signed manifest names by its digest, and
//! from the trees themselves. The content of a tree is not read here; [`Store::verify`] does that.

use super::{Store, StoreError};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::flatten::is_opaque;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

impl Store {
    /// The root of a layer's tree. A link on the way, or a mount, is none.
    pub(super) fn open_tree(&self, diff_id: &Digest) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let layers = rustix::fs::openat(CWD, self.root.join("layers"), flags, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        Ok(rustix::fs::openat2(&layers, format!("{}/root", diff_id.hex()), flags, Mode::empty(), resolve)?)
    }

    /// Roots of the trees to stack, lowest first. overlayfs takes each directory once; the upper one hides what the lower
    /// one had, and one that is opaque hides all below it.
    pub(super) fn trees(&self, id: &Digest, config: &ImageConfig) -> Result<Vec<PathBuf>, StoreError> {
        self.stack(config, |diff_id, error| Err(not_a_tree(id, diff_id, &error)))
    }

    /// As [`Store::trees`], where `missing` says what becomes of a tree that cannot be opened.
    pub(super) fn stack(
        &self,
        config: &ImageConfig,
        missing: impl Fn(&Digest, io::Error) -> Result<(), StoreError>,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let mut stacked: Vec<Digest> = Vec::with_capacity(config.layers.len());
        for diff_id in config.layers.iter().rev().map(crate::config::Layer::diff_id) {
            if stacked.contains(&diff_id) {
                continue;
            }
            stacked.push(diff_id);
            match self.open_tree(&diff_id) {
                Ok(tree) if is_opaque(tree.as_fd()) => break,
                Ok(_) => {}
                Err(error) => missing(&diff_id, error)?,
            }
        }
        Ok(stacked.iter().rev().map(|diff_id| self.layer_path(diff_id).join("root")).collect())
    }
}

fn not_a_tree(id: &Digest, diff_id: &Digest, error: &io::Error) -> StoreError {
    StoreError::Damaged(format!("the tree of layer {diff_id} of the image {id} {}", why(error)))
}

/// What is wrong with a tree that cannot be opened, as the end of a sentence.
pub(super) fn why(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => "is not there".to_owned(),
        Some(Errno::LOOP | Errno::NOTDIR) => "is not a directory of the store".to_owned(),
        Some(Errno::XDEV) => "is a mount of something else".to_owned(),
        _ => format!("cannot be opened: {error}"),
    }
}
