//! Unpacking one layer into an empty directory, in the form that overlayfs stacks.
//!
//! Runs as root in the host's namespaces on input of strangers. The directory is ours alone (the store is mode 0700), so
//! the only enemy is the layer itself, and what it may plant are links. Every path is resolved by the kernel inside the
//! directory (openat2 with RESOLVE_IN_ROOT), and the last component is never followed. Nothing outside is touched.

mod metadata;
mod parents;
mod whiteout;

use crate::archive::{Archive, ArchiveError, Entry, Kind, Time};
use crate::limits::Limits;
use crate::pipeline::BlobError;
use metadata::Directory;
pub(crate) use metadata::is_kept;
use parents::Parents;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// Why a layer was refused.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The tar stream is bad.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The blob is not what it should be.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// An entry that could harm, or that cannot be.
    #[error("the layer's entry `{path}` {why}")]
    Entry {
        /// Its name, escaped.
        path: String,
        /// Why it is refused.
        why: String,
    },
    /// More than a sensible layer has.
    #[error("the layer has more than {0}")]
    Limit(String),
    /// The system said no.
    #[error("unpack the layer's entry `{path}`: {operation}")]
    Io {
        /// Its name, escaped.
        path: String,
        /// What was tried.
        operation: &'static str,
        /// The errno.
        source: std::io::Error,
    },
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Device nodes that were left out: a pod has a `/dev` of its own.
    pub devices_left_out: u64,
    /// The layer hides all layers below it.
    pub opaque_root: bool,
}

/// Unpacks `reader`, an uncompressed tar, into the empty directory `root`.
pub fn unpack(root: BorrowedFd<'_>, reader: impl BufRead, limits: &Limits) -> Result<Summary, UnpackError> {
    let mut archive = Archive::new(reader);
    // A layer that says nothing about its root gives the same tree at any time.
    let directories = vec![Directory { path: Vec::new(), mtime: Time::default() }];
    let mut tree = Tree { parents: Parents::new(root), limits, directories, summary: Summary::default() };
    while let Some(entry) = archive.next_entry()? {
        tree.take(&entry, &mut archive)?;
    }
    archive.finish()?;
    tree.finish()
}

struct Tree<'a> {
    parents: Parents<'a>,
    limits: &'a Limits,
    /// Their times are set last, because what is made in them changes them.
    directories: Vec<Directory>,
    summary: Summary,
}

/// An entry and the name it has in its parent.
struct Place<'a> {
    entry: &'a Entry,
    /// Normalised: no empty component, no `.` or `..`.
    path: &'a [u8],
    /// Last component.
    name: &'a [u8],
}

impl Place<'_> {
    fn io(&self, operation: &'static str) -> impl FnOnce(Errno) -> UnpackError {
        let path = self.entry.path.escape_ascii().to_string();
        move |errno| UnpackError::Io { path, operation, source: errno.into() }
    }

    fn refuse(&self, why: impl Into<String>) -> UnpackError {
        UnpackError::Entry { path: self.entry.path.escape_ascii().to_string(), why: why.into() }
    }
}

