//! What an app sees of the system, made inside its root: /proc, /sys, /dev, volumes, the files of the pod, and masks.
//!
//! This runs in the process that will become the app, with all capabilities of the pod's user namespace, in a mount
//! namespace of its own that still holds the pod root. It ends with the app's root as the only thing in that namespace.
//! Nothing here goes through a path of the root but by [`Root`].

use crate::mount::{self, INERT, Parameter};
use crate::plan::{self, Wanted};
use crate::populate;
use crate::root::{Root, is_directory};
use crate::{cgroup, device, files};
use anyhow::{Context, Result};
use contract::pod::{App, Network, Pod};
use contract::stage2::{APPS, ROOTFS, SYS, VOLUMES};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{MountAttrFlags, UnmountFlags};
use std::path::{Path, PathBuf};

/// What later steps need of the app's world.
pub(crate) struct World {
    /// The app's root, which is now `/`.
    pub(crate) root: Root,
    /// The app's own /proc: known to be procfs, whatever may be mounted over it.
    pub(crate) proc: OwnedFd,
    /// The app's own /dev.
    pub(crate) dev: OwnedFd,
    /// The app's own /dev/pts.
    pub(crate) pts: OwnedFd,
}

/// Makes the app's world and moves into it.
pub(crate) fn build(pod: &Pod, app: &App) -> Result<World> {
    let wanted = plan::wanted(app)?;
    let root = Root::open(&Path::new(APPS).join(&app.name).join(ROOTFS))?;
    // A stage1 may have left devices working; from here on only /dev has any.
    mount::restrict(root.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV).context("make the devices of the root inert")?;
    let proc = proc(&root)?;
    let (dev, pts) = device::mount(&root, pod, app)?;
    sys(&root, pod, &proc)?;
    // Before volumes, so that a node is never made in one of the host's directories.
    device::extra(&root, pod, &app.devices)?;
    for mount in &wanted {
        let at = || format!("mount `{}`", mount.target().display());
        attach_wanted(&root, mount, app).with_context(at)?;
    }
    files::put(&root, pod, app, &wanted)?;
    for path in &app.read_only_paths {
        // All of /sys is read-only already, unless the user mounted something there.
        if !path.starts_with(SYS) || plan::touches(&wanted, SYS) {
            read_only(&root, path).with_context(|| format!("make `{}` read-only", path.display()))?;
        }
    }
    mask(&root, &app.masked_paths, &dev)?;
    if app.root.read_only {
        crate::sys::mount_setattr(root.as_fd(), false, u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()))
            .context("make the app's root read-only")?;
    }
    enter(&root)?;
    Ok(World { root, proc, dev, pts })
}

/// A proc of the app's own. The descriptor stays good for writing to it, because it was made here and cannot be a file that
/// an image or a volume put in its place (CVE-2025-52881).
fn proc(root: &Root) -> Result<OwnedFd> {
    let proc = mount::detached("proc", &[], INERT)?;
    mount::attach(proc.as_fd(), root.plain_directory("proc")?.as_fd()).context("mount /proc")?;
    Ok(proc)
}

/// /sys, read-only, with the app's own cgroups in /sys/fs/cgroup.
fn sys(root: &Root, pod: &Pod, proc: &OwnedFd) -> Result<()> {
    let target = root.plain_directory("sys")?;
    let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let sys = if pod.private_users.is_some() && pod.network == Network::Host {
        // Only the owner of the network namespace may make a sysfs, and here that is the host.
        let copy = mount::copy_of_path(Path::new(SYS)).context("copy the pod root's /sys")?;
        mount::restrict(copy.as_fd(), attributes).context("make /sys read-only")?;
        copy
    } else {
        mount::detached("sysfs", &[], attributes)?
    };
    mount::attach(sys.as_fd(), target.as_fd()).context("mount /sys")?;
    cgroup::mount(&sys, proc)
}

