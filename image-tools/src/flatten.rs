//! One plain tree of all layers, without a mount: each layer is unpacked as for the store, and then moved over the ones
//! below it as overlayfs would show them.

use crate::limits::Limits;
use crate::pipeline::{self, Expected};
use crate::source::{SourceImage, SourceLayer};
use crate::unpack::{UnpackError, unpack};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use thiserror::Error;

const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// Why there is no tree.
#[derive(Debug, Error)]
pub enum FlattenError {
    /// A layer was refused.
    #[error("layer {number}")]
    Layer {
        /// Its place in the image, from 1.
        number: usize,
        /// Why.
        source: UnpackError,
    },
    /// The system said no.
    #[error("{what}")]
    Io {
        /// The operation and its object.
        what: String,
        /// The errno.
        source: io::Error,
    },
}

/// Unpacks the image into `directory`, which is made, or must be empty.
pub fn flatten(image: &SourceImage, directory: &Path) -> Result<(), FlattenError> {
    let failed = |what: String| move |source| FlattenError::Io { what, source };
    let target = || format!("unpack into `{}`", directory.display());
    match std::fs::read_dir(directory).map(|mut entries| entries.next().is_some()) {
        Ok(false) => {}
        Ok(true) => return Err(failed(target())(io::ErrorKind::DirectoryNotEmpty.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(target())(error)),
    }
    // Beside the target, so that the finished tree is moved there in one step.
    let mut name = std::path::absolute(directory).map_err(failed(target()))?.into_os_string();
    name.push(format!(".{}.partial", std::process::id()));
    let staging = std::path::PathBuf::from(name);
    make(&staging, 0o700).map_err(failed(target()))?;
    let result =
        fill(image, &staging).and_then(|()| std::fs::rename(staging.join("0"), directory).map_err(failed(target())));
    let cleaned = std::fs::remove_dir_all(&staging).map_err(failed(format!("remove `{}`", staging.display())));
    result.and(cleaned)
}

fn make(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

fn fill(image: &SourceImage, staging: &Path) -> Result<(), FlattenError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| FlattenError::Io { what, source }
    };
    let limits = Limits::default();
    let base = staging.join("0");
    make(&base, 0o755).map_err(failed("make the root directory"))?;
    let lower = open(&base).map_err(failed("open the root directory"))?;
    for (index, layer) in image.layers.iter().enumerate() {
        let number = index + 1;
        let path = staging.join(number.to_string());
        make(&path, 0o755).map_err(failed("make the directory of a layer"))?;
        let upper = open(&path).map_err(failed("open the directory of a layer"))?;
        let SourceLayer { digest, size, diff_id, compression, .. } = *layer;
        let expected = Expected { digest, size, diff_id, compression };
        let reader = layer.extent.reader_from(0);
        pipeline::run(expected, &limits, reader, &mut |_| Ok(()), |consumer| unpack(upper.as_fd(), consumer, &limits))
            .map_err(|source| FlattenError::Layer { number, source })?;
        let merged = merge(lower.as_fd(), upper.as_fd());
        merged.map_err(|errno| failed("merge the layers")(errno.into()))?;
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, directory_flags(), Mode::empty())?)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

pub(crate) fn open_at(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(directory, name, directory_flags(), Mode::empty())
}

/// Moves the content of `upper` over that of `lower`, which becomes what `upper` was.
fn merge(lower: BorrowedFd<'_>, upper: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // Before anything is moved out of it, which changes its time.
    let stat = rustix::fs::fstat(upper)?;
    if is_opaque(upper) {
        for (name, _) in children(lower)? {
            remove(lower, &name)?;
        }
    }
    for (name, stat) in children(upper)? {
        let below = rustix::fs::statat(lower, &*name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let below_is_directory = below.is_some_and(|stat| kind(&stat) == FileType::Directory);
        if is_whiteout(&stat) {
            if below.is_some() {
                remove(lower, &name)?;
            }
            continue;
        }
        if kind(&stat) == FileType::Directory {
            let from = open_at(upper, &name)?;
            if !below_is_directory {
                if below.is_some() {
                    remove(lower, &name)?;
                }
                rustix::fs::mkdirat(lower, &*name, Mode::from_raw_mode(0o700))?;
            }
            let into = open_at(lower, &name)?;
            merge(into.as_fd(), from.as_fd())?;
            continue;
        }
        if below_is_directory {
            remove(lower, &name)?;
        }
        rustix::fs::renameat(upper, &*name, lower, &*name)?;
    }
    take_over(lower, upper, &stat)
}

/// A merged directory has the owner, mode, attributes and time of the upper one.
fn take_over(lower: BorrowedFd<'_>, upper: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(lower, Some(uid), Some(gid))?;
    rustix::fs::fchmod(lower, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for name in attributes(lower)? {
        if crate::unpack::is_kept(name.to_bytes()) {
            rustix::fs::fremovexattr(lower, &*name)?;
        }
    }
    for name in attributes(upper)? {
        if *name == *OPAQUE {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::fgetxattr(upper, &*name, &mut value[..])?;
        rustix::fs::fsetxattr(lower, &*name, &value[..len], XattrFlags::empty())?;
    }
    let time = rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
    rustix::fs::futimens(lower, &rustix::fs::Timestamps { last_access: time, last_modification: time })
}

/// What the host's kernel puts on files by itself: not of the image, and different from directory to directory.
const OF_THE_HOST: [&CStr; 3] = [c"security.selinux", c"security.ima", c"security.evm"];

/// Names of the extended attributes of a file.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<std::ffi::CString>> {
    // Not by a buffer of no length, which rustix answers without asking the kernel.
    let mut few = [0; 256];
    let mut many = Vec::new();
    let list = match rustix::fs::flistxattr(fd, &mut few[..]) {
        Err(Errno::RANGE) => {
            many.resize(64 << 10, 0);
            let len = rustix::fs::flistxattr(fd, &mut many[..])?;
            &many[..len]
        }
        len => &few[..len?],
    };
    let names = list.split_inclusive(|byte| *byte == 0);
    let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    Ok(names.filter(|name| !OF_THE_HOST.contains(name)).map(CStr::to_owned).collect())
}

pub(crate) fn is_opaque(fd: BorrowedFd<'_>) -> bool {
    let mut value = [0; 4];
    matches!(rustix::fs::fgetxattr(fd, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}

fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn children(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<(std::ffi::CString, Stat)>> {
    let mut children = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            children.push((name.to_owned(), rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?));
        }
    }
    Ok(children)
}

/// Removes a name and all below it, without following anything.
fn remove(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {
            let inner = open_at(directory, name)?;
            for (child, _) in children(inner.as_fd())? {
                remove(inner.as_fd(), &child)?;
            }
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
        }
        result => result,
    }
}
