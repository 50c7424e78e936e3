//! Filling an empty volume with what the image has at its mount point, once, as Docker does it.

use anyhow::{Context, Result, ensure};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use std::ffi::CStr;

/// Directories in directories at most; deeper trees are refused, not cut.
const DEPTH_MAX: usize = 128;

/// Copies the content, and the owner and mode, of the directory `image` into `volume`, if `volume` holds nothing.
pub(crate) fn fill(image: BorrowedFd<'_>, volume: BorrowedFd<'_>) -> Result<()> {
    let (from, to) = (open_directory(image, c".")?, open_directory(volume, c".")?);
    if entries(&to)?.next().is_some() {
        return Ok(());
    }
    copy_directory(&from, &to, 0)?;
    let stat = rustix::fs::fstat(&from)?;
    finish(&to, &stat)
}

fn open_directory(parent: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// The names in a directory, without `.` and `..`.
fn entries(directory: &OwnedFd) -> Result<impl Iterator<Item = rustix::io::Result<std::ffi::CString>>> {
    let names = Dir::read_from(directory)?;
    Ok(names
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .filter(|name| !name.as_ref().is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."))))
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    ensure!(depth < DEPTH_MAX, "more than {DEPTH_MAX} directories deep");
    for name in entries(from)? {
        let name = name?;
        copy_entry(from, to, &name, depth)
            .with_context(|| format!("copy `{}`", name.to_string_lossy().escape_default()))?;
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let (from, to) = (open_directory(from, name)?, open_directory(to, name)?);
            copy_directory(&from, &to, depth + 1)?;
            finish(&to, &stat)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut source = std::fs::File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut target = std::fs::File::from(rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?);
            std::io::copy(&mut source, &mut target)?;
            finish(&OwnedFd::from(target), &stat)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&target, to, name)?;
            let (uid, gid) = owner(&stat);
            Ok(rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        // Sockets, FIFOs and device nodes are no content of a volume.
        _ => Ok(()),
    }
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// Owner, then mode, because a change of owner clears set-id bits; times last.
fn finish(fd: &OwnedFd, stat: &Stat) -> Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    Ok(rustix::fs::futimens(fd, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn fills_once() {
        let (image, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(image.path().join("d")).unwrap();
        std::fs::write(image.path().join("d/f"), "content").unwrap();
        std::fs::set_permissions(image.path().join("d/f"), PermissionsExt::from_mode(0o4750)).unwrap();
        symlink("/etc/passwd", image.path().join("link")).unwrap();
        let open = |path| OwnedFd::from(std::fs::File::open(path).unwrap());
        let (from, to) = (open(image.path()), open(volume.path()));
        fill(from.as_fd(), to.as_fd()).unwrap();
        let copied = std::fs::metadata(volume.path().join("d/f")).unwrap();
        assert_eq!(copied.mode() & 0o7777, 0o4750);
        assert_eq!(std::fs::read_link(volume.path().join("link")).unwrap().to_str(), Some("/etc/passwd"));
        std::fs::write(image.path().join("later"), "").unwrap();
        fill(from.as_fd(), to.as_fd()).unwrap();
        assert!(!volume.path().join("later").exists());
    }
}
