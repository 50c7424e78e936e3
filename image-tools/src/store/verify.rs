//! Checking all of an image against what it must be, and setting aside what is not.
//!
//! Every digest is taken again: a run does not do that. What is found is told to the user, and `pod fetch` has it set aside,
//! so that the next import brings it anew. A later file system verity would let the kernel do it at each read; the place
//! for its roots is [`StoredLayer`], beside the digest of each layer.

use super::compare::compare;
use super::names::link;
use super::{Record, Store, StoreError, StoredLayer, io_error, tree};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::extent::Extent;
use crate::limits::Limits;
use crate::name::ImageName;
use crate::oci::Manifest;
use crate::pipeline::{self, Expected};
use crate::provenance::Came;
use crate::source::parse_native;
use crate::unpack::unpack;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Layers that were checked.
    pub layers: usize,
    /// A block image was there and was checked.
    pub block: bool,
    /// What is not as it was when it was stored; nothing if all is well.
    pub damage: Vec<Damage>,
}

/// One thing that is not as it was when it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    part: Part,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Record, manifest or configuration: an import writes them anew.
    Documents,
    Blob(Digest),
    Tree(Digest),
    Block,
    Name(PathBuf),
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Store {
    /// Reads every blob of the image again, checks all digests, compares the trees with what the blobs unpack to, and looks
    /// at the block image, the record and the names.
    pub fn verify(&self, id: &Digest) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        let (record, manifest, config) = match self.documents(id) {
            Err(missing @ StoreError::Missing(_)) => return Err(missing),
            Err(error) => {
                let text = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                verified.damage.push(Damage { part: Part::Documents, text });
                return Ok(verified);
            }
            Ok(documents) => documents,
        };
        for (index, (descriptor, layer)) in manifest.layers.iter().zip(&config.layers).enumerate() {
            verified.layers += 1;
            let compression = descriptor.layer_compression().map_err(crate::source::SourceError::from)?;
            let (digest, size, diff_id) = (Some(descriptor.digest), Some(descriptor.size), Some(layer.diff_id()));
            let expected = Expected { digest, size, diff_id, compression };
            self.verify_layer(index + 1, (&descriptor.digest, &layer.diff_id()), expected, &mut verified.damage)?;
        }
        let block = crate::block::damage(&self.root, id, &self.stack(&config, |_, _| Ok(()))?);
        let (there, wrong) = block.map_err(io_error("check the block image"))?;
        verified.block = there;
        verified.damage.extend(wrong.map(|text| Damage { part: Part::Block, text }));
        self.verify_names(id, &record, &config, &mut verified.damage)?;
        if verified.damage.is_empty() {
            self.note_verified(&config);
        }
        Ok(verified)
    }

    /// Record, manifest and configuration, which fit each other.
    pub(super) fn documents(&self, id: &Digest) -> Result<(Record, Manifest, ImageConfig), StoreError> {
        let (record, _) = self.record(id)?;
        let manifest = self.blob(id, crate::oci::BYTES_MAX)?;
        let config = self.blob(&record.config, crate::config::BYTES_MAX as u64)?;
        let (manifest, config) = parse_native(&manifest, &config)
            .map_err(|error| StoreError::Damaged(format!("the documents of the image {id} do not fit: {error}")))?;
        Ok((record, manifest, config))
    }

    fn verify_layer(
        &self,
        number: usize,
        (digest, diff_id): (&Digest, &Digest),
        expected: Expected,
        damage: &mut Vec<Damage>,
    ) -> Result<(), StoreError> {
        let what = "check a layer";
        let extent = match Extent::open(&self.blob_path(digest)) {
            Ok(extent) => extent,
            Err(error) => {
                let text = format!("layer {number}: the blob {digest} cannot be read: {error}");
                damage.push(Damage { part: Part::Blob(*digest), text });
                return Ok(());
            }
        };
        let fresh = self.temporary("verify").map_err(io_error(what))?;
        std::fs::create_dir(&fresh).map_err(io_error(what))?;
        std::fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(io_error(what))?;
        let root = super::layer::open_directory(&fresh).map_err(io_error(what))?;
        let limits = Limits::default();
        let unpacked = pipeline::run(expected, &limits, extent.reader_from(0), &mut |_| Ok(()), |consumer| {
            unpack(root.as_fd(), consumer, &limits)
        });
        match unpacked {
            Err(error) => {
                let text = format!("layer {number}: the blob {digest}: {error}");
                damage.push(Damage { part: Part::Blob(*digest), text });
            }
            Ok((summary, _)) => {
                let is = (summary.bytes, summary.entries, summary.opaque_root);
                if let Some(wrong) = self.wrong_tree(diff_id, root.as_fd(), is)? {
                    damage.push(Damage { part: Part::Tree(*diff_id), text: format!("layer {number}: {wrong}") });
                }
            }
        }
        std::fs::remove_dir_all(&fresh).map_err(io_error(what))
    }

    /// What is wrong with the tree of a layer, beside what its blob unpacks to.
    fn wrong_tree(
        &self,
        diff_id: &Digest,
        fresh: std::os::fd::BorrowedFd<'_>,
        is: (u64, u64, bool),
    ) -> Result<Option<String>, StoreError> {
        let stored = match self.open_tree(diff_id) {
            Err(error) => return Ok(Some(format!("its tree {}", tree::why(&error)))),
            Ok(stored) => stored,
        };
        let changed = compare(stored.as_fd(), fresh).map_err(|errno| io_error("check a layer")(errno.into()))?;
        if let Some(path) = changed {
            return Ok(Some(format!("`/{}` was changed", path.escape_ascii())));
        }
        let names = super::gc::children(&self.layer_path(diff_id)).map_err(io_error("check a layer"))?;
        if let Some(stranger) = names.iter().find(|path| !path.ends_with("root") && !path.ends_with("layer.json")) {
            return Ok(Some(format!("`{}` is none of the store's", stranger.display())));
        }
        let says = |layer: StoredLayer| (layer.tree_bytes, layer.entries, layer.opaque_root);
        Ok(match self.layer(diff_id) {
            Ok(Some(layer)) if layer.diff_id == *diff_id && says(layer) == is => None,
            Ok(_) => Some("its `layer.json` says something else".to_owned()),
            Err(error) => Some(error.to_string()),
        })
    }

    /// Links of the image's own names that lead to other images, and links of other names that lead to this one.
    fn verify_names(
        &self,
        id: &Digest,
        record: &Record,
        config: &ImageConfig,
        damage: &mut Vec<Damage>,
    ) -> Result<(), StoreError> {
        let names = self.root.join("names");
        let own = names.join(config.name.as_str());
        let mut wrong = Vec::new();
        each_link(&names, &mut |path| {
            let to = std::fs::read_link(path)?;
            let to = to.to_str().and_then(Digest::from_hex);
            let carried = match to {
                Some(to) if to == *id => carries(id, record, config, &names, path),
                _ if path.parent() != Some(&own) => true,
                // A name may lead to an image that is gone; then it means nothing.
                Some(to) => match self.documents(&to) {
                    Ok((record, _, config)) => carries(&to, &record, &config, &names, path),
                    Err(error) => matches!(error, StoreError::Missing(_)),
                },
                None => false,
            };
            if !carried {
                wrong.push(path.to_owned());
            }
            Ok(())
        })
        .map_err(io_error("check the names"))?;
        damage.extend(wrong.into_iter().map(|path| {
            let text = format!("the name `{}` leads to an image that does not carry it", path.display());
            Damage { part: Part::Name(path), text }
        }));
        Ok(())
    }

    /// Takes out of sight what was found to be damaged, so that an import brings it anew. Trees stay for pods that run from
    /// them, until `image gc`.
    pub fn set_aside(&self, id: &Digest, verified: &Verified) -> Result<(), StoreError> {
        let what = "set aside what is damaged";
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(what)(error)),
            _ => Ok(()),
        };
        for damage in &verified.damage {
            match &damage.part {
                Part::Documents => {}
                Part::Blob(digest) => gone(std::fs::remove_file(self.blob_path(digest)))?,
                Part::Tree(diff_id) => gone(self.set_tree_aside(diff_id))?,
                Part::Block => gone(crate::block::remove(&self.root, id))?,
                Part::Name(path) => gone(std::fs::remove_file(path))?,
            }
        }
        Ok(())
    }

    /// Gives the directory of a layer another name.
    pub(super) fn set_tree_aside(&self, diff_id: &Digest) -> io::Result<()> {
        let aside = self.temporary(super::layer::ASIDE)?;
        let name = aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = self.layer_path(diff_id);
        std::fs::rename(&path, path.with_extension(name))
    }

    /// When all content of an image was last compared with its digests: as it was unpacked, or by [`Store::verify`].
    pub fn verified(&self, config: &ImageConfig) -> Option<SystemTime> {
        let times = config
            .layers
            .iter()
            .map(|layer| self.layer_path(&layer.diff_id()).join("layer.json").symlink_metadata().ok()?.modified().ok());
        times.collect::<Option<Vec<SystemTime>>>()?.into_iter().min()
    }

    fn note_verified(&self, config: &ImageConfig) {
        for layer in &config.layers {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
            let path = self.layer_path(&layer.diff_id()).join("layer.json");
            // A read-only store is verified all the same.
            let _ = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        }
    }
}

/// Calls `each` with every symbolic link below a directory.
fn each_link(directory: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for path in super::gc::children(directory)? {
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            each_link(&path, each)?;
        } else if kind.is_symlink() {
            each(&path)?;
        }
    }
    Ok(())
}

/// Whether the image was stored under the name that a link stands for.
fn carries(id: &Digest, record: &Record, config: &ImageConfig, names: &Path, path: &Path) -> bool {
    let origin = &record.origin;
    let own = (&config.name, config.version.as_ref());
    let came = origin.came.iter().filter_map(|came| match came {
        Came::Registry { name, version, .. } => Some((name, version.as_ref())),
        _ => None,
    });
    let directory = |name: &ImageName| names.join(name.as_str());
    std::iter::once(own).chain(came).any(|(name, version)| {
        let digests = [Some(*id), origin.manifest, origin.index].into_iter().flatten().map(|digest| digest.to_string());
        let mut texts: HashSet<String> = digests.collect();
        texts.extend([String::new(), "latest".to_owned()]);
        texts.extend(version.map(ToString::to_string));
        texts.iter().any(|text| directory(name).join(link(text, &config.architecture)) == path)
    })
}
