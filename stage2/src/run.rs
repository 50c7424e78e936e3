//! The program: from the descriptors that stage1 left to the pod's exit code.

use crate::channel::Channel;
use crate::supervise::{self, Supervisor};
use crate::{device, proc, sys};
use anyhow::{Context, Result, bail, ensure};
use contract::channel::Command;
use contract::pod::Pod;
use rustix::fd::OwnedFd;
use rustix::fs::Mode;
use std::fs::File;

/// Runs the pod that `pod_file` describes, under the commands that come by `channel`.
pub(crate) fn run(pod_file: OwnedFd, channel: &Channel) -> Result<u8> {
    // What the caller has of these is not the pod's, whatever stage1 lets through.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    let pod: Pod = contract::json::read(File::from(pod_file)).context("read pod.json")?;
    // Apps that may trace others must not find PID 1 among them: it has all capabilities of the pod.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("become undumpable")?;
    let signals = supervise::child_signals()?;
    let (command, fds) = channel.wait()?;
    let Command::Start { cgroups, tty } = command else { bail!("the first command is not `start`") };
    let cgroups = by_app(&pod, cgroups, fds)?;
    set_up(&pod)?;
    Supervisor::new(&pod, channel, cgroups, tty).run(&signals)
}

/// Hands the descriptors of `start` to the apps, in the order of the pod's apps.
fn by_app(pod: &Pod, counts: Vec<(contract::name::AppName, usize)>, fds: Vec<OwnedFd>) -> Result<Vec<Vec<OwnedFd>>> {
    let mut fds = fds.into_iter();
    let mut cgroups: Vec<Vec<OwnedFd>> = pod.apps.iter().map(|_| Vec::new()).collect();
    for (name, count) in counts {
        let index = pod.apps.iter().position(|app| app.name == name);
        let index = index.with_context(|| format!("`start` names the app `{name}`, which the pod has not"))?;
        ensure!(fds.len() >= count, "`start` has too few descriptors");
        cgroups[index].extend(fds.by_ref().take(count));
    }
    Ok(cgroups)
}

/// What all apps share.
fn set_up(pod: &Pod) -> Result<()> {
    rustix::system::sethostname(pod.hostname.as_bytes())
        .with_context(|| format!("set the host name `{}`", pod.hostname))?;
    proc::sysctls(pod)?;
    device::shared_memory(pod)
}
