//! The directory an entry goes into, resolved by the kernel inside the root of the tree.
//!
//! A directory that the archive does not list is made as root's, 0755 and of time 0, though a layer below may have it with
//! another mode. A layer's tree is shared by all images that have the layer, whatever lies below it, so what a lower layer
//! says cannot be copied into it; the storage drivers of Docker and podman that have one tree for each layer do the same.
//! Tools that make layers list the directories; a publisher whose tool does not can convert a flattened image.

use super::metadata::Directory;
use crate::archive::Time;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Remembers the last parent, because archives list a directory's files one after the other.
pub(super) struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Parents<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    pub(super) fn root(&self) -> BorrowedFd<'a> {
        self.root
    }

    /// The directory `path`, made with its parents if it is missing.
    pub(super) fn open(&mut self, path: &[u8], made: &mut Vec<Directory>) -> rustix::io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root);
        }
        // What the path means changes only if a directory on it is replaced, and directories with content are not.
        let known = self.last.as_ref().is_some_and(|(last, _)| last == path);
        if !known {
            let fd = match resolve(self.root, path) {
                Err(Errno::NOENT) => self.make(path, made)?,
                result => result?,
            };
            self.last = Some((path.to_vec(), fd));
        }
        Ok(self.last.as_ref().map_or(self.root, |(_, fd)| fd.as_fd()))
    }

    /// The directory `path`, which must be there.
    pub(super) fn open_existing(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        resolve(self.root, if path.is_empty() { b"." } else { path })
    }

    fn make(&self, path: &[u8], made: &mut Vec<Directory>) -> rustix::io::Result<OwnedFd> {
        let mut at = resolve(self.root, b".")?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([path.len()]) {
            let here = &path[..end];
            at = match resolve(self.root, here) {
                Err(Errno::NOENT) => {
                    let name = here.rsplit(|byte| *byte == b'/').next().unwrap_or(here);
                    // A dangling symbolic link makes this fail with EEXIST, which says enough.
                    rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                    rustix::fs::chmodat(&at, name, Mode::from_raw_mode(0o755), rustix::fs::AtFlags::empty())?;
                    made.push(Directory { path: here.to_vec(), mtime: Time::default() });
                    resolve(self.root, here)?
                }
                result => result?,
            };
        }
        Ok(at)
    }
}

/// Symbolic links on the way are followed inside the root only; a link through /proc or a mount is refused.
fn resolve(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel could not rule out a concurrent rename somewhere on the machine.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}
