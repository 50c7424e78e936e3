//! Telling the kernel which devices an app of cgroup v2 may use: the program is the contract's, the system calls are here.

use contract::devices::Rule;
use contract::devices::program::{self, PROG_ATTACH, PROG_LOAD};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Loads the list as a program and attaches it to the cgroup directory, which must be one that `pod` made: the program of a cgroup
/// that somebody else manages would confine his processes, and he may replace it.
pub(crate) fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    let program = load(rules)?;
    crate::sys::bpf(PROG_ATTACH, &mut program::attach(cgroup, program.as_fd())).map(|_| ())
}

/// Loads the list. The kernel refuses that to a process without the privileges that attaching takes.
pub(crate) fn load(rules: &[Rule]) -> io::Result<OwnedFd> {
    let instructions = program::program(rules);
    crate::sys::bpf(PROG_LOAD, &mut program::load(&instructions)).map(crate::sys::own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::devices::STANDARD;

    #[test]
    fn the_kernel_takes_the_program() {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
        let Some(root) = root.into_iter().find(|root| root.join("cgroup.controllers").exists()) else {
            eprintln!("skip: no cgroup v2");
            return;
        };
        let cgroup = root.join(format!("pod-test-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&cgroup) {
            eprintln!("skip: make a cgroup: {error}");
            return;
        }
        let attached = std::fs::File::open(&cgroup).and_then(|directory| attach(directory.as_fd(), &STANDARD));
        std::fs::remove_dir(&cgroup).unwrap();
        attached.unwrap();
    }
}
