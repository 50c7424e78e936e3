//! System calls that rustix has no safe form of. The only file of this crate with `unsafe`; one call in each function.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `number` refer to what `fd` refers to, and survive exec. For the moment before exec only: whatever else had that
/// number in this process has it no longer.
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup3 takes two numbers and touches no memory; `fd` is open because it is borrowed.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, 0) })
}

/// Lets the child have `fd` under `number`.
pub(crate) fn give(command: &mut Command, fd: OwnedFd, number: RawFd) {
    use std::os::fd::AsFd;
    // SAFETY: between fork and exec the closure makes one system call, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || place(fd.as_fd(), number)) };
}

/// Sets SIGCHLD to its default, here and in what this process becomes: a caller that ignores it has the kernel reap children,
/// so that no process in the chain could wait for one.
pub(crate) fn notice_children() {
    // SAFETY: SIG_DFL is no function of ours, and this program has no handler that could be lost.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Closes all fds from `first` on when the process executes another program.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call only sets a flag of fds and closes nothing that an owner here has.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) as i32 })
}

/// Sends a signal by pidfd, as a number: rustix knows no real-time signals.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo makes the kernel fill in its own; no memory is read.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
            as i32
    })
}

/// bpf(2) with an attribute block whose layout the caller made; gives the number it returns.
pub(crate) fn bpf(command: u32, attributes: &mut [u64]) -> io::Result<i32> {
    let size = size_of_val(attributes);
    // SAFETY: the kernel reads `size` bytes of `attributes`; addresses in it are of slices that the caller keeps alive
    // across this call, as `cgroup::bpf` does in the same function.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Which CLONE_NEW… makes namespaces like this one.
pub(crate) fn namespace_kind(namespace: BorrowedFd<'_>) -> io::Result<i32> {
    /// `_IO(NSIO, 3)` of linux/nsfs.h.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this request takes no argument and only returns a number.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    check(kind).map(|()| kind)
}

/// Takes over an fd that a system call returned as a number.
pub(crate) fn own(number: i32) -> OwnedFd {
    // SAFETY: the number came from a system call that made this fd for us; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Forks; the child runs `body` and ends with what it returns, without running anything else of this program.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> io::Result<libc::pid_t> {
    // SAFETY: this program has one thread (image-tools joins its own before it returns), so no lock is held by a thread
    // that the child lacks.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        exit(body());
    }
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

fn exit(code: i32) -> ! {
    // SAFETY: _exit ends the process and runs no handlers, so nothing of the parent's is flushed or dropped twice.
    unsafe { libc::_exit(code) }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The hard limit of a resource (getrlimit(2)); none if it is infinite or the kernel does not have the resource.
pub(crate) fn hard_limit(resource: u32) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one struct rlimit, which `limit` is, and reads nothing of this process.
    let result = unsafe { libc::getrlimit(resource as _, &raw mut limit) };
    (result == 0 && limit.rlim_max != libc::RLIM_INFINITY).then_some(limit.rlim_max)
}
