//! The root of an app, reached by descriptor only.
//!
//! What lies in it is hostile: any name may be a symbolic link, and other apps may change shared volumes at any time. So
//! each path is resolved by the kernel within the root (openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS), and what
//! was opened is then used by its descriptor, never by its name again.

use anyhow::{Context, Result, bail};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Symbolic links followed while directories are made; the kernel's own limit.
const LINKS_MAX: usize = 40;
/// Races lost to somebody who renames directories, before the start is given up.
const RACES_MAX: usize = 100;

/// An app's root directory.
pub(crate) struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// Opens the root at `path`, which is ours: no part of it is under the app's control.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .with_context(|| format!("open the app's root `{}`", path.display()))?;
        Ok(Self(fd))
    }

    /// Opens what is at `path` inside the root, following symbolic links inside the root.
    pub(crate) fn at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in(self.as_fd(), path, flags, ResolveFlags::empty())
    }

    /// As [`Self::at`], without the right to read it; `None` if it is not there.
    pub(crate) fn existing(&self, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
        match self.at(path, OFlags::PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a directory that may be no symbolic link nor lie behind one, and makes it if it is missing. For /proc, /sys and
    /// /dev: an image that has links there wants something to be mounted elsewhere.
    pub(crate) fn plain_directory(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let open = || open_in(self.as_fd(), Path::new(name), flags, ResolveFlags::NO_SYMLINKS);
        match open() {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755))
                    .with_context(|| format!("make `/{name}` in the app's root"))?;
                open().with_context(|| format!("open `/{name}`"))
            }
            Err(Errno::LOOP) => bail!("`/{name}` of the image is a symbolic link"),
            other => other.with_context(|| format!("open `/{name}` of the image")),
        }
    }

    /// Opens the directory at `path` as O_PATH, with all that is missing of it made, mode 0755.
    pub(crate) fn make_directory(&self, path: &Path) -> Result<OwnedFd> {
        self.make(path, false).with_context(|| format!("make directory `{}`", path.display()))
    }

    /// Opens what is at `path` as O_PATH, with missing directories and, in the end, an empty file made.
    pub(crate) fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        self.make(path, true).with_context(|| format!("make file `{}`", path.display()))
    }

    fn make(&self, path: &Path, file: bool) -> Result<OwnedFd> {
        let flags = if file { OFlags::PATH } else { OFlags::PATH | OFlags::DIRECTORY };
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            // Mostly everything is there, and one call is enough.
            match self.at(&path, flags) {
                Err(Errno::NOENT) => {}
                other => return Ok(other?),
            }
            match self.make_missing(&path, file)? {
                None => return Ok(self.at(&path, flags)?),
                Some(detour) => path = detour,
            }
        }
        Err(Errno::LOOP.into())
    }

    /// Makes each missing part of `path`. A part that is a dangling symbolic link gives the path to go on with instead.
    fn make_missing(&self, path: &Path, file: bool) -> Result<Option<PathBuf>> {
        let mut walked = PathBuf::from(".");
        let mut parent = self.at(Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
        let mut parts = path.components();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else {
                walked.push(if part == Component::ParentDir { ".." } else { "." });
                parent = self.at(&walked, OFlags::PATH | OFlags::DIRECTORY)?;
                continue;
            };
            let last = parts.as_path().as_os_str().is_empty();
            let made = if last && file {
                rustix::fs::mknodat(&parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
            } else {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            if last && file {
                return self.detour(&parent, &walked, name, Path::new(""));
            }
            match self.at(&walked.join(name), OFlags::PATH | OFlags::DIRECTORY) {
                Ok(fd) => parent = fd,
                Err(Errno::NOENT) => return self.detour(&parent, &walked, name, parts.as_path()),
                Err(error) => return Err(error.into()),
            }
            walked.push(name);
        }
        Ok(None)
    }

    /// If `name` in `parent` is a symbolic link: the path behind it, and `rest` after that.
    fn detour(&self, parent: &OwnedFd, walked: &Path, name: &std::ffi::OsStr, rest: &Path) -> Result<Option<PathBuf>> {
        match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Ok(target) => {
                let target = PathBuf::from(std::ffi::OsStr::from_bytes(target.as_bytes()));
                // An absolute target replaces `walked`: it starts at the root again.
                Ok(Some(walked.join(target).join(rest)))
            }
            Err(Errno::INVAL) => Ok(None), // Not a link.
            Err(error) => Err(error.into()),
        }
    }
}

/// openat2 within `root`. An absolute `path` starts at `root` too.
fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, more: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let open = || rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    for _ in 0..RACES_MAX {
        match open() {
            // The kernel says so when a rename raced with the walk through `..`.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    open()
}

/// Whether the O_PATH descriptor is a directory.
pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
