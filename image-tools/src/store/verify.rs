//! Checking what is stored against what it must be, and getting it out again.

use super::{Store, StoreError, io_error};
use crate::digest::Digest;
use crate::extent::Extent;
use crate::flatten::{FlattenError, children, flatten, open_at};
use crate::limits::Limits;
use crate::native::{NativeFile, WriteError};
use crate::pipeline::{self, Expected};
use crate::signature::Signature;
use crate::source::{Content, SourceImage, SourceLayer, parse_native};
use crate::unpack::unpack;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Layers that were checked.
    pub layers: usize,
    /// What is not as it was when it was stored: the first difference of each layer, none if all is well.
    pub damage: Vec<String>,
}

impl Store {
    /// The image as a source: its documents, and its layers' blobs.
    pub fn source(&self, id: &Digest) -> Result<SourceImage, StoreError> {
        let image = self.image(id)?;
        let manifest = self.blob(id, crate::oci::BYTES_MAX)?;
        let (record, _) = self.record(id)?;
        let config = self.blob(&record.config, crate::config::BYTES_MAX as u64)?;
        let (parsed, _) = parse_native(&manifest, &config)?;
        let mut layers = Vec::with_capacity(parsed.layers.len());
        for (descriptor, layer) in parsed.layers.iter().zip(&image.config.layers) {
            let path = self.blob_path(&descriptor.digest);
            layers.push(SourceLayer {
                extent: Extent::open(&path).map_err(io_error(format!("read the blob {}", descriptor.digest)))?,
                compression: descriptor.layer_compression().map_err(crate::source::SourceError::from)?,
                digest: Some(descriptor.digest),
                size: Some(descriptor.size),
                diff_id: Some(layer.diff_id()),
            });
        }
        let content = Content::Native { manifest, config };
        // What was signed elsewhere is not this manifest.
        let own = image.origin.manifest.is_none();
        let signatures =
            image.signatures.into_iter().filter(|signature| own && matches!(signature, Signature::Pod { .. }));
        Ok(SourceImage { names: Vec::new(), manifest: Some(*id), content, layers, signatures: signatures.collect() })
    }

    /// Writes the image to a native file, which gives the same id wherever it is imported.
    pub fn export(&self, id: &Digest, out: &Path) -> Result<(), StoreError> {
        let image = self.source(id)?;
        let Content::Native { manifest, config } = &image.content else {
            unreachable!("the store has only native images")
        };
        let (parsed_manifest, parsed) = parse_native(manifest, config)?;
        let layers: Vec<_> = image.layers.iter().map(|layer| layer.extent.clone()).collect();
        let parsed = (&parsed_manifest, &parsed);
        let file = NativeFile { manifest, config, parsed, signatures: &image.signatures, layers: &layers };
        file.write(out).map_err(|error| match error {
            WriteError::Io { path, source } => StoreError::Io { what: format!("write `{path}`"), source },
            WriteError::Signature(error) => StoreError::Damaged(error.to_string()),
        })
    }

    /// Unpacks all layers into `directory`, which is made, or must be empty.
    pub fn extract(&self, id: &Digest, directory: &Path) -> Result<(), StoreError> {
        flatten(&self.source(id)?, directory).map_err(|error| match error {
            FlattenError::Layer { number, source } => StoreError::Layer { number, source },
            FlattenError::Io { what, source } => StoreError::Io { what, source },
        })
    }

    /// Reads every blob of the image again, checks all digests, and compares the trees with what the blobs unpack to.
    pub fn verify(&self, id: &Digest) -> Result<Verified, StoreError> {
        let image = self.source(id)?;
        let mut verified = Verified::default();
        for (index, layer) in image.layers.iter().enumerate() {
            verified.layers += 1;
            if let Some(damage) = self.verify_layer(index + 1, layer)? {
                verified.damage.push(damage);
            }
        }
        Ok(verified)
    }

