//! The kernel's file systems, modules, and waiting for devices by the kernel's own announcements.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A device that the host promised appears within milliseconds; a guest in software emulation on a busy host is slow.
const WAIT_SECS_MAX: i64 = 20;

/// Mounts what this process itself needs; every app gets mounts of its own later.
pub(super) fn mount_kernel_file_systems() -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    for (kind, target, flags) in [
        ("proc", "/proc", flags),
        ("sysfs", "/sys", flags),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
    ] {
        create_directory(target)?;
        match mount(kind, target, kind, flags, None) {
            // The kernel may have mounted devtmpfs itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mount {kind} at `{target}`")),
        }
    }
    Ok(())
}

/// Creates a directory that may be there.
pub(super) fn create_directory(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("create `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Loads kernel modules, in the order given.
pub(super) fn load_modules(modules: &[PathBuf]) -> Result<()> {
    for path in modules {
        let context = || format!("load the kernel module `{}`", path.display());
        let file = File::open(path).with_context(context)?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(context),
        }
        // Its pages are memory that the apps can use.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Returns what `find` finds, as soon as it finds it. The socket is there before the first look, so no announcement is missed.
pub(super) fn wait<T>(what: &str, find: impl Fn() -> Option<T>) -> Result<T> {
    if let Some(found) = find() {
        return Ok(found);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))
        .context("open the kernel's device announcements")?;
    bind(&socket, &SocketAddrNetlink::new(0, 1)).context("listen to the kernel's device announcements")?;
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        let timeout = Timespec { tv_sec: WAIT_SECS_MAX, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => bail!("{what} did not appear in {WAIT_SECS_MAX} s"),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for a device"),
        }
        // What it says does not matter, only that something changed. ENOBUFS: announcements were lost, so look again.
        while recv(&socket, &mut [0_u8; 4096], RecvFlags::empty()).is_ok() {}
    }
}
