//! Mounts by descriptor: a file system is made detached, attributes are set, and only then it appears somewhere.

use anyhow::{Context, Result};
use contract::pod::Label;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::path::Path;

/// What every file system of an app is mounted with, but /dev.
pub(crate) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// An option of a file system; an empty value is a flag.
pub(crate) type Parameter<'a> = (&'a str, &'a str);

/// Makes a file system of this type, mounted nowhere.
pub(crate) fn detached(kind: &str, parameters: &[Parameter<'_>], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let make = || {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        // What people see in the first column of /proc/mounts.
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", kind)?;
        for (key, value) in parameters {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?;
            } else {
                rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().with_context(|| format!("make a {kind} file system"))
}

/// As [`detached`], for the files of an app: where SELinux confines it, they all have its context.
pub(crate) fn labelled(
    kind: &str,
    parameters: &[Parameter<'_>],
    attributes: MountAttrFlags,
    label: Option<&Label>,
) -> Result<OwnedFd> {
    match label {
        Some(Label::Selinux { files, .. }) => {
            detached(kind, &[parameters, &[("context", files.as_str())]].concat(), attributes)
        }
        _ => detached(kind, parameters, attributes),
    }
}

/// A detached copy of the mount at `path`, with those below it.
pub(crate) fn copy_of_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
}

/// A detached copy of what is called `name` in a directory of ours, so that no link is in the way.
pub(crate) fn copy_at(directory: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(directory, name, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
}

/// A detached copy of what `fd` refers to, with the mounts below it.
pub(crate) fn copy_of(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(fd, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
}

/// Mounts what is detached on what `target` refers to.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// Adds attributes to a mount and all below it.
pub(crate) fn restrict(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> std::io::Result<()> {
    crate::sys::mount_setattr(mount, true, u64::from(attributes.bits()))
}