    fn verify_layer(&self, number: usize, layer: &SourceLayer) -> Result<Option<String>, StoreError> {
        let what = "check a layer";
        let fresh = self.temporary("verify").map_err(io_error(what))?;
        std::fs::create_dir(&fresh).map_err(io_error(what))?;
        std::fs::set_permissions(&fresh, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(io_error(what))?;
        let root = super::layer::open_directory(&fresh).map_err(io_error(what))?;
        let SourceLayer { digest, size, diff_id, compression, .. } = *layer;
        let expected = Expected { digest, size, diff_id, compression };
        let limits = Limits::default();
        let unpacked = pipeline::run(expected, &limits, layer.extent.reader_from(0), &mut |_| Ok(()), |consumer| {
            unpack(root.as_fd(), consumer, &limits)
        });
        let outcome = match unpacked {
            Err(error) => Ok(Some(format!("layer {number}: {error}"))),
            Ok((_, actual)) => {
                let path = self.layer_path(&actual.diff_id).join("root");
                let stored = super::layer::open_directory(&path)
                    .map_err(io_error(format!("open the tree of layer {number}")))?;
                let found = compare(stored.as_fd(), root.as_fd());
                found
                    .map_err(|errno| io_error(what)(errno.into()))
                    .map(|found| found.map(|path| format!("layer {number}: `{}` was changed", path.escape_ascii())))
            }
        };
        std::fs::remove_dir_all(&fresh).map_err(io_error(what))?;
        outcome
    }
}

/// The first path at which two trees differ.
fn compare(stored: BorrowedFd<'_>, fresh: BorrowedFd<'_>) -> rustix::io::Result<Option<Vec<u8>>> {
    if !same(&rustix::fs::fstat(stored)?, &rustix::fs::fstat(fresh)?) || attributes(stored)? != attributes(fresh)? {
        return Ok(Some(Vec::new()));
    }
    let (mut ours, mut theirs) = (children(stored)?, children(fresh)?);
    ours.sort_by(|left, right| left.0.cmp(&right.0));
    theirs.sort_by(|left, right| left.0.cmp(&right.0));
    for pair in
        ours.iter().map(Some).chain(std::iter::repeat(None)).zip(theirs.iter().map(Some).chain(std::iter::repeat(None)))
    {
        let ((name, stat), (other, other_stat)) = match pair {
            (None, None) => return Ok(None),
            (Some((name, _)), None) | (None, Some((name, _))) => return Ok(Some(name.to_bytes().to_vec())),
            (Some(ours), Some(theirs)) => (ours, theirs),
        };
        if name != other || !same(stat, other_stat) {
            return Ok(Some(name.to_bytes().to_vec()));
        }
        let below = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => compare(open_at(stored, name)?.as_fd(), open_at(fresh, name)?.as_fd())?,
            FileType::RegularFile => (!same_file(stored, fresh, name)?).then(Vec::new),
            FileType::Symlink => {
                let target = |at| rustix::fs::readlinkat(at, name.as_c_str(), Vec::new());
                (target(stored)? != target(fresh)?).then(Vec::new)
            }
            _ => None,
        };
        if let Some(below) = below {
            let path = [name.to_bytes(), &below].join(&b'/');
            return Ok(Some(path.strip_suffix(b"/").unwrap_or(&path).to_vec()));
        }
    }
    Ok(None)
}

/// The size of a directory is the file system's affair.
fn same(ours: &Stat, theirs: &Stat) -> bool {
    let size = |stat: &Stat| match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => (0, 0),
        _ => (stat.st_size, stat.st_nlink),
    };
    let rest = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec);
    size(ours) == size(theirs) && rest(ours) == rest(theirs)
}

fn same_file(stored: BorrowedFd<'_>, fresh: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |at| rustix::fs::openat(at, name, flags, Mode::empty()).map(File::from);
    let (ours, theirs) = (open(stored)?, open(fresh)?);
    Ok(attributes(ours.as_fd())? == attributes(theirs.as_fd())? && same_bytes(ours, theirs).unwrap_or(false))
}

fn same_bytes(ours: File, theirs: File) -> io::Result<bool> {
    let (mut ours, mut theirs) =
        (io::BufReader::with_capacity(64 << 10, ours), io::BufReader::with_capacity(64 << 10, theirs));
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let len = ours.read(&mut left)?;
        if len == 0 {
            return Ok(theirs.read(&mut right)? == 0);
        }
        if theirs.read_exact(&mut right[..len]).is_err() || left[..len] != right[..len] {
            return Ok(false);
        }
    }
}

/// Names and values of all attributes, sorted.
fn attributes(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for name in crate::flatten::attributes(fd)? {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::fgetxattr(fd, &*name, &mut value[..])?;
        value.truncate(len);
        attributes.push((name.into_bytes(), value));
    }
    attributes.sort();
    Ok(attributes)
}