impl Tree<'_> {
    fn take(&mut self, entry: &Entry, archive: &mut Archive<impl BufRead>) -> Result<(), UnpackError> {
        self.summary.entries += 1;
        if self.summary.entries > self.limits.entries {
            return Err(UnpackError::Limit(format!("{} entries", self.limits.entries)));
        }
        let path = normalize(entry, self.limits)?;
        let (parent_path, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        let place = Place { entry, path: &path, name };
        if name.is_empty() {
            return self.root(&place);
        }
        if whiteout::is_marker(name) {
            return self.whiteout(&place, parent_path);
        }
        match entry.kind {
            Kind::Character | Kind::Block if !is_standard_device(entry) => {
                if entry.device == (0, 0) {
                    return Err(place.refuse("is a device 0:0, which overlayfs takes for a deletion"));
                }
                self.summary.devices_left_out += 1;
                Ok(())
            }
            Kind::File => self.file(&place, parent_path, archive),
            Kind::Directory => self.directory(&place, parent_path),
            Kind::HardLink => self.hard_link(&place, parent_path),
            Kind::Symlink => self.symlink(&place, parent_path),
            Kind::Character | Kind::Block | Kind::Fifo => self.node(&place, parent_path),
        }
    }

    fn parent(&mut self, place: &Place<'_>, parent_path: &[u8]) -> Result<BorrowedFd<'_>, UnpackError> {
        self.parents.open(parent_path, &mut self.directories).map_err(|error| match error {
            Errno::NOTDIR => place.refuse("is below something that is no directory"),
            Errno::LOOP => place.refuse("is below symbolic links that have no end"),
            errno => place.io("open its directory")(errno),
        })
    }

    /// An entry for the root itself sets its owner, mode and time.
    fn root(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        if place.entry.kind != Kind::Directory {
            return Err(place.refuse("would replace the root directory"));
        }
        let root = self.parents.root();
        let fd = rustix::fs::openat(root, c".", directory_flags(), Mode::empty()).map_err(place.io("open"))?;
        metadata::set(fd.as_fd(), place)?;
        self.directories.push(Directory { path: Vec::new(), mtime: place.entry.mtime });
        Ok(())
    }

    fn directory(&mut self, place: &Place<'_>, parent_path: &[u8]) -> Result<(), UnpackError> {
        let parent = self.parent(place, parent_path)?;
        let mut hides_lower = false;
        match rustix::fs::mkdirat(parent, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = kind_of(parent, place)?;
                if found != Some(Kind::Directory) {
                    // A directory after the deletion of what lower layers have there stands alone.
                    hides_lower = found.is_none();
                    rustix::fs::unlinkat(parent, place.name, AtFlags::empty()).map_err(place.io("replace"))?;
                    rustix::fs::mkdirat(parent, place.name, Mode::from_raw_mode(0o700))
                        .map_err(place.io("make the directory"))?;
                }
            }
            Err(errno) => return Err(place.io("make the directory")(errno)),
        }
        let fd = rustix::fs::openat(parent, place.name, directory_flags(), Mode::empty()).map_err(place.io("open"))?;
        if hides_lower {
            whiteout::set_opaque(fd.as_fd(), place)?;
        }
        metadata::set(fd.as_fd(), place)?;
        self.directories.push(Directory { path: place.path.to_vec(), mtime: place.entry.mtime });
        Ok(())
    }

    fn file(
        &mut self,
        place: &Place<'_>,
        parent_path: &[u8],
        archive: &mut Archive<impl BufRead>,
    ) -> Result<(), UnpackError> {
        self.summary.bytes = self.summary.bytes.saturating_add(place.entry.size);
        if self.summary.bytes > self.limits.bytes {
            return Err(UnpackError::Limit(format!("{} bytes of files", self.limits.bytes)));
        }
        let parent = self.parent(place, parent_path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, place.name, flags, Mode::from_raw_mode(0o600));
        let fd = make(parent, place, "create the file", create)?;
        write_body(&fd, place, archive)?;
        metadata::set(fd.as_fd(), place)?;
        metadata::set_time(fd.as_fd(), place)
    }

    fn hard_link(&mut self, place: &Place<'_>, parent_path: &[u8]) -> Result<(), UnpackError> {
        let target = normalize_path(&place.entry.link, self.limits)
            .map_err(|why| place.refuse(format!("links to a name that {why}")))?;
        let (target_parent, target_name) = match target.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&target[..slash], &target[slash + 1..]),
            None => (&b""[..], &target[..]),
        };
        let missing = || place.refuse(format!("links to `{}`, which is not in the layer", target.escape_ascii()));
        if target_name.is_empty() {
            return Err(missing());
        }
        let from = self.parents.open_existing(target_parent).map_err(|_| missing())?;
        let stat = rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory || whiteout::is_whiteout(&stat) {
            return Err(missing());
        }
        let parent = self.parent(place, parent_path)?;
        if target == place.path {
            return Ok(()); // A link to itself is already there.
        }
        let link = || rustix::fs::linkat(&from, target_name, parent, place.name, AtFlags::empty());
        make(parent, place, "link", link)
    }

    fn symlink(&mut self, place: &Place<'_>, parent_path: &[u8]) -> Result<(), UnpackError> {
        let target = &place.entry.link;
        if target.is_empty() || target.len() > self.limits.path_bytes {
            return Err(place.refuse("is a symbolic link to an empty or too long name"));
        }
        let parent = self.parent(place, parent_path)?;
        make(parent, place, "make the symbolic link", || rustix::fs::symlinkat(&target[..], parent, place.name))?;
        metadata::set_nofollow(parent, place, false)
    }

    fn node(&mut self, place: &Place<'_>, parent_path: &[u8]) -> Result<(), UnpackError> {
        let parent = self.parent(place, parent_path)?;
        let (kind, device) = match place.entry.kind {
            Kind::Fifo => (FileType::Fifo, 0),
            _ => (FileType::CharacterDevice, rustix::fs::makedev(place.entry.device.0, place.entry.device.1)),
        };
        let mode = Mode::from_raw_mode(0o600);
        make(parent, place, "make the node", || rustix::fs::mknodat(parent, place.name, kind, mode, device))?;
        metadata::set_nofollow(parent, place, true)
    }

    fn whiteout(&mut self, place: &Place<'_>, parent_path: &[u8]) -> Result<(), UnpackError> {
        match whiteout::parse(place)? {
            whiteout::Marker::Ignored => Ok(()),
            whiteout::Marker::Opaque => {
                self.summary.opaque_root |= parent_path.is_empty();
                let parent = self.parent(place, parent_path)?;
                let fd =
                    rustix::fs::openat(parent, c".", directory_flags(), Mode::empty()).map_err(place.io("open"))?;
                whiteout::set_opaque(fd.as_fd(), place)
            }
            whiteout::Marker::Deleted(name) => {
                let parent = self.parent(place, parent_path)?;
                whiteout::delete(parent, name, place)
            }
        }
    }

    fn finish(self) -> Result<Summary, UnpackError> {
        let root = self.parents.root();
        for directory in &self.directories {
            metadata::set_directory_time(root, directory)?;
        }
        Ok(self.summary)
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Makes something that must not exist; what an earlier entry made under the name is replaced, but not a directory with
/// content.
fn make<T>(
    parent: BorrowedFd<'_>,
    place: &Place<'_>,
    operation: &'static str,
    create: impl Fn() -> rustix::io::Result<T>,
) -> Result<T, UnpackError> {
    match create() {
        Err(Errno::EXIST) => {
            let flags = match kind_of(parent, place)? {
                Some(Kind::Directory) => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            rustix::fs::unlinkat(parent, place.name, flags).map_err(|errno| match errno {
                Errno::NOTEMPTY | Errno::EXIST => place.refuse("would replace a directory that is not empty"),
                errno => place.io("replace")(errno),
            })?;
            create().map_err(place.io(operation))
        }
        result => result.map_err(place.io(operation)),
    }
}

/// `Directory`, or `File` for everything else; `None` for a deletion mark.
fn kind_of(parent: BorrowedFd<'_>, place: &Place<'_>) -> Result<Option<Kind>, UnpackError> {
    let stat = rustix::fs::statat(parent, place.name, AtFlags::SYMLINK_NOFOLLOW).map_err(place.io("look at"))?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(Kind::Directory),
        _ if whiteout::is_whiteout(&stat) => None,
        _ => Some(Kind::File),
    })
}

