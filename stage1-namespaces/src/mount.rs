//! Carries out a [`Plan`]'s operations.
//!
//! Runs in a child of the supervisor: with the privileges of the host's root, in a mount namespace of its own (a copy of
//! the host's, made private first), before anything of the pod runs. Nothing here runs inside the pod, and no path of
//! an app's root is resolved here: images are only stacked, stage2 looks into them.

use crate::overlay::{self, Stack};
use crate::plan::{Area, Operation, SKELETON};
use crate::pod_root::{LAYERS, PodRoot, attach, clone_tree, make_directory, make_mount_point, tmpfs};
use crate::sys::{self, MountAttributes};
use anyhow::{Context, Result};
use contract::pod::DeviceKind;
use contract::text::Advised;
use rustix::fs::{AtFlags, Dev, FileType, Mode, OFlags, RawMode, XattrFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

impl PodRoot {
    /// Cuts this mount namespace off the host's and puts an empty pod root over the pod directory.
    pub(crate) fn new(users: Option<OwnedFd>, owner: u32) -> Result<Self> {
        // The namespace is a copy whose mounts are peers of the host's: without this, our mounts would appear there.
        let attributes = MountAttributes { set: 0, propagation: libc::MS_PRIVATE, id_mapping: None, recursive: true };
        let slash = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context("open `/`")?;
        sys::mount_setattr(slash.as_fd(), &attributes).map_err(not_private)?;
        let pod_directory = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .context("open the pod directory")?;
        let root = tmpfs(users.is_some(), owner).context("mount the pod root")?;
        attach(root.as_fd(), pod_directory.as_fd(), Path::new("")).context("mount the pod root")?;
        Ok(Self { pod_directory, root, users, owner, attached: 0 })
    }

    /// One operation; its error names the thing that was to be made.
    pub(crate) fn carry_out(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Directory { path, mode, uid, gid } => {
                directory(path, *mode, (*uid, *gid)).with_context(|| format!("make directory `{}`", path.display()))
            }
            Operation::MountPoint { path } => rustix::fs::mkdirat(&self.root, path, Mode::from(0o755))
                .with_context(|| format!("make mount point `{}`", path.display())),
            Operation::Skeleton => self.skeleton().context("make the layer of mount points"),
            Operation::Writable { at, path, like } => self
                .writable(*at, path, like)
                .with_context(|| format!("make the writable layer in `{}`", path.display())),
            Operation::Overlay { layers, at, writable, target, context } => {
                let mount = overlay::mount(self, &Stack { layers, at: *at, writable, context: context.as_deref() })
                    .with_context(|| format!("stack the layers of `/{}`", target.display()))?;
                attach(mount.as_fd(), self.root.as_fd(), target)
                    .with_context(|| format!("mount `/{}`", target.display()))
            }
            Operation::Context { path, context } => {
                set_context(path, context).with_context(|| format!("label directory `{}`", path.display()))
            }
            Operation::Bind { source, target, read_only, recursive } => self
                .bind(source, target, *read_only, *recursive)
                .with_context(|| format!("mount `{}` at `/{}`", source.display(), target.display())),
            Operation::Device { path, kind, major, minor, mode } => {
                let kind = match kind {
                    DeviceKind::Character => FileType::CharacterDevice,
                    DeviceKind::Block => FileType::BlockDevice,
                };
                self.device(path, kind, rustix::fs::makedev(*major, *minor), *mode)
                    .with_context(|| format!("make device `/{}`", path.display()))
            }
            Operation::HostSys => {
                let read_only = libc::MOUNT_ATTR_RDONLY;
                self.bind_host("/sys", "sys", read_only).context("mount the host's `/sys` read-only")
            }
            Operation::HostShm => self.bind_host("/dev/shm", "shm", 0).context("mount the host's `/dev/shm`"),
        }
    }

    /// Takes away what only the making of the overlays needed.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.attached > 0 {
            rustix::process::fchdir(&self.root)?;
            rustix::mount::unmount(LAYERS, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            rustix::fs::unlinkat(&self.root, LAYERS, AtFlags::REMOVEDIR)?;
        }
        Ok(rustix::process::fchdir(&self.pod_directory)?)
    }

    fn skeleton(&self) -> rustix::io::Result<()> {
        let (_, directories, files) = SKELETON;
        for path in directories {
            rustix::fs::mkdirat(&self.root, path, Mode::from(0o755))?;
        }
        for path in files {
            rustix::fs::mknodat(&self.root, path, FileType::RegularFile, Mode::from(0o644), 0)?;
        }
        if self.owner != 0 {
            let modes = directories.iter().map(|path| (path, 0o755)).chain(files.iter().map(|path| (path, 0o644)));
            for (path, mode) in modes {
                give(self.root.as_fd(), Path::new(path), mode, (self.owner, self.owner))?;
            }
        }
        Ok(())
    }

    /// `upper` and `work`: overlayfs wants both on one file system, and takes the mode and owner of `/` from the upper one.
    fn writable(&self, at: Area, path: &Path, like: &Path) -> Result<()> {
        let base = self.area(at);
        let template = rustix::fs::stat(like).with_context(|| format!("look at layer `{}`", like.display()))?;
        let upper = path.join(contract::dir::UPPER);
        make_directory(base, &path.join(contract::dir::WORK), 0o700)?;
        let mode = template.st_mode & 0o7777;
        make_directory(base, &upper, mode)?;
        // Not shown through a mapping: overlayfs makes files in `work` as the host's root, which a mapping does not have.
        let (uid, gid) = (template.st_uid.wrapping_add(self.owner), template.st_gid.wrapping_add(self.owner));
        if (uid, gid) != (0, 0) {
            give(base, &upper, mode, (uid, gid))?;
        }
        Ok(())
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool, recursive: bool) -> Result<()> {
        let tree = clone_tree(source, recursive).with_context(|| Advised {
            message: "open it".to_owned(),
            hint: format!("see that `{}` is there, or leave the volume out", source.display()),
        })?;
        let read_only = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
        // nosuid and nodev: what lies in a volume was not checked by anybody, and the host's root may have put it there.
        let attributes = MountAttributes {
            set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only,
            propagation: libc::MS_PRIVATE,
            id_mapping: self.users.as_ref().map(AsFd::as_fd),
            recursive,
        };
        sys::mount_setattr(tree.as_fd(), &attributes).with_context(|| self.not_restricted(source))?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
        make_mount_point(self.root.as_fd(), target, kind == FileType::Directory)?;
        attach(tree.as_fd(), self.root.as_fd(), target)?;
        Ok(())
    }

    /// What mount_setattr(2) could not do to the mount of `path`, and what the user can do.
    pub(crate) fn not_restricted(&self, path: &Path) -> Advised {
        if self.users.is_none() {
            let hint = "the kernel is to be Linux 5.15 or newer".to_owned();
            return Advised { message: "restrict the mount".to_owned(), hint };
        }
        let path = path.display();
        let hint = format!("put `{path}` on ext4, xfs, btrfs or tmpfs, or run the pod without `--private-users`");
        Advised { message: "show it through the pod's user ids".to_owned(), hint }
    }

    /// Like the host's, but owned by the pod's root.
    fn device(&self, path: &Path, kind: FileType, number: Dev, mode: u32) -> rustix::io::Result<()> {
        rustix::fs::mknodat(&self.root, path, kind, Mode::from(mode), number)?;
        give(self.root.as_fd(), path, mode, (self.owner, self.owner))
    }

    fn bind_host(&self, source: &str, target: &str, set: u64) -> Result<()> {
        let tree = clone_tree(Path::new(source), false)?;
        let set = set | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        let attributes = MountAttributes { set, propagation: libc::MS_PRIVATE, id_mapping: None, recursive: true };
        sys::mount_setattr(tree.as_fd(), &attributes)?;
        Ok(attach(tree.as_fd(), self.root.as_fd(), Path::new(target))?)
    }
}

