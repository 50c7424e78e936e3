//! The system calls that no safe wrapper has: clone3, mount_setattr, and the loopback ioctl.
//!
//! Each function is one call with a safe signature. This process never has more than one thread; that is what makes
//! `clone` without `exec` sound.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of [`clone`] this is.
pub(crate) enum Side {
    /// The caller; the fd names the child without the reuse races of a pid.
    Parent(OwnedFd),
    /// The new process.
    Child,
}

/// clone3(2) in the manner of fork, into the namespaces of `flags` (CLONE_NEW… and CLONE_PARENT).
pub(crate) fn clone(flags: libc::c_int) -> io::Result<Side> {
    let mut pidfd: libc::c_int = -1;
    let exit_signal = if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD } else { 0 };
    let arguments = libc::clone_args {
        flags: (flags | libc::CLONE_PIDFD) as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: exit_signal as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: this process has one thread, so the child's copy of the heap is consistent and no lock is held in it; without
    // CLONE_VM and with a null stack the child continues here on its own copy of this stack. The kernel writes `pidfd` only.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        // SAFETY: the kernel put a new fd there, and nothing else in this process knows its number.
        _ => Ok(Side::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Flags of a mount: MOUNT_ATTR_…, and the user namespace whose mapping the mount gets.
pub(crate) struct MountAttributes<'fd> {
    /// Set these.
    pub(crate) set: u64,
    /// MS_PRIVATE and its kin; 0 leaves the propagation.
    pub(crate) propagation: u64,
    /// Show the mount through the id mapping of this user namespace.
    pub(crate) id_mapping: Option<BorrowedFd<'fd>>,
    /// With all mounts below.
    pub(crate) recursive: bool,
}

/// mount_setattr(2) on the mount that `mount` is the root of.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, attributes: &MountAttributes<'_>) -> io::Result<()> {
    let mapping = attributes.id_mapping.map_or(0, |fd| fd.as_raw_fd() as u64);
    let mapped = if attributes.id_mapping.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
    let argument = libc::mount_attr {
        attr_set: attributes.set | mapped,
        attr_clr: 0,
        propagation: attributes.propagation,
        userns_fd: mapping,
    };
    let flags = libc::AT_EMPTY_PATH | if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads size_of(argument) bytes of `argument`, which outlives the call; the path is a NUL-terminated literal.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const argument,
            size_of_val(&argument),
        )
    };
    check(result)
}

/// Sets IFF_UP on the loopback interface of this network namespace; the kernel then gives it its addresses.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l' as libc::c_char;
    name[1] = b'o' as libc::c_char;
    let flags = libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    let request = libc::ifreq { ifr_name: name, ifr_ifru: flags };
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is fully initialised and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(result.into())
}

/// Makes `fd` the open file `number` of the program that is executed next.
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the call takes integers. Whoever owned `number` in this process is not used after this: `place` is called
    // right before exec, and its errors end the process.
    let result = unsafe { libc::dup3(fd.as_raw_fd(), number, 0) };
    check(result.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
