//! Who may change a file. What decides what runs as root must be in the hands of root, or of the caller, alone.
//!
//! The rule is the one that sudo has for its own files, along the whole path from `/`. Each part belongs to root or to the
//! effective user. Others may not write it, nor may a group but root's. A directory where everybody may write counts as safe
//! on the way if it is sticky, as `/tmp` is: nobody can rename or remove what root made there. Symbolic links are followed
//! part by part, and each part of their targets is held to the same rule. What passes can be changed by root and by the
//! caller only, so it is still true when the file is opened afterwards.
//!
//! Who may write the running program can do all this already, so its owner may own such files too. A build in a developer's
//! home directory works by this when it is started with `sudo`.

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// As many symbolic links as the kernel follows on one path.
const LINKS_MAX: usize = 40;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// A file or directory that others can change, or read if it is to be private.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Exposed {
    /// The part of the path that is at fault.
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Owner { uid: u32, others_write: bool },
    Link { uid: u32 },
    Group { gid: u32 },
    AccessList,
    Everybody { group: bool },
    Readable { directory: bool },
    Unknown(io::ErrorKind, String),
}

impl Exposed {
    fn sentence(&self) -> String {
        let path = self.path.display();
        match &self.fault {
            Fault::Owner { uid, .. } => format!("`{path}` belongs to user {uid}, who can change it"),
            Fault::Link { uid } => format!("the link `{path}` belongs to user {uid}, who can replace it"),
            Fault::Group { gid } => format!("group {gid} may write `{path}`"),
            Fault::AccessList => format!("an access control list lets others write `{path}`"),
            Fault::Everybody { .. } => format!("everybody may write `{path}`"),
            Fault::Readable { directory: true } => format!("others may look into `{path}`"),
            Fault::Readable { directory: false } => format!("others may read `{path}`"),
            Fault::Unknown(_, why) => format!("look at `{path}`: {why}"),
        }
    }

    /// The command that puts it right.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let path = quoted(&self.path);
        let command = match &self.fault {
            Fault::Owner { others_write: false, .. } => format!("chown root:root {path}"),
            Fault::Owner { others_write: true, .. } => format!("chown root:root {path} && chmod o-w {path}"),
            Fault::Link { .. } => format!("chown --no-dereference root:root {path}"),
            // With an access control list, the group's bits are the mask for all who are named in it.
            Fault::Group { .. } | Fault::AccessList => format!("chmod g-w {path}"),
            Fault::Everybody { group: false } => format!("chmod o-w {path}"),
            Fault::Everybody { group: true } => format!("chmod go-w {path}"),
            Fault::Readable { directory: true } => format!("chmod 700 {path}"),
            Fault::Readable { directory: false } => format!("chmod 600 {path}"),
            Fault::Unknown(..) => return None,
        };
        Some(format!("`{command}`, or keep it where only root can write"))
    }

    fn unknown(path: &Path, error: &io::Error) -> Self {
        Self { path: path.to_owned(), fault: Fault::Unknown(error.kind(), error.to_string()) }
    }
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:,=".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Refuses a path that others can change or replace. A path that is not there is fine as far as it is there.
///
/// # Errors
/// The first part of the path that others can change, with the reason.
pub fn check(path: &Path) -> Result<(), Exposed> {
    walk(path).map(|_| ())
}

/// As [`check`], for a file or directory that others may not read either. Its own mode may let them if that of a directory
/// on the way to it does not.
///
/// # Errors
/// As [`check`], and when others can read it.
pub fn check_private(path: &Path) -> Result<(), Exposed> {
    let Some((stat, real)) = walk(path)? else { return Ok(()) };
    // Bits that are of use for somebody else than root; below, only the search permission is one.
    let gives = |stat: &Stat, bits: u32| stat.st_mode & (bits | if stat.st_gid == 0 { 0 } else { bits << 3 }) != 0;
    if !gives(&stat, 0o007) {
        return Ok(());
    }
    for directory in real.ancestors().skip(1) {
        if look(directory)?.is_none_or(|stat| !gives(&stat, 0o001)) {
            return Ok(());
        }
    }
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Err(Exposed { path: path.to_owned(), fault: Fault::Readable { directory } })
}