/// One volume or tmpfs.
fn attach_wanted(root: &Root, wanted: &Wanted<'_>, app: &App) -> Result<()> {
    match wanted {
        Wanted::Tmpfs { target, size_bytes, mode } => {
            let (size, mode) = (size_bytes.to_string(), format!("{mode:o}"));
            let parameters: [Parameter<'_>; 2] = [("size", &size), ("mode", &mode)];
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            let tmpfs = mount::labelled("tmpfs", &parameters, attributes, app.label.as_ref())?;
            mount::attach(tmpfs.as_fd(), root.make_directory(target)?.as_fd())?;
        }
        Wanted::Volume { volume, target, read_only, populate } => {
            let source = mount::copy_of_path(&Path::new(VOLUMES).join(volume))
                .with_context(|| format!("open volume `{volume}`"))?;
            let directory = is_directory(source.as_fd())?;
            // What is made only now holds nothing, and its owner and mode are not the image's choice.
            let populate = *populate && directory && root.at(target, OFlags::PATH).is_ok();
            let target = if directory { root.make_directory(target)? } else { root.make_file(target)? };
            if populate {
                populate::fill(target.as_fd(), source.as_fd()).with_context(|| format!("fill volume `{volume}`"))?;
            }
            let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *read_only);
            mount::restrict(source.as_fd(), attributes).context("set the flags of the mount")?;
            mount::attach(source.as_fd(), target.as_fd())?;
        }
    }
    Ok(())
}

fn read_only(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = root.existing(path)? else { return Ok(()) };
    let copy = mount::copy_of(target.as_fd())?;
    mount::restrict(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(mount::attach(copy.as_fd(), target.as_fd())?)
}

/// Hides paths: a directory under an empty, read-only tmpfs, anything else under the null device.
///
/// The null device is the node that stage2 made in its own /dev and is checked once more by its number: a runtime that took
/// whatever the image called /dev/null could be led to bind something else there (CVE-2025-31133).
fn mask(root: &Root, paths: &[PathBuf], dev: &OwnedFd) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::openat(dev, "null", flags, Mode::empty()).context("open /dev/null")?;
    device::check_null(null.as_fd())?;
    // All hidden directories show the same tmpfs; it is made when the first one is met.
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let hide = |empty: &mut Option<OwnedFd>| -> Result<()> {
            let Some(target) = root.existing(path)? else { return Ok(()) };
            if !is_directory(target.as_fd())? {
                return Ok(mount::attach(mount::copy_of(null.as_fd())?.as_fd(), target.as_fd())?);
            }
            if let Some(empty) = empty {
                return Ok(mount::attach(mount::copy_of(empty.as_fd())?.as_fd(), target.as_fd())?);
            }
            let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
            let tmpfs = mount::detached("tmpfs", &[("size", "4k"), ("nr_inodes", "1"), ("mode", "0555")], attributes)?;
            mount::attach(tmpfs.as_fd(), target.as_fd())?;
            *empty = Some(tmpfs);
            Ok(())
        };
        hide(&mut empty).with_context(|| format!("mask `{}`", path.display()))?;
    }
    Ok(())
}

/// Makes the app's root the root of this mount namespace, and drops all else from it.
fn enter(root: &Root) -> Result<()> {
    rustix::process::fchdir(root).context("enter the app's root")?;
    // The old root is put on top of the new one, from where the next call takes it off, with all that is mounted below.
    rustix::process::pivot_root(".", ".").context("make the app's root the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("drop the pod root")?;
    rustix::process::chdir("/").context("enter the new root")?;
    // Trust nothing: `/` must be what was opened as the app's root.
    let (here, meant) = (rustix::fs::stat("/")?, rustix::fs::statat(root, "", AtFlags::EMPTY_PATH)?);
    anyhow::ensure!((here.st_dev, here.st_ino) == (meant.st_dev, meant.st_ino), "the root is not the app's root");
    Ok(())
}