fn write_body(fd: &OwnedFd, place: &Place<'_>, archive: &mut Archive<impl BufRead>) -> Result<(), UnpackError> {
    let whole;
    let segments = match &place.entry.sparse {
        Some(segments) => {
            rustix::fs::ftruncate(fd, place.entry.size).map_err(place.io("set the size"))?;
            &segments[..]
        }
        None => {
            whole = [crate::archive::Segment { offset: 0, length: place.entry.size }];
            &whole[..]
        }
    };
    let mut segments = segments.iter();
    let (mut offset, mut left) = (0, 0);
    archive.read_body(|mut piece| {
        while !piece.is_empty() {
            if left == 0 {
                // The archive checked that the segments are as long as the body.
                let Some(segment) = segments.next() else { return Ok(()) };
                (offset, left) = (segment.offset, segment.length);
                continue;
            }
            let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let written = match rustix::io::pwrite(fd, &piece[..len], offset) {
                Ok(written) => written,
                Err(Errno::INTR) => 0,
                Err(errno) => return Err(place.io("write")(errno)),
            };
            piece = &piece[written..];
            offset += written as u64;
            left -= written as u64;
        }
        Ok(())
    })
}

/// The character devices every root has in `/dev`. Others are left out: what an image could reach through them is the
/// host's hardware.
fn is_standard_device(entry: &Entry) -> bool {
    let memory = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];
    let terminals = [(5, 0), (5, 1), (5, 2)];
    entry.kind == Kind::Character && (memory.contains(&entry.device) || terminals.contains(&entry.device))
}

fn normalize(entry: &Entry, limits: &Limits) -> Result<Vec<u8>, UnpackError> {
    normalize_path(&entry.path, limits)
        .map_err(|why| UnpackError::Entry { path: entry.path.escape_ascii().to_string(), why })
}

/// Without `.` and empty components, and without a leading slash: names in a layer are relative to its root.
pub(crate) fn normalize_path(path: &[u8], limits: &Limits) -> Result<Vec<u8>, String> {
    if path.len() > limits.path_bytes {
        return Err(format!("has more than {} bytes", limits.path_bytes));
    }
    let mut normal = Vec::with_capacity(path.len());
    let mut depth = 0;
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("leads out of its directory by `..`".into()),
            _ if component.len() > 255 => return Err("has a component of more than 255 bytes".into()),
            _ if component.contains(&0) => return Err("has a NUL byte".into()),
            _ => {}
        }
        depth += 1;
        if depth > limits.depth {
            return Err(format!("is more than {} directories deep", limits.depth));
        }
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(component);
    }
    Ok(normal)
}

#[cfg(test)]
mod tests;
