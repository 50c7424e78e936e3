//! `run UUID`, from beginning to end.

use crate::channel::{self, Channel};
use crate::control::Control;
use crate::plan::Plan;
use crate::record::{self, Statuses};
use crate::report::Outcome;
use crate::spawn::{self, Start};
use crate::supervise::{self, Supervisor};
use crate::sys;
use crate::terminal::Terminal;
use anyhow::{Context, Result, bail};
use contract::channel::Command;
use contract::host::Host;
use contract::name::PodUuid;
use contract::pod::{DeviceKind, Network, Pod, Stdio};
use contract::{APPS_MAX, dir, json, stage2};
use nix::sys::signal::SigSet;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Component;

/// Runs the pod of the current directory to its end.
pub(crate) fn run(uuid: &str) -> Result<Outcome> {
    let uuid = PodUuid::parse(uuid)?;
    let lock =
        sys::inherited(dir::LOCK_FD).with_context(|| format!("take the pod directory on fd {}", dir::LOCK_FD))?;
    let pod_file = record::open(lock.as_fd(), dir::POD)?;
    let pod: Pod = read(pod_file.as_fd()).context("read `pod.json`")?;
    check(&pod, &uuid).context("read `pod.json`")?;
    let plan = Plan::of(&pod);
    let network = (pod.network == Network::Joined).then(|| taken(dir::NETWORK_FD, "network")).transpose()?;
    let users = pod.private_users.map(|_| taken(dir::USER_FD, "user")).transpose()?;

    let mask = SigSet::thread_get_mask().context("read the signal mask")?;
    let signals = supervise::catch_signals()?;
    let (ours, theirs) = channel::pair()?;
    let stage2 = spawn::stage2_path()?;
    let start = Start { plan: &plan, pod_file, channel: theirs, network, users, stage2, mask };
    let child = spawn::spawn(&start)?;
    drop(start);

    // The child is busy with its mounts; meanwhile:
    let channel = Channel::new(ours);
    let control = Control::bind()?;
    record::write_pid(lock.as_fd())?;
    let terminal = Terminal::of_caller(&pod);
    // stage2 waits for this packet, so no app runs before `pid` is written.
    start_apps(&pod, &lock, &channel, terminal.as_ref().map(Terminal::size))?;
    let statuses = Statuses::new(&pod);
    Supervisor::new(&pod, lock, channel, control, signals, statuses, terminal).supervise(child)
}

/// Reads without moving the file's offset, which stage2 inherits.
fn read<T: serde::de::DeserializeOwned>(file: BorrowedFd<'_>) -> Result<T> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    if size > json::FILE_BYTES_MAX {
        return Err(json::ReadError::Long.into());
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut length = 0;
    while length < bytes.len() {
        match rustix::io::pread(file, &mut bytes[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(json::parse(&bytes[..length])?)
}

/// What the types of the contract do not say already.
fn check(pod: &Pod, uuid: &PodUuid) -> Result<()> {
    if pod.uuid != *uuid {
        bail!("it is of pod {}, not {uuid}", pod.uuid);
    }
    if pod.apps.is_empty() || pod.apps.len() > APPS_MAX {
        bail!("a pod has 1 to {APPS_MAX} apps, not {}", pod.apps.len());
    }
    let mut names = BTreeSet::new();
    for app in &pod.apps {
        if !names.insert(&app.name) {
            bail!("two apps are named `{}`", app.name);
        }
        if app.root.layers.is_empty() {
            bail!("app `{}` has no layers", app.name);
        }
    }
    check_devices(pod)?;
    let mut names = BTreeSet::new();
    match pod.volumes.iter().find(|volume| !names.insert(&volume.name)) {
        Some(volume) => bail!("two volumes are named `{}`", volume.name),
        None => Ok(()),
    }
}

/// With a user namespace the nodes of all apps lie in one directory, each under its path in the app.
fn check_devices(pod: &Pod) -> Result<()> {
    let mut numbers = BTreeMap::new();
    for device in pod.apps.iter().flat_map(|app| &app.devices) {
        let number = (device.kind == DeviceKind::Block, device.major, device.minor);
        if device.path.components().any(|part| part == Component::ParentDir) || !device.path.is_absolute() {
            bail!("device path `{}` is not absolute or holds `..`", device.path.display());
        }
        let name = device.path.strip_prefix(stage2::DEV).unwrap_or(&device.path);
        if pod.private_users.is_some() && *numbers.entry(name).or_insert(number) != number {
            bail!("two apps have different devices at `{}`", device.path.display());
        }
    }
    Ok(())
}

fn taken(number: i32, namespace: &str) -> Result<OwnedFd> {
    sys::inherited(number).with_context(|| format!("take the pod's {namespace} namespace on fd {number}"))
}

/// Opens the files of cgroups by which every app joins them: from inside the pod they cannot be reached.
fn start_apps(pod: &Pod, lock: &OwnedFd, channel: &Channel, tty: Option<(u16, u16)>) -> Result<()> {
    let host: Host = read(record::open(lock.as_fd(), dir::HOST)?.as_fd()).context("read `host.json`")?;
    let mut fds = Vec::new();
    let mut cgroups = Vec::with_capacity(pod.apps.len());
    for app in &pod.apps {
        let paths = host.app_cgroups.get(&app.name).map(Vec::as_slice).unwrap_or_default();
        for path in paths {
            fds.push(record::open_cgroup(path)?);
        }
        cgroups.push((app.name.clone(), paths.len()));
    }
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let tty = tty.filter(|_| pod.apps.iter().any(|app| app.stdio == Stdio::Tty));
    match channel.send(&Command::Start { cgroups, tty }, &fds) {
        // The child is dead already. Why, is the last thing it said.
        Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::PIPE) => Ok(()),
        result => result.context("start the apps"),
    }
}
