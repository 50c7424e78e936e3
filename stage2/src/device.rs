//! /dev of an app: a tmpfs with the standard nodes and links, an own devpts, and the pod's shared memory and queues.

use crate::mount::{self, INERT};
use crate::root::Root;
use anyhow::{Context, Result, ensure};
use contract::features::Feature;
use contract::kernel::Capability;
use contract::pod::{App, Device, DeviceKind, Pod};
use contract::stage2::{DEV, SHM};
use contract::text::Advised;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use std::path::Path;

/// Character devices that every app has, mode 0666: they hold nothing and reach nothing.
const STANDARD: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the pod's shared memory in the pod root, unless stage1 has mounted the host's there. Once, before any app.
pub(crate) fn shared_memory(pod: &Pod) -> Result<()> {
    match rustix::fs::mkdir(SHM, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => return Ok(()),
        other => other.context("make the mount point of the shared memory")?,
    }
    let label = pod.apps.iter().find_map(|app| app.label.as_ref());
    let tmpfs = mount::labelled("tmpfs", &[("mode", "1777"), ("size", "65536k")], INERT, label)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(SHM, flags, Mode::empty())?;
    mount::attach(tmpfs.as_fd(), target.as_fd()).context("mount the pod's shared memory")
}

/// Mounts /dev, and returns it and its devpts.
pub(crate) fn mount(root: &Root, pod: &Pod, app: &App) -> Result<(OwnedFd, OwnedFd)> {
    // No nodev here, of course; noexec since nothing of /dev is a program, and nosuid.
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let parameters = [("mode", "755"), ("size", "64k"), ("nr_inodes", "1k")];
    let dev = mount::labelled("tmpfs", &parameters, attributes, app.label.as_ref())?;
    let bound = pod.private_users.is_some();
    for (name, major, minor) in STANDARD {
        let made = if bound {
            rustix::fs::mknodat(&dev, name, FileType::RegularFile, Mode::from_raw_mode(0o666), 0)
        } else {
            let number = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
        };
        made.with_context(|| format!("make /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &dev, name).with_context(|| format!("make /dev/{name}"))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).with_context(|| format!("make /dev/{name}"))?;
    }
    mount::attach(dev.as_fd(), root.plain_directory("dev")?.as_fd()).context("mount /dev")?;
    if bound {
        for (name, ..) in STANDARD {
            bind(&Path::new(DEV).join(name), at(&dev, name)?.as_fd())?;
        }
    }

    // An instance of its own, so that an app cannot open the terminals of others.
    let noexec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = mount::labelled(
        "devpts",
        &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        noexec,
        app.label.as_ref(),
    )?;
    mount::attach(pts.as_fd(), at(&dev, "pts")?.as_fd()).context("mount /dev/pts")?;
    let shm = mount::copy_of_path(Path::new(SHM)).context("open the pod's shared memory")?;
    mount::restrict(shm.as_fd(), INERT).context("set the flags of the pod's shared memory")?;
    mount::attach(shm.as_fd(), at(&dev, "shm")?.as_fd()).context("mount /dev/shm")?;
    // The kernel has one instance for each IPC namespace, so apps of a pod share it by themselves.
    let mqueue = mount::detached("mqueue", &[], INERT)?;
    mount::attach(mqueue.as_fd(), at(&dev, "mqueue")?.as_fd()).context("mount /dev/mqueue")?;
    Ok((dev, pts))
}

/// A name in our own /dev, before any app could have touched it.
fn at(dev: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dev, name, flags, Mode::empty()).with_context(|| format!("open /dev/{name}"))
}

/// Binds a node of the host that stage1 left in the pod root, for which mknod is refused in a user namespace.
fn bind(source: &Path, target: BorrowedFd<'_>) -> Result<()> {
    let node = mount::copy_of_path(source).with_context(|| format!("open the host's `{}`", source.display()))?;
    mount::attach(node.as_fd(), target).with_context(|| format!("bind the host's `{}`", source.display()))
}

/// The nodes that `pod.json` adds.
pub(crate) fn extra(root: &Root, pod: &Pod, devices: &[Device]) -> Result<()> {
    for device in devices {
        let shown = device.path.display();
        let (Some(parent), Some(name)) = (device.path.parent(), device.path.file_name()) else {
            anyhow::bail!("device path `{shown}` names no file");
        };
        if pod.private_users.is_some() {
            let relative = device.path.strip_prefix(DEV).or_else(|_| device.path.strip_prefix("/"))?;
            let source = Path::new(DEV).join(relative);
            bind(&source, root.make_file(&device.path)?.as_fd())?;
            continue;
        }
        let parent = root.make_directory(parent)?;
        let kind = match device.kind {
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
        };
        let number = rustix::fs::makedev(device.major, device.minor);
        rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(device.mode), number)
            .with_context(|| format!("make device `{shown}`"))?;
    }
    Ok(())
}

/// Refuses an app that could open devices that are not its own. One of three things must keep it from them: a user namespace, a
/// device cgroup, or that it can make no node and mount no file system, since all its mounts but `dev` are nodev.
///
/// `cgroups` is how many cgroups it was given. That they, or the namespace, confine it, is not believed but tried.
pub(crate) fn refuse_unconfined(pod: &Pod, app: &App, cgroups: usize, dev: &OwnedFd) -> Result<()> {
    if pod.waived.contains(&Feature::DeviceConfinement) {
        return Ok(());
    }
    let able = [Capability::Mknod, Capability::SysAdmin].into_iter().find(|able| app.capabilities.contains(able));
    let Some(able) = able else { return Ok(()) };
    let confined = pod.private_users.is_some() || cgroups > 0;
    if confined && is_refused(dev).context("try to open a device")? {
        return Ok(());
    }
    let message = format!("it has {able}, and neither a device cgroup nor a user namespace keeps it from devices");
    let hint = "drop CAP_MKNOD and CAP_SYS_ADMIN, or use a stage1 and a kernel that confine devices";
    Err(Advised::new(message, hint).into())
}

/// Whether this process may not use a device that no list holds. No driver has the number, so an open that is not refused reaches
/// nothing.
fn is_refused(dev: &OwnedFd) -> rustix::io::Result<bool> {
    const NAME: &str = ".probe";
    let nobodys = rustix::fs::makedev(4095, 0xf_ffff);
    match rustix::fs::mknodat(dev, NAME, FileType::CharacterDevice, Mode::from_raw_mode(0o600), nobodys) {
        Err(Errno::PERM) => return Ok(true),
        other => other?,
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dev, NAME, flags, Mode::empty());
    rustix::fs::unlinkat(dev, NAME, AtFlags::empty())?;
    Ok(opened.err() == Some(Errno::PERM))
}

/// Refuses everything but the null device itself.
pub(crate) fn check_null(fd: BorrowedFd<'_>) -> Result<()> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    ensure!(kind == FileType::CharacterDevice && number == (1, 3), "/dev/null is not the null device");
    Ok(())
}
