//! The system calls that no safe wrapper offers, because a program should not make them: the probe tries them to see who
//! refuses. Each runs in a child made for it, so that nothing it changes stays.

#![allow(unsafe_code)]

use nix::sys::signal::{self, SigHandler, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::io;

/// What became of a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It returned this, not negative.
    Value(i64),
    /// It returned this errno.
    Errno(i32),
    /// The process that made it was killed by this signal.
    Killed(i32),
}

/// Makes one raw system call with six arguments.
fn raw(number: i64, arguments: [usize; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the probe only passes null or invalid addresses and constants (the table in `syscalls.rs`), so the kernel
    // writes to no memory of this process.
    let value = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if value < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(value) }
}

/// Forks; the child runs `body` and exits with what it returns.
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> io::Result<WaitStatus> {
    // SAFETY: the probe has one thread, so no lock is held by another one and the child's heap is consistent.
    match unsafe { fork() }? {
        ForkResult::Child => exit(body()),
        ForkResult::Parent { child } => Ok(waitpid(child, None)?),
    }
}

/// Forks; the child runs `body`, and nobody here waits for it.
pub(crate) fn in_child_detached(body: impl FnOnce() -> i32) -> io::Result<()> {
    // SAFETY: the probe has one thread, so no lock is held by another one and the child's heap is consistent.
    match unsafe { fork() }? {
        ForkResult::Child => exit(body()),
        ForkResult::Parent { .. } => Ok(()),
    }
}

/// Ends this process at once, without running exit handlers that belong to the parent.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes the call in a child, and says what became of it.
pub(crate) fn attempt(number: i64, arguments: [usize; 6]) -> io::Result<Verdict> {
    // The errno travels as the exit code; 0 is success, and no errno reaches 255.
    let status = in_child(|| match raw(number, arguments) {
        Ok(_) => 0,
        Err(errno) => errno.min(254),
    })?;
    Ok(match status {
        WaitStatus::Exited(_, 0) => Verdict::Value(0),
        WaitStatus::Exited(_, errno) => Verdict::Errno(errno),
        WaitStatus::Signaled(_, signal, _) => Verdict::Killed(signal as i32),
        other => return Err(io::Error::other(format!("{other:?}"))),
    })
}

/// The number of this process's session keyring, or the errno of keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING).
pub(crate) fn session_keyring() -> Result<i64, i32> {
    raw(libc::SYS_keyctl, [0, usize::MAX - 2, 0, 0, 0, 0])
}

/// Gives a signal its default action back.
pub(crate) fn default_action(signal: Signal) -> io::Result<()> {
    // SAFETY: SIG_DFL is no function of ours, so nothing of this program runs in a signal handler.
    unsafe { signal::signal(signal, SigHandler::SigDfl) }.map(|_| ()).or_else(|errno| match errno {
        // SIGKILL and SIGSTOP have no other action.
        nix::errno::Errno::EINVAL => Ok(()),
        other => Err(other.into()),
    })
}

/// Whether PR_SET_NO_NEW_PRIVS is in force.
pub(crate) fn no_new_privileges() -> bool {
    // SAFETY: PR_GET_NO_NEW_PRIVS takes no pointer.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// From here on this process and its children live on a kernel without seccomp, as far as they can see: seccomp(2) is not
/// there, and prctl(2) does not know PR_SET_SECCOMP.
pub(crate) fn hide_seccomp() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless = |k: u32, skip: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let answer = |action: u32| statement(libc::BPF_RET | libc::BPF_K, action);
    // struct seccomp_data: the number at 0, the low half of the first argument at 16.
    let filter = [
        load(0),
        unless(libc::SYS_seccomp as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        unless(libc::SYS_prctl as u32, 3),
        load(16),
        unless(libc::PR_SET_SECCOMP as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions of `filter`, which outlives the call, and writes to none.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
