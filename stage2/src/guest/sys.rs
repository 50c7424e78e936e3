//! The system calls of the guest's PID 1 that rustix has no safe function for.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;

/// What fork(2) returned.
#[derive(Debug)]
pub(super) enum Fork {
    /// In the new process.
    Child,
    /// In the old one: the pid of the new.
    Parent(rustix::process::Pid),
}

/// fork(2).
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: the guest's PID 1 never makes a thread, so the child's heap is consistent and no lock is held in it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(rustix::process::Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
    }
}

/// bpf(2) with an attribute block whose layout the caller made; gives the number it returns.
pub(super) fn bpf(command: u32, attributes: &mut [u64]) -> io::Result<i32> {
    let size = size_of_val(attributes);
    // SAFETY: the kernel reads `size` bytes of `attributes`; addresses in it are of slices that the caller keeps alive across this
    // call, as `cgroup::confine` does in the same function.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Takes over an fd that a system call returned as a number.
pub(super) fn own(number: i32) -> OwnedFd {
    // SAFETY: the number came from a system call that made this fd for us; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Makes `fds` the fds 0, 1, 2 and so on of this process, open across exec only as far as stderr, and closes all others.
pub(super) fn arrange<const COUNT: usize>(fds: [BorrowedFd<'_>; COUNT]) -> io::Result<()> {
    let count = i32::try_from(COUNT).expect("a handful of fds");
    // Copies beyond the numbers to fill, so that filling one does not close another.
    let copies = fds.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, count));
    for (number, copy) in (0..).zip(copies) {
        let copy = std::mem::ManuallyDrop::new(copy?);
        let flags = if number <= 2 { 0 } else { libc::O_CLOEXEC };
        // SAFETY: the process is a fresh fork that uses none of its parent's files again, so no owner of `number` is left.
        if unsafe { libc::dup3(copy.as_raw_fd(), number, flags) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: as above: the owners of all these numbers are never used again, nor dropped.
    match unsafe { libc::close_range(count.cast_unsigned(), u32::MAX, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
