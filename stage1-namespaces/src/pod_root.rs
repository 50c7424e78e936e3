//! The pod root: a tmpfs that is mounted over the pod directory in the pod's own mount namespace, and what mounts in it are
//! made with. By descriptors (fsopen(2), open_tree(2), move_mount(2)), so no path is resolved twice.

use crate::plan::Area;
use rustix::fs::{FileType, Mode, RawMode};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Room for mount points and the few files that stage2 makes; the apps' data never lies here.
const POD_ROOT_SIZE: &str = "16m";

/// The pod root, mounted over the pod directory in this mount namespace only.
pub(crate) struct PodRoot {
    /// The pod directory, as this mount namespace sees it; also the current directory.
    pub(crate) pod_directory: OwnedFd,
    /// The root of the pod root's tmpfs.
    pub(crate) root: OwnedFd,
    /// The pod's user namespace.
    pub(crate) users: Option<OwnedFd>,
    /// Host ids of root in that namespace.
    pub(crate) owner: u32,
    /// How many layers were attached for [`crate::overlay`] under [`LAYERS`].
    pub(crate) attached: u32,
}

/// A directory of the pod root that exists only while it is being made.
pub(crate) const LAYERS: &str = "layers";

impl PodRoot {
    /// The directory that relative paths of this area start from.
    pub(crate) fn area(&self, at: Area) -> BorrowedFd<'_> {
        match at {
            Area::PodDirectory => self.pod_directory.as_fd(),
            Area::PodRoot => self.root.as_fd(),
        }
    }
}

/// The file system of the pod root. Devices work on it only for a pod that cannot make them itself.
pub(crate) fn tmpfs(devices: bool, owner: u32) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "mode", "0755")?;
    rustix::mount::fsconfig_set_string(&context, "size", POD_ROOT_SIZE)?;
    if owner != 0 {
        let owner = owner.to_string();
        rustix::mount::fsconfig_set_string(&context, "uid", owner.as_str())?;
        rustix::mount::fsconfig_set_string(&context, "gid", owner.as_str())?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let nodev = if devices { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NODEV };
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | nodev)
}

/// A detached copy of the mount at `path`, with the mounts below it if `recursive`.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let below = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | below;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
}

/// Attaches a detached mount at `path` below `at`; an empty path is `at` itself.
pub(crate) fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    let to =
        if path.as_os_str().is_empty() { MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH } else { MoveMountFlags::empty() };
    rustix::mount::move_mount(mount, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | to)
}

/// A directory, or an empty file for a file to be mounted on.
pub(crate) fn make_mount_point(at: BorrowedFd<'_>, path: &Path, directory: bool) -> rustix::io::Result<()> {
    if directory {
        return make_directory(at, path, 0o755);
    }
    rustix::fs::mknodat(at, path, FileType::RegularFile, Mode::from(0o600), 0)
}

/// The umask is 0 here, so the mode is exact; a directory that stage0 made already is kept.
pub(crate) fn make_directory(at: BorrowedFd<'_>, path: &Path, mode: RawMode) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(at, path, Mode::from(mode)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}
