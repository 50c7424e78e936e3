//! Starts the stage2 that runs the apps, as stage1-namespaces does: PID 1 of a PID namespace, with the standard streams
//! of the pod, `pod.json` and the channel.

use super::port;
use super::sys::{self, Fork, fork};
use anyhow::{Context, Result};
use contract::channel::Command;
use contract::kernel::Resource;
use contract::name::AppName;
use contract::pod::{Pod, Rlimit, Stdio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wire::mux::Mux;
use wire::packet;

/// The kernel's own limit (`fs.nr_open`), which a host's administrator may have raised.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// The started stage2, as the bridge sees it.
#[derive(Debug)]
pub(super) struct Core {
    /// Its pid out here.
    pub(super) pid: Pid,
    /// Readable when it has ended.
    pub(super) pidfd: OwnedFd,
    /// The channel, as in namespaces.
    pub(super) channel: OwnedFd,
    /// What the apps read, if one of them does.
    pub(super) stdin: Option<OwnedFd>,
    /// What the apps write.
    pub(super) stdout: OwnedFd,
    /// What the apps write.
    pub(super) stderr: OwnedFd,
}

/// What the child is made of. The files must be opened before the pod root hides them.
#[derive(Debug)]
pub(super) struct Inputs {
    /// `pod.json`.
    pub(super) pod_file: File,
    /// `/dev/null`, for apps that read nothing.
    pub(super) null: File,
    /// What the child begins with.
    pub(super) rlimits: Vec<Rlimit>,
    /// What the child runs.
    pub(super) core: fn() -> u8,
}

/// Forks it. The host's first command is in its channel before it runs, with the guest's own cgroups.
pub(super) fn start(pod: &Pod, inputs: Inputs, cgroups: &[(AppName, File)], port: &mut Mux) -> Result<Core> {
    let Inputs { pod_file, null, rlimits, core } = inputs;
    let tty = port::start_command(port)?;
    let (channel, channel_inside) = packet::pair().context("make the channel")?;
    send_start(&channel, cgroups, tty)?;
    let reads = pod.apps.iter().any(|app| matches!(app.stdio, Stdio::Inherit { stdin: true }));
    let (stdin_inside, stdin) = if reads {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (null.into(), None)
    };
    let (stdout, stdout_inside) = pipe()?;
    let (stderr, stderr_inside) = pipe()?;
    // The next child is PID 1 of a namespace, so its end kills all that it started, and the apps count from 1.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).context("make a PID namespace")?;
    match fork().context("fork")? {
        Fork::Child => child(
            core,
            &rlimits,
            [
                stdin_inside.as_fd(),
                stdout_inside.as_fd(),
                stderr_inside.as_fd(),
                pod_file.as_fd(),
                channel_inside.as_fd(),
            ],
        ),
        Fork::Parent(pid) => {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("open stage2's pidfd")?;
            Ok(Core { pid, pidfd, channel, stdin, stdout, stderr })
        }
    }
}

fn send_start(channel: &OwnedFd, cgroups: &[(AppName, File)], tty: Option<(u16, u16)>) -> Result<()> {
    let start = Command::Start { cgroups: cgroups.iter().map(|(app, _)| (app.clone(), 1)).collect(), tty };
    let fds: Vec<BorrowedFd<'_>> = cgroups.iter().map(|(_, procs)| procs.as_fd()).collect();
    packet::send_many(channel.as_fd(), &serde_json::to_vec(&start)?, &fds).context("write to stage2")
}

/// A pipe, no end of which reaches an app by accident.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context("make a pipe")
}

/// The child: limits and fds 0 to 4 as in namespaces, nothing beyond, then the same code.
fn child(core: fn() -> u8, rlimits: &[Rlimit], fds: [BorrowedFd<'_>; 5]) -> ! {
    let arranged = sys::arrange(fds).context("arrange the standard streams");
    let code = match arranged.and_then(|()| limit(rlimits)) {
        Ok(()) => {
            // PID 1 is called the same in every pod; a name is only a name, so an error does not matter.
            let _ = rustix::thread::set_name(c"stage2");
            core()
        }
        Err(error) => {
            eprintln!("stage2: guest: {error:#}");
            contract::exit::FAILURE
        }
    };
    std::process::exit(code.into())
}

fn limit(rlimits: &[Rlimit]) -> Result<()> {
    for Rlimit { resource, soft, hard } in rlimits {
        let most = if *resource == Resource::Nofile { OPEN_FILES_MAX } else { u64::MAX };
        let value = |limit: &Option<u64>| limit.unwrap_or(u64::MAX).min(most);
        crate::sys::set_limit(resource.number(), value(soft), value(hard))
            .with_context(|| format!("set {resource}"))?;
    }
    Ok(())
}
