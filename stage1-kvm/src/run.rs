//! The supervisor from start to end, as a table of contents.

use crate::{hypervisor, initramfs, kernel, network, plan, roots, supervise};
use anyhow::{Context, Result};
use supervisor::{Link, Outcome, Place, Signals, Supervisor};

/// Runs the pod of the current directory to its end.
pub(crate) fn run(place: &Place) -> Result<Outcome> {
    let pod = &place.pod;
    let kernel = kernel::find(pod)?;
    let disks = roots::disks(pod)?;
    let shares = roots::shares(pod)?;
    // The rules last as long as this function does, and so does the pod.
    let network::Joined { network, taps, rules: _rules } = network::join(pod)?;
    let plan = plan::plan(pod, kernel, disks, shares, network)?;
    let initramfs = initramfs::build(pod, &plan)?;
    let machine = hypervisor::start(&plan, initramfs, taps)?;
    let channel = machine.channel.try_clone().context("clone the channel")?;
    let boot_millis = Some(machine.boot_secs_max * 1000);
    let mut supervisor = Supervisor::new(place, Link::frames(channel.into())?, Signals::catch()?, boot_millis)?;
    place.write_pid()?;
    supervisor.start(Vec::new(), &[])?;
    supervise::supervise(place, supervisor, machine)
}
