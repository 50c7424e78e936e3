//! Owners, modes, attributes and times, in the order that the kernel needs.

use super::{Place, UnpackError};
use crate::archive::Time;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// A directory whose time is still to be set.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Vec<u8>,
    pub(super) mtime: Time,
}

/// Owner, then mode, then attributes: chown clears set-id bits and file capabilities.
pub(super) fn set(fd: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    let entry = place.entry;
    rustix::fs::fchown(fd, Some(uid(entry.uid)), Some(gid(entry.gid))).map_err(place.io("set the owner"))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(place.io("set the mode"))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty()) {
            // A filesystem without user attributes loses nothing that an app may rely on.
            Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
            result => result.map_err(place.io("set an extended attribute"))?,
        }
    }
    Ok(())
}

/// For links and nodes, which cannot be opened without side effects.
pub(super) fn set_nofollow(parent: BorrowedFd<'_>, place: &Place<'_>, has_mode: bool) -> Result<(), UnpackError> {
    let entry = place.entry;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, place.name, Some(uid(entry.uid)), Some(gid(entry.gid)), flags)
        .map_err(place.io("set the owner"))?;
    if has_mode {
        // The name was made a moment ago as a node in a directory that only we write to; it is no link.
        rustix::fs::chmodat(parent, place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(place.io("set the mode"))?;
    }
    rustix::fs::utimensat(parent, place.name, &timestamps(entry.mtime), flags).map_err(place.io("set the time"))
}

pub(super) fn set_time(fd: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    rustix::fs::futimens(fd, &timestamps(place.entry.mtime)).map_err(place.io("set the time"))
}

/// A directory that a later entry replaced has no time to set.
pub(super) fn set_directory_time(root: BorrowedFd<'_>, directory: &Directory) -> Result<(), UnpackError> {
    let path = if directory.path.is_empty() { b"." } else { &directory.path[..] };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let result = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
        .and_then(|fd| rustix::fs::futimens(&fd, &timestamps(directory.mtime)));
    match result {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(errno) => Err(UnpackError::Io {
            path: directory.path.escape_ascii().to_string(),
            operation: "set the time",
            source: errno.into(),
        }),
    }
}

fn timestamps(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn uid(id: u32) -> Uid {
    Uid::from_raw(id)
}

fn gid(id: u32) -> Gid {
    Gid::from_raw(id)
}

/// What an image may set. Attributes of overlayfs would change how layers stack, and those of security modules are the
/// host's to give.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name.starts_with(b"system.posix_acl_")
}
