//! Deletions: `.wh.NAME` of the OCI layer format becomes what overlayfs understands.

use super::{Place, UnpackError};
use crate::archive::Kind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

pub(super) enum Marker<'a> {
    /// The name is deleted from the layers below.
    Deleted(&'a [u8]),
    /// All content of the directory is.
    Opaque,
    /// Bookkeeping of aufs.
    Ignored,
}

pub(super) fn is_marker(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

pub(super) fn parse<'a>(place: &Place<'a>) -> Result<Marker<'a>, UnpackError> {
    if place.name == OPAQUE {
        return Ok(Marker::Opaque);
    }
    if place.entry.kind == Kind::Directory {
        return Err(place.refuse("is a directory with the name of a deletion"));
    }
    match &place.name[PREFIX.len()..] {
        b"" | b"." | b".." => Err(place.refuse("deletes a name that cannot be")),
        rest if rest.starts_with(PREFIX) => Ok(Marker::Ignored),
        rest => Ok(Marker::Deleted(rest)),
    }
}

/// A character device 0:0 hides the name in the layers below. If this layer has the name itself, it hides it already,
/// and a directory of this layer must not show what is below it.
pub(super) fn delete(parent: BorrowedFd<'_>, name: &[u8], place: &Place<'_>) -> Result<(), UnpackError> {
    match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::EXIST) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                Ok(directory) => set_opaque(directory.as_fd(), place),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(place.io("open")(errno)),
            }
        }
        Err(errno) => Err(place.io("mark as deleted")(errno)),
        Ok(()) => {
            let time = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(place.io("set the time"))
        }
    }
}

pub(super) fn set_opaque(directory: BorrowedFd<'_>, place: &Place<'_>) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(directory, c"trusted.overlay.opaque", b"y", XattrFlags::empty())
        .map_err(place.io("mark as opaque"))
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
