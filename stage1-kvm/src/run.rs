//! The supervisor from start to end, as a table of contents.

use crate::{hypervisor, initramfs, kernel, network, plan, record, roots, supervise, sys};
use anyhow::{Context, Result, bail};
use contract::name::PodUuid;
use contract::pod::Pod;
use std::fmt;
use std::fs::File;

/// An error that knows what the user can do about it.
#[derive(Debug)]
pub(crate) struct Hint {
    /// What went wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) advice: String,
}

impl Hint {
    /// An error with its advice.
    pub(crate) fn error(message: impl Into<String>, advice: impl Into<String>) -> anyhow::Error {
        Self { message: message.into(), advice: advice.into() }.into()
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hint {}

/// Runs the pod of the current directory to its end.
pub(crate) fn run(uuid: &str) -> Result<supervise::Ended> {
    let uuid = PodUuid::parse(uuid)?;
    // The pod lives as long as its lock is held, so no child may hold it: neither a hypervisor nor what serves a volume.
    let first = u32::try_from(contract::dir::LOCK_FD)?;
    sys::close_on_exec_from(first).context("keep the pod's lock to ourselves")?;
    let file = File::open(contract::dir::POD).context("open `pod.json`")?;
    let pod: Pod = contract::json::read(file).context("read `pod.json`")?;
    if pod.uuid != uuid {
        bail!("`pod.json` is of pod {}, not {uuid}", pod.uuid);
    }
    let kernel = kernel::find(&pod)?;
    let disks = roots::disks(&pod)?;
    let shares = roots::shares(&pod)?;
    // The rules last as long as this function does, and so does the pod.
    let network::Joined { network, taps, rules: _rules } = network::join(&pod)?;
    let plan = plan::plan(&pod, kernel, disks, shares, network)?;
    let initramfs = initramfs::build(&pod, &plan)?;
    record::supervisor()?;
    let machine = hypervisor::start(&plan, initramfs, taps)?;
    supervise::supervise(&pod, machine)
}
