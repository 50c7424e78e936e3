//! `run UUID`, from beginning to end.

use crate::plan::Plan;
use crate::spawn::{self, Start};
use crate::supervise;
use anyhow::{Context, Result};
use contract::dir;
use contract::pod::Network;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use supervisor::{Link, Outcome, Place, Signals, Supervisor, record, sys};
use wire::packet;

/// Runs the pod of the current directory to its end.
pub(crate) fn run(place: &Place) -> Result<Outcome> {
    let pod = &place.pod;
    let plan = Plan::of(pod);
    let network = (pod.network == Network::Joined).then(|| taken(dir::NETWORK_FD, "network")).transpose()?;
    let users = pod.private_users.map(|_| taken(dir::USER_FD, "user")).transpose()?;

    let signals = Signals::catch()?;
    let (ours, theirs) = packet::pair().context("make the channel to stage2")?;
    let stage2 = spawn::stage2_path()?;
    let pod_file = place.pod_file.try_clone().context("clone the fd of `pod.json`")?;
    let start = Start { plan: &plan, pod_file, channel: theirs, network, users, stage2, mask: signals.mask_before };
    let child = spawn::spawn(&start)?;
    drop(start);

    // The child is busy with its mounts; meanwhile:
    let mut supervisor = Supervisor::new(place, Link::packets(ours), signals, None)?;
    place.write_pid()?;
    // stage2 waits for this packet, so no app runs before `pid` is written.
    start_apps(place, &mut supervisor)?;
    supervise::supervise(supervisor, child)
}

fn taken(number: i32, namespace: &str) -> Result<OwnedFd> {
    sys::inherited(number).with_context(|| format!("take the pod's {namespace} namespace on fd {number}"))
}

/// Opens the files of cgroups by which every app joins them: from inside the pod they cannot be reached.
fn start_apps(place: &Place, supervisor: &mut Supervisor<'_>) -> Result<()> {
    let host = place.host()?;
    let mut fds = Vec::new();
    let mut cgroups = Vec::with_capacity(place.pod.apps.len());
    for app in &place.pod.apps {
        let paths = host.app_cgroups.get(&app.name).map(Vec::as_slice).unwrap_or_default();
        for path in paths {
            fds.push(record::open_cgroup(path)?);
        }
        cgroups.push((app.name.clone(), paths.len()));
    }
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    supervisor.start(cgroups, &fds)
}
