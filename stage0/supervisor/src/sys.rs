//! The system calls of a supervisor that no safe crate offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over an fd that the contract says this process was started with.
///
/// Fails when the fd is not open. Each number must be taken once.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an integer and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the fd is open, was opened before this program started, and each of the contract's numbers is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every fd from `first` on close-on-exec, those that we do not know included.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: the call takes integers and closes nothing now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

unsafe extern "C" {
    /// Where the linker put the first read-only segment of this program.
    static __executable_start: u8;
    /// The end of its last read-only segment.
    static etext: u8;
}

/// Unmaps this program's code and constants until they are used again: for a process that waits, they are most of its memory.
pub(crate) fn drop_code() {
    const PAGE: usize = 4096;
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if start < end {
        // SAFETY: the linker puts read-only segments first, so the pages between the two symbols are unwritten pages of a
        // private mapping of this program's file, and the kernel brings back the same bytes at the next access.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}
