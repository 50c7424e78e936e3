//! A started machine, as both hypervisors give it to the supervisor: processes, a byte stream, and a pipe for last words.

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

/// A machine. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The hypervisor. It dies with the supervisor, by the kernel's doing; its end without a `PodEnded` is a failure.
    pub(crate) process: Child,
    /// Processes that must live as long as it (virtiofsd).
    pub(crate) servers: Vec<VolumeServer>,
    /// The channel to stage2.
    pub(crate) channel: UnixStream,
    /// The hypervisor writes why it gave up, one line, or nothing.
    pub(crate) report: OwnedFd,
    /// How long the guest may take to its first word.
    pub(crate) boot_secs_max: u64,
}

/// A process that serves a volume to the hypervisor.
#[derive(Debug)]
pub(crate) struct VolumeServer {
    /// The process.
    pub(crate) process: Child,
    /// What it is, for messages.
    pub(crate) name: String,
}

impl Machine {
    /// Kills all processes, and waits until they are dead.
    pub(crate) fn kill(&mut self) {
        let servers = self.servers.iter_mut().map(|server| &mut server.process);
        for process in std::iter::once(&mut self.process).chain(servers) {
            let _ = process.kill(); // It may have ended by itself.
            let _ = process.wait();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pidfd of a child that was not waited for, so its number cannot be another process's.
pub(crate) fn pidfd(child: &Child) -> rustix::io::Result<OwnedFd> {
    pidfd_open(Pid::from_child(child), PidfdFlags::empty())
}

/// How a child that is dead ended: `was killed by signal 9`.
pub(crate) fn how_it_ended(child: &mut Child) -> String {
    match child.wait() {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
        },
        Err(error) => format!("ended: {error}"),
    }
}