/// What is in the way of leaving the host's mounts, and what the user can do.
fn not_private(error: std::io::Error) -> anyhow::Error {
    let message = "make the mounts of the pod private".to_owned();
    if error.raw_os_error() != Some(libc::EINVAL) {
        return anyhow::Error::new(error).context(message);
    }
    let hint = "`/` is no mount point, as in a chroot: bind-mount its directory on itself before chroot(8) enters it";
    anyhow::Error::new(error).context(Advised { message, hint: hint.to_owned() })
}

fn directory(path: &Path, mode: u32, owner: (u32, u32)) -> rustix::io::Result<()> {
    make_directory(rustix::fs::CWD, path, mode)?;
    if owner != (0, 0) || mode & 0o7000 != 0 {
        give(rustix::fs::CWD, path, mode, owner)?;
    }
    Ok(())
}

/// On a file system without labels of its own, one label holds for all files, and the administrator has chosen it.
fn set_context(path: &Path, context: &str) -> Result<()> {
    let value = std::ffi::CString::new(context)?;
    match rustix::fs::lsetxattr(path, c"security.selinux", value.as_bytes_with_nul(), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

/// The mode last, because chown(2) clears set-id bits and mkdir(2) ignores them.
fn give(at: BorrowedFd<'_>, path: &Path, mode: RawMode, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(at, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::chmodat(at, path, Mode::from(mode), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervisor::report::describe;

    #[test]
    fn a_chroot_gets_advice_and_other_errors_do_not() {
        let text = |errno| describe(&not_private(std::io::Error::from_raw_os_error(errno)));
        assert!(
            text(libc::EINVAL).starts_with("make the mounts of the pod private: invalid argument\nhint: `/` is no")
        );
        assert_eq!(text(libc::EPERM), "make the mounts of the pod private: operation not permitted");
    }
}
