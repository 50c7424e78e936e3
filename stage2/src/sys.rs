//! The system calls that rustix and nix do not have, one function each.
//!
//! stage2 has one thread in all its processes, which several of these functions rely on.

#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ffi::CString;
use std::io;

/// Turns the -1 of the C library into the error that errno says.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Which side of [`fork`] returned.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one: the child's pid, which is only good for comparing with what wait(2) says, and its pidfd.
    Parent(i32, OwnedFd),
}

/// clone3(2) as fork, with a pidfd. `new_mounts`: the child gets its own copy of the mount namespace at once.
pub(crate) fn fork(new_mounts: bool) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let namespaces = if new_mounts { libc::CLONE_NEWNS } else { 0 };
    let arguments = libc::clone_args {
        flags: (libc::CLONE_PIDFD | namespaces) as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: this process has one thread and no stack is given, so the child continues here on a copy of all memory, in
    // which no lock is held and the heap is consistent; the kernel reads `arguments` and writes `pidfd` during the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: with CLONE_PIDFD the kernel has put a new descriptor, that nobody else owns, into `pidfd`.
    Ok(Forked::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Changes attributes of a mount, and of those below it if `recursive`.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, set: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads size_of(attributes) bytes of `attributes`, which outlives the call; the path is a literal.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })?;
    Ok(())
}

/// Marks all descriptors from `first` on to be closed by execve.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range with CLOEXEC changes only a flag of descriptors and touches no memory.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    };
    check(result)?;
    Ok(())
}

/// Sends `signal`, which may be a real-time one, to the process of a pidfd.
pub(crate) fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the siginfo pointer is null, which the call allows; nothing else is a pointer.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    })?;
    Ok(())
}

/// Gives up the caller's session keyring for a new, empty one.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; nothing else is a pointer.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })?;
    Ok(())
}

/// setrlimit(2) by the kernel's number of the resource.
pub(crate) fn set_limit(resource: u8, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads `limit` during the call and writes nothing, since the old limit is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            libc::c_long::from(resource),
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}

/// The highest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// Sets the disposition of one signal to its default, by the kernel's own call: the C library keeps two numbers for itself.
fn reset_signal(signal: i32) {
    // The kernel's struct sigaction: SIG_DFL is 0, and there are no flags, no restorer and no mask.
    let default = [0u64; 4];
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel reads `default`, which is as long as its structure, and writes nothing; no handler is installed.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, size_of::<u64>()) };
    let _ = result; // SIGKILL and SIGSTOP cannot be changed and need not be.
}

/// Sets all signals to their defaults: execve keeps ignored ones ignored, and with an ignored SIGCHLD no child can be waited for.
/// SIGPIPE stays ignored here, as the runtime of Rust wants it.
pub(crate) fn reset_signals() {
    (1..=SIGNAL_MAX).filter(|signal| *signal != libc::SIGPIPE).for_each(reset_signal);
}

/// Sets SIGPIPE to its default, for a child that becomes another program.
pub(crate) fn reset_broken_pipe() {
    reset_signal(libc::SIGPIPE);
}

/// Installs a system call filter for this thread and all that it becomes.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from `filter`, both from one slice that outlives the call, and writes none.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })?;
    Ok(())
}

/// Becomes another program, or says why not.
pub(crate) fn execute(path: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and hold pointers to NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without what the C library would do for a whole program.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Takes over a descriptor that crossed execve, and marks it close-on-exec.
pub(crate) fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD changes only a flag of the descriptor, and fails if there is none.
    check(unsafe { libc::c_long::from(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)) })?;
    // SAFETY: the call before showed that it is open; by contract it was opened for this program and nobody else owns it,
    // and this is called once for each number, at the start of `main`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the cgroups of this process the roots of what it sees from now on.
pub(crate) fn new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: a new cgroup namespace changes nothing that memory or descriptors of this process rely on.
    check(unsafe { libc::c_long::from(libc::unshare(libc::CLONE_NEWCGROUP)) })?;
    Ok(())
}

unsafe extern "C" {
    /// Where the linker put the first read-only segment of this program.
    static __executable_start: u8;
    /// The end of its last read-only segment.
    static etext: u8;
}

/// Unmaps the pages of this program's code and constants, to be mapped again from the page cache when they are next used. For
/// a process that waits, perhaps for months, they are most of its memory.
pub(crate) fn drop_code() {
    const PAGE: usize = 4096;
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if start < end {
        // SAFETY: the linker puts read-only segments first, so all pages between the two symbols are unwritten pages of a
        // private file mapping; the kernel reads them from the file again, and what they hold does not change.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}
