//! The system calls of the supervisor that no safe crate offers.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Makes the child die by SIGKILL when the thread that spawned it (the supervisor's only one) dies.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let hook = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The parent may have died before the request was made; then nobody would deliver the signal.
        let living = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == parent);
        if living { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the hook makes two system calls and allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// Makes all mounts at and below `path` nosuid, nodev and, if asked, read-only: mount_setattr(2), recursively.
pub(crate) fn restrict_mounts(path: &Path, read_only: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let write = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | write,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the kernel reads `size` bytes of `attributes` and the path up to its NUL; both outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, path.as_ptr(), libc::AT_RECURSIVE, &attributes, size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `queue`, a fresh fd of `/dev/net/tun`, the queue of a new tap device in this thread's network namespace, with virtio-net
/// headers; gives the device's name, which the kernel makes of `pattern`.
pub(crate) fn make_tap(queue: BorrowedFd<'_>, pattern: &CStr) -> io::Result<String> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let flags = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: flags };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(pattern.to_bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is fully initialised and outlives the call.
    if unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned());
    Ok(String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned())
}

/// How many bytes stand before each frame of a tap device.
pub(crate) fn set_tap_header(queue: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one integer, which outlives the call.
    match unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The time stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: rdtsc reads a register; no process here forbids it to itself (PR_SET_TSC).
    unsafe { std::arch::x86_64::_rdtsc() }
}
