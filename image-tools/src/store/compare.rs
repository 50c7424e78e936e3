//! Comparing a stored tree with what its layer unpacks to.

use crate::flatten::{children, open_at};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// The first path at which two trees differ.
pub(super) fn compare(stored: BorrowedFd<'_>, fresh: BorrowedFd<'_>) -> rustix::io::Result<Option<Vec<u8>>> {
    let (mut ours, mut theirs) = (children(stored)?, children(fresh)?);
    ours.sort_by(|left, right| left.0.cmp(&right.0));
    theirs.sort_by(|left, right| left.0.cmp(&right.0));
    for pair in
        ours.iter().map(Some).chain(std::iter::repeat(None)).zip(theirs.iter().map(Some).chain(std::iter::repeat(None)))
    {
        let ((name, stat), (other, other_stat)) = match pair {
            (None, None) => break,
            (Some((name, _)), None) | (None, Some((name, _))) => return Ok(Some(name.to_bytes().to_vec())),
            (Some(ours), Some(theirs)) => (ours, theirs),
        };
        if name != other {
            // The one that the other side lacks.
            return Ok(Some(name.min(other).to_bytes().to_vec()));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // What was changed in a directory says more than its time.
        if !same(stat, other_stat) && (kind != FileType::Directory || stat.st_mode != other_stat.st_mode) {
            return Ok(Some(name.to_bytes().to_vec()));
        }
        let below = match kind {
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
    let stats = (rustix::fs::fstat(stored)?, rustix::fs::fstat(fresh)?);
    let same = same(&stats.0, &stats.1) && attributes(stored)? == attributes(fresh)?;
    Ok((!same).then(Vec::new))
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