/// As [`check`] for one entry of a directory that was checked before.
///
/// # Errors
/// An entry that others can change, or a link.
pub fn check_entry(path: &Path) -> Result<(), Exposed> {
    look(path)?.map_or(Ok(()), |stat| judge(path, &stat, false))
}

/// Judges an open file itself, whatever led to it.
///
/// # Errors
/// A file that others can change.
pub fn check_file(file: impl AsFd, path: &Path) -> Result<(), Exposed> {
    let stat = rustix::fs::fstat(file).map_err(|error| Exposed::unknown(path, &error.into()))?;
    judge(path, &stat, false)
}

/// Judges the mode of one file alone, whoever owns it and wherever it is.
///
/// # Errors
/// A file that others than its owner can change.
pub fn check_mode(file: &Path) -> Result<(), Exposed> {
    match rustix::fs::stat(file) {
        Ok(stat) => judge_mode(file, &stat),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(Exposed::unknown(file, &error.into())),
    }
}

/// Goes along the path. Returns what is at its end and where that is without links, if it is there.
fn walk(path: &Path) -> Result<Option<(Stat, PathBuf)>, Exposed> {
    let absolute = std::path::absolute(path).map_err(|error| Exposed::unknown(path, &error))?;
    let mut left: VecDeque<OsString> = parts(&absolute).collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut stat = look(&at)?;
    while let Some(name) = left.pop_front() {
        if let Some(stat) = &stat {
            judge(&at, stat, true)?;
        }
        if name == ".." {
            at.pop(); // No part of `at` is a link.
            stat = look(&at)?;
            continue;
        }
        let writable_by_others = stat.is_some_and(|stat| stat.st_mode & (GROUP_WRITES | OTHERS_WRITE) != 0);
        at.push(&name);
        stat = look(&at)?;
        let Some(found) = &stat else { return Ok(None) };
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            continue;
        }
        // Elsewhere the owner of a link cannot do anything with it.
        if writable_by_others && !owner_is_trusted(found.st_uid) {
            return Err(Exposed { path: at, fault: Fault::Link { uid: found.st_uid } });
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Exposed::unknown(path, &Errno::LOOP.into()));
        }
        let target = rustix::fs::readlink(&at, Vec::new()).map_err(|error| Exposed::unknown(&at, &error.into()))?;
        let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
        at = if target.is_absolute() { PathBuf::from("/") } else { at.parent().unwrap_or(&at).to_owned() };
        stat = look(&at)?;
        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
            left.push_front(part);
        }
    }
    let Some(stat) = stat else { return Ok(None) };
    judge(&at, &stat, false)?;
    Ok(Some((stat, at)))
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn look(path: &Path) -> Result<Option<Stat>, Exposed> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(Exposed::unknown(path, &error.into())),
    }
}

/// `on_the_way`: more parts of the path follow, so that a sticky directory is good enough.
fn judge(path: &Path, stat: &Stat, on_the_way: bool) -> Result<(), Exposed> {
    if !owner_is_trusted(stat.st_uid) {
        let fault = Fault::Owner { uid: stat.st_uid, others_write: stat.st_mode & OTHERS_WRITE != 0 };
        return Err(Exposed { path: path.to_owned(), fault });
    }
    if on_the_way && stat.st_mode & STICKY != 0 { Ok(()) } else { judge_mode(path, stat) }
}

fn judge_mode(path: &Path, stat: &Stat) -> Result<(), Exposed> {
    let refuse = |fault| Err(Exposed { path: path.to_owned(), fault });
    let group = stat.st_mode & GROUP_WRITES != 0;
    let others = stat.st_mode & OTHERS_WRITE != 0;
    if others {
        return refuse(Fault::Everybody { group: group && stat.st_gid != 0 });
    }
    if group && !group_is_trusted(stat.st_gid) {
        return refuse(Fault::Group { gid: stat.st_gid });
    }
    if group && has_access_list(path) {
        return refuse(Fault::AccessList);
    }
    Ok(())
}

