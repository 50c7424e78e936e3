//! What stage0 leaves for a stage1: the locked pod directory and `pod.json` in it. And what a stage1 leaves in any case: an
//! exit code, a sentence, and the status of every app.

use crate::{Outcome, record, report, sys};
use anyhow::{Context, Result, bail};
use contract::host::Host;
use contract::name::PodUuid;
use contract::pod::{DeviceKind, Pod};
use contract::{APPS_MAX, dir, json, stage2};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Component;
use std::process::ExitCode;

/// The pod and its directory, which is also the current directory.
#[derive(Debug)]
pub struct Place {
    /// Open and locked: the pod lives as long as it is.
    pub directory: OwnedFd,
    /// What the pod is.
    pub pod: Pod,
    /// `pod.json`, at its start.
    pub pod_file: OwnedFd,
}

/// `run UUID` of a stage1: takes the place over, and lets `body` run the pod to its end.
pub fn run(uuid: &str, body: fn(&Place) -> Result<Outcome>) -> ExitCode {
    let place = match Place::take(uuid) {
        Ok(place) => place,
        Err(error) => return report::failure(&error),
    };
    match body(&place) {
        Ok(outcome) => report::outcome(&outcome),
        Err(error) => {
            let cause = report::describe(&error);
            let line = cause.lines().next().unwrap_or_default();
            // The caller hears of it in any case.
            let _ = record::failed(place.directory.as_fd(), &place.pod, line);
            report::failure(&error)
        }
    }
}

impl Place {
    fn take(uuid: &str) -> Result<Self> {
        let uuid = PodUuid::parse(uuid)?;
        let lock = dir::LOCK_FD;
        let directory = sys::inherited(lock).with_context(|| format!("take the pod directory on fd {lock}"))?;
        // No child may hold the lock, and none gets what it is not given.
        sys::close_on_exec_from(u32::try_from(lock)?).context("keep descriptors to ourselves")?;
        let pod_file = record::open(directory.as_fd(), dir::POD)?;
        let pod: Pod = read(pod_file.as_fd()).context("read `pod.json`")?;
        check(&pod, &uuid).context("read `pod.json`")?;
        Ok(Self { directory, pod, pod_file })
    }

    /// Reads `host.json`.
    pub fn host(&self) -> Result<Host> {
        read(record::open(self.directory.as_fd(), dir::HOST)?.as_fd()).context("read `host.json`")
    }

    /// Writes `pid`, which must be there before the first app starts.
    pub fn write_pid(&self) -> Result<()> {
        record::write_pid(self.directory.as_fd())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa";
    const POD: &str = r#"{"version": 1, "uuid": "UUID", "created_unix_secs": 0, "hostname": "h", "ipc": "private",
        "network": {"mode": "none"}, "apps": [{"name": "a", "image": {"id": "sha256:0", "name": "x", "trust": {"by": "digest"}},
        "root": {"layers": ["/s/1"], "read_only": false}, "exec": ["/x"], "user": "0", "working_directory": "/",
        "environment": [], "capabilities": [], "no_new_privileges": true, "seccomp": {"mode": "unconfined"},
        "restart": {"policy": "no"}, "stop": {"signal": 15, "grace_millis": 0}, "stdio": {"mode": "null"}}]}"#;

    fn checked(change: impl Fn(&mut Pod)) -> String {
        let mut pod: Pod = serde_json::from_str(&POD.replace("UUID", UUID)).expect("the sample is a pod");
        change(&mut pod);
        check(&pod, &PodUuid::parse(UUID).unwrap()).map_or_else(|error| error.to_string(), |()| "good".to_owned())
    }

    #[test]
    fn what_types_do_not_say_is_checked() {
        assert_eq!(checked(|_| ()), "good");
        assert_eq!(checked(|pod| pod.apps.clear()), "a pod has 1 to 64 apps, not 0");
        assert_eq!(checked(|pod| pod.apps.push(pod.apps[0].clone())), "two apps are named `a`");
        assert_eq!(checked(|pod| pod.apps[0].root.layers.clear()), "app `a` has no layers");
        assert!(checked(|pod| pod.uuid = PodUuid::parse(&UUID.replace('0', "1")).unwrap()).starts_with("it is of pod"));
    }
}
