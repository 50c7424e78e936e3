//! Deleting a tree that an app wrote: any depth, any names, by fd and never through a symlink. An app can make a
//! directory deeper than any recursion, so what lies too deep is moved to the top first.

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// Recursion stops here; each level costs an fd and a stack frame.
const DEPTH_MAX: usize = 64;

/// Deletes all that is in the directory but the names in `keep`.
pub(crate) fn content(directory: BorrowedFd<'_>, keep: &[&str]) -> Result<()> {
    let mut moved = 0_u64;
    // Each pass empties the tree down to `DEPTH_MAX` and lifts what is deeper, until nothing was lifted.
    loop {
        let before = moved;
        pass(directory, directory, 0, keep, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
}

fn pass(top: BorrowedFd<'_>, directory: BorrowedFd<'_>, depth: usize, keep: &[&str], moved: &mut u64) -> Result<()> {
    for (name, is_directory) in entries(directory)? {
        if depth == 0 && keep.iter().any(|kept| kept.as_bytes() == name.as_bytes()) {
            continue;
        }
        let shown = || format!("delete `{}`", name.to_string_lossy().escape_debug());
        if !is_directory {
            gone(unlinkat(directory, &*name, AtFlags::empty())).with_context(shown)?;
        } else if depth >= DEPTH_MAX {
            *moved += 1;
            let lifted = format!(".deep-{moved}");
            renameat(directory, &*name, top, &*lifted).with_context(shown)?;
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = openat(directory, &*name, flags, Mode::empty()).with_context(shown)?;
            pass(top, child.as_fd(), depth + 1, keep, moved)?;
            gone(unlinkat(directory, &*name, AtFlags::REMOVEDIR)).with_context(shown)?;
        }
    }
    Ok(())
}

/// Names, and whether each is a directory.
fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(CString, bool)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory).context("read a directory")? {
        let entry = entry.context("read a directory")?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Directory => true,
            // Some file systems do not say.
            FileType::Unknown => rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            _ => false,
        };
        entries.push((name.to_owned(), is_directory));
    }
    Ok(entries)
}

fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    if result == Err(Errno::NOENT) { Ok(()) } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    #[test]
    fn deletes_deep_and_hostile_trees() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), "alive").unwrap();
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("host.json"), "{}").unwrap();
        symlink(outside.path(), tree.path().join("link")).unwrap();
        fs::write(tree.path().join("a\nb"), "").unwrap();
        let mut deep = rustix::fs::open(tree.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&deep, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&deep, "e", Mode::RWXU).unwrap();
            deep = openat(&deep, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        content(File::open(tree.path()).unwrap().as_fd(), &["host.json"]).unwrap();
        let left: Vec<_> = fs::read_dir(tree.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["host.json"]);
        assert_eq!(fs::read_to_string(outside.path().join("canary")).unwrap(), "alive");
    }
}