fn owner_is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw() || program().is_some_and(|stat| stat.st_uid == uid)
}

fn group_is_trusted(gid: u32) -> bool {
    gid == 0 || program().is_some_and(|stat| stat.st_mode & GROUP_WRITES != 0 && stat.st_gid == gid)
}

/// The running program's own file. Asked only when the answer matters.
fn program() -> Option<Stat> {
    rustix::fs::stat("/proc/self/exe").ok()
}

/// Whether the group's bits of the mode stand for more than the group.
fn has_access_list(path: &Path) -> bool {
    let mut list = [0_u8; 64];
    match rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut list[..]) {
        Ok(length) => length > 0,
        Err(error) => error == Errno::RANGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    fn set(path: &Path, uid: u32, gid: u32, mode: u32) {
        chown(path, Some(uid), Some(gid)).expect("root may");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    }

    /// `/tmp` is what it is on every machine: sticky, of root, for everybody.
    fn fresh() -> Option<tempfile::TempDir> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skip: giving files away needs root");
            return None;
        }
        Some(tempfile::tempdir_in("/tmp").expect("a temporary directory"))
    }

    fn fault(path: &Path) -> Option<Fault> {
        check(path).err().map(|exposed| exposed.fault)
    }

    #[test]
    fn owner_group_and_mode_of_every_part_count() {
        let Some(directory) = fresh() else { return };
        let (outer, inner) = (directory.path().join("outer"), directory.path().join("outer/inner"));
        let file = inner.join("file");
        fs::create_dir_all(&inner).expect("made");
        fs::write(&file, "x").expect("written");
        let owner = |others_write| Some(Fault::Owner { uid: 1000, others_write });
        let cases = [
            (0, 0, 0o755, None, None),
            // Group root is root's business, as for sudo.
            (0, 0, 0o775, None, None),
            (0, 1000, 0o755, None, None),
            (0, 1000, 0o775, Some(Fault::Group { gid: 1000 }), Some(Fault::Group { gid: 1000 })),
            (0, 0, 0o757, Some(Fault::Everybody { group: false }), Some(Fault::Everybody { group: false })),
            (0, 1000, 0o777, Some(Fault::Everybody { group: true }), Some(Fault::Everybody { group: true })),
            (1000, 0, 0o755, owner(false), owner(false)),
            (1000, 0, 0o757, owner(true), owner(true)),
            // Sticky: good on the way, not at the end.
            (0, 0, 0o1777, None, Some(Fault::Everybody { group: false })),
            (1000, 0, 0o1777, owner(true), owner(true)),
        ];
        for (uid, gid, mode, on_the_way, at_the_end) in cases {
            for part in [&outer, &inner] {
                set(part, uid, gid, mode);
                assert_eq!(fault(&file), on_the_way, "{} {uid}:{gid} {mode:o}", part.display());
                assert_eq!(fault(part), at_the_end, "{} {uid}:{gid} {mode:o}", part.display());
                set(part, 0, 0, 0o755);
            }
            set(&file, uid, gid, mode);
            assert_eq!(fault(&file), at_the_end, "the file {uid}:{gid} {mode:o}");
            set(&file, 0, 0, 0o644);
        }
        assert_eq!(fault(&outer.join("not/there")), None);
        set(&outer, 0, 0, 0o777);
        assert!(fault(&outer.join("not/there")).is_some(), "somebody else could make it");
    }

    #[test]
    fn links_are_followed_part_by_part() {
        let Some(directory) = fresh() else { return };
        let at = |name: &str| directory.path().join(name);
        for name in ["good", "open", "sticky"] {
            fs::create_dir(at(name)).expect("made");
            fs::write(at(name).join("file"), "x").expect("written");
        }
        set(&at("open"), 0, 0, 0o777);
        set(&at("sticky"), 0, 0, 0o1777);
        symlink("../good/../good/file", at("good/relative")).expect("linked");
        symlink(at("open/file"), at("good/to-open")).expect("linked");
        symlink(at("good"), at("sticky/ours")).expect("linked");
        symlink(at("good"), at("sticky/theirs")).expect("linked");
        lchown(at("sticky/theirs"), Some(1000), Some(1000)).expect("root may");
        symlink("loop", at("good/loop")).expect("linked");
        symlink(at("good"), at("open/link")).expect("linked");
        assert_eq!(fault(&at("good/relative")), None);
        assert_eq!(fault(&at("good/to-open")), Some(Fault::Everybody { group: false }));
        assert_eq!(fault(&at("sticky/ours/file")), None);
        assert_eq!(fault(&at("sticky/theirs/file")), Some(Fault::Link { uid: 1000 }));
        // The way back out of a directory does not make up for the way in.
        assert_eq!(fault(&at("open/../good/file")), Some(Fault::Everybody { group: false }));
        assert_eq!(fault(&at("open/link/file")), Some(Fault::Everybody { group: false }));
        assert!(matches!(fault(&at("good/loop")), Some(Fault::Unknown(..))));
    }

    #[test]
    fn hints_work_when_pasted() {
        let Some(directory) = fresh() else { return };
        let file = directory.path().join("it's a file");
        let cases: [(u32, u32, u32, bool); 6] = [
            (1000, 1000, 0o644, false),
            (1000, 1000, 0o666, false),
            (0, 1000, 0o664, false),
            (0, 1000, 0o666, false),
            (0, 0, 0o602, false),
            (0, 0, 0o644, true),
        ];
        for (uid, gid, mode, private) in cases {
            fs::write(&file, "x").expect("written");
            set(&file, uid, gid, mode);
            set(directory.path(), 0, 0, 0o755);
            let look = || if private { check_private(&file) } else { check(&file) };
            let hint = look().expect_err("exposed").hint().expect("advice");
            let command = hint.split('`').nth(1).expect("a command in backticks");
            let status = std::process::Command::new("sh").args(["-c", command]).status().expect("a shell");
            assert!(status.success(), "{command}");
            assert!(look().is_ok(), "{uid}:{gid} {mode:o}: {command}");
        }
    }

    #[test]
    fn private_is_what_others_cannot_reach_either() {
        let Some(directory) = fresh() else { return };
        let (inner, link) = (directory.path().join("inner"), directory.path().join("link"));
        let file = inner.join("file");
        fs::create_dir(&inner).expect("made");
        fs::write(&file, "x").expect("written");
        symlink("inner/file", &link).expect("linked");
        // Mode of the outer and the inner directory, of the file, its group, and whether that is private.
        let cases = [
            (0o755, 0o755, 0o600, 1000, true),
            (0o755, 0o755, 0o604, 0, false),
            (0o755, 0o755, 0o640, 0, true),
            (0o755, 0o755, 0o640, 1000, false),
            (0o755, 0o700, 0o644, 0, true),
            (0o700, 0o755, 0o644, 0, true),
            (0o755, 0o744, 0o644, 0, true),
        ];
        for (outer, directory_mode, mode, gid, private) in cases {
            set(directory.path(), 0, 0, outer);
            set(&inner, 0, 0, directory_mode);
            set(&file, 0, gid, mode);
            for path in [&file, &link] {
                let seen = check_private(path).is_ok();
                assert_eq!(seen, private, "{} {outer:o} {directory_mode:o} {mode:o} {gid}", path.display());
            }
        }
    }

    #[test]
    fn an_access_list_for_somebody_else_is_seen() {
        let Some(directory) = fresh() else { return };
        let file = directory.path().join("file");
        fs::write(&file, "x").expect("written");
        // acl(5) as the kernel stores it: version 2, then tag, permissions and id of each entry.
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1_u16, 6_u16, u32::MAX), (2, 6, 1000), (4, 4, u32::MAX), (0x10, 6, u32::MAX), (0x20, 4, u32::MAX)]
        {
            list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            list.extend(id.to_le_bytes());
        }
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(&file, "system.posix_acl_access", &list, flags) {
            Err(Errno::OPNOTSUPP) => {
                assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "`/tmp` has no access control lists");
                return eprintln!("skip: `/tmp` has no access control lists");
            }
            result => result.expect("root may"),
        }
        assert_eq!(fault(&file), Some(Fault::AccessList));
    }
}
