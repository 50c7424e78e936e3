//! Ending what an app leaves behind: when its first process has ended, its other processes must not run on, hold its ports, or
//! meet its next incarnation.
//!
//! An app's processes are those in its mount namespace. One that made another for itself, for which it needs CAP_SYS_ADMIN,
//! ends with the pod.

use crate::mount;
use crate::sys;
use anyhow::{Context, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

/// Rounds of killing: a process may fork while the others are being killed.
const ROUNDS_MAX: usize = 64;

/// A mount namespace, by the inode number of its file in /proc. It is not used again while a process is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(u64);

/// A proc of PID 1's own.
pub(crate) struct Processes(OwnedFd);

impl Processes {
    /// Makes the proc; it is mounted nowhere.
    pub(crate) fn new() -> Result<Self> {
        mount::detached("proc", &[], mount::INERT).map(Self)
    }

    /// The mount namespace of a process; `None` if it is gone.
    pub(crate) fn namespace(&self, pid: i32) -> Option<Namespace> {
        let stat = rustix::fs::statat(&self.0, format!("{pid}/ns/mnt"), AtFlags::empty()).ok()?;
        Some(Namespace(stat.st_ino))
    }

    /// Kills all processes in `namespace`, and what they start meanwhile.
    pub(crate) fn end(&self, namespace: Namespace) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            if !self.kill_once(namespace)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there was one to kill. Those killed before are no longer in the namespace.
    fn kill_once(&self, namespace: Namespace) -> Result<bool> {
        let mut found = false;
        // The mount's own descriptor is for looking up names only.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = rustix::fs::openat(&self.0, ".", flags, Mode::empty()).context("open /proc")?;
        for entry in Dir::new(list).context("read /proc")? {
            let entry = entry.context("read /proc")?;
            let pid = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
            let Some(pid) = pid.filter(|pid| self.namespace(*pid) == Some(namespace)) else { continue };
            let open = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
            let Some(process) = Pid::from_raw(pid).and_then(open) else { continue };
            // The number may have gone to another process before the descriptor was opened, but not after.
            if self.namespace(pid) == Some(namespace) {
                found |= sys::send_signal(process.as_fd(), libc::SIGKILL).is_ok();
            }
        }
        Ok(found)
    }
}
