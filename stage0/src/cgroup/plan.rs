//! `pod.json` and the host's hierarchies → which cgroups to make, what to write into them, and who joins which. Pure.
//!
//! On v1 a pod lies below the cgroup of its caller, so that the limits of a systemd unit hold for its pods, delegated or
//! not: v1 knows no rule about inner processes. On v2 it lies below the cgroup of its caller's unit if systemd gave that away
//! (`Delegate=yes`). In any other unit no cgroup is made: the apps stay in the unit's own, whose limits hold for them. Outside of
//! units (a login, a host without systemd) pods lie in `/pod`.

use super::hierarchy::{Hierarchies, Unified};
use crate::failure::Failure;
use contract::devices::{self, Rule};
use contract::limits::{self, Setting};
use contract::name::{AppName, PodUuid};
use contract::pod::{Limits, Pod};
use contract::stage1::RootForm;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the cgroup that holds pods.
pub(crate) const PARENT: &str = "pod";
/// Name of the v1 devices cgroup whose children inherit the standard list. The number changes when the list changes.
pub(crate) const STANDARD_DEVICES: &str = "pod.devices-1";

/// One cgroup to make.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// Directory.
    pub(crate) path: PathBuf,
    /// What to write into it.
    pub(crate) settings: Vec<Setting>,
    /// Which devices its processes may use, and how the kernel is told.
    pub(crate) devices: Devices,
    /// v2: cgroups above it, from the root down, that must pass its controllers on.
    pub(crate) ancestors: Vec<PathBuf>,
}

/// How a cgroup's device list comes about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Devices {
    /// Not here.
    Unlimited,
    /// v1: from the parent, which has the standard list.
    Inherited,
    /// v1: written rule by rule.
    Written(Vec<Rule>),
    /// v2: as a program.
    Program(Vec<Rule>),
}

/// All cgroups of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Parents before children.
    pub(crate) groups: Vec<Group>,
    /// What each app's first process joins.
    pub(crate) apps: BTreeMap<AppName, Vec<PathBuf>>,
    /// What this process joins before it becomes stage1.
    pub(crate) supervisor: Vec<PathBuf>,
}

impl Plan {
    fn join(&mut self, app: &AppName, path: PathBuf) {
        self.apps.entry(app.clone()).or_default().push(path);
    }
}

/// Plans the cgroups of a pod.
pub(crate) fn plan(pod: &Pod, hierarchies: &Hierarchies, form: RootForm) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    if form == RootForm::Block {
        return machine(pod, hierarchies);
    }
    let on_v1 = |controller: &str| hierarchies.v1.contains_key(controller);
    let wanted = |limits: &Limits, v1: bool| -> Vec<Setting> {
        let all = if v1 { limits::v1(limits) } else { limits::v2(limits) };
        all.into_iter().filter(|setting| on_v1(setting.controller) == v1).collect()
    };
    for limits in pod.apps.iter().map(|app| &app.limits).chain([&pod.limits]) {
        refuse_unenforceable(limits, hierarchies)?;
    }
    for (controller, own) in &hierarchies.v1 {
        let of = |limits: &Limits| -> Vec<Setting> {
            wanted(limits, true).into_iter().filter(|setting| setting.controller == controller).collect()
        };
        limits_v1(&mut plan, pod, own, of);
    }
    // Otherwise the apps are kept from devices without a cgroup: `pod_json::devices`.
    let devices = hierarchies.no_devices.is_none();
    if let Some(own) = hierarchies.v1.get("devices").filter(|_| devices) {
        devices_v1(&mut plan, pod, own);
    }
    let devices_v2 = devices && !on_v1("devices");
    let any_v2 =
        pod.apps.iter().map(|app| &app.limits).chain([&pod.limits]).any(|limits| !wanted(limits, false).is_empty());
    if let Some(unified) = hierarchies.v2.as_ref().filter(|_| devices_v2 || any_v2) {
        v2(&mut plan, pod, unified, any_v2, devices_v2, |limits| wanted(limits, false));
    }
    Ok(plan)
}

/// The cgroups of a controller on v1: one for the pod if the pod is limited, one for each app that is.
fn limits_v1(plan: &mut Plan, pod: &Pod, own: &Path, of: impl Fn(&Limits) -> Vec<Setting>) {
    let of_pod = of(&pod.limits);
    let parent = own.join(PARENT);
    let nested = !of_pod.is_empty();
    let pod_path = parent.join(&pod.uuid);
    if nested {
        plan.groups.push(group(pod_path.clone(), of_pod, Devices::Unlimited));
    }
    for app in &pod.apps {
        let settings = of(&app.limits);
        match (settings.is_empty(), nested) {
            (true, false) => {}
            (true, true) => plan.join(&app.name, pod_path.clone()),
            (false, _) => {
                let path = if nested { pod_path.join(&app.name) } else { leaf(&parent, &pod.uuid, &app.name) };
                plan.groups.push(group(path.clone(), settings, Devices::Unlimited));
                plan.join(&app.name, path);
            }
        }
    }
}

fn devices_v1(plan: &mut Plan, pod: &Pod, own: &Path) {
    for app in &pod.apps {
        let (parent, list) = if app.devices.is_empty() {
            (own.join(STANDARD_DEVICES), Devices::Inherited)
        } else {
            (own.join(PARENT), Devices::Written(devices::list(&app.devices)))
        };
        let path = leaf(&parent, &pod.uuid, &app.name);
        plan.groups.push(group(path.clone(), Vec::new(), list));
        plan.join(&app.name, path);
    }
}

fn v2(
    plan: &mut Plan,
    pod: &Pod,
    unified: &Unified,
    controllers: bool,
    devices: bool,
    of: impl Fn(&Limits) -> Vec<Setting>,
) {
    let (base, mut ancestors) = place(unified);
    // Only a cgroup without processes can pass controllers on (the kernel's "no internal processes" rule). In a unit's
    // own cgroup the one process is this one, so it moves to a leaf first.
    let moves = controllers && unified.own == base;
    let of_pod = of(&pod.limits);
    let nested = moves || !of_pod.is_empty() || pod.apps.len() > 1;
    let pod_path = base.join(format!("pod-{}", pod.uuid));
    if nested {
        let group = Group {
            path: pod_path.clone(),
            settings: of_pod,
            devices: Devices::Unlimited,
            ancestors: ancestors.clone(),
        };
        plan.groups.push(group);
        ancestors.push(pod_path.clone());
    }
    if moves {
        let path = pod_path.join("supervisor");
        plan.groups.push(group(path.clone(), Vec::new(), Devices::Unlimited));
        plan.supervisor.push(path);
    }
    for app in &pod.apps {
        // An app may be named `supervisor`; its cgroup may not.
        let path = if nested { pod_path.join(format!("app-{}", app.name)) } else { pod_path.clone() };
        let list = if devices { Devices::Program(devices::list(&app.devices)) } else { Devices::Unlimited };
        plan.groups.push(Group {
            path: path.clone(),
            settings: of(&app.limits),
            devices: list,
            ancestors: ancestors.clone(),
        });
        plan.join(&app.name, path);
    }
}

/// The cgroup that holds pods, and those that must pass controllers on to it, itself the last.
fn place(unified: &Unified) -> (PathBuf, Vec<PathBuf>) {
    match &unified.delegated {
        Some(unit) => (unit.clone(), vec![unit.clone()]),
        None => (unified.mount.join(PARENT), vec![unified.mount.clone(), unified.mount.join(PARENT)]),
    }
}

/// A microVM's apps are limited in the guest; on the host the machine as a whole obeys the pod's limits of CPU and I/O. Its
/// memory is the guest's memory, which is bounded by its size.
fn machine(pod: &Pod, hierarchies: &Hierarchies) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let limits = Limits { memory_bytes: None, pids: None, ..pod.limits.clone() };
    if limits == Limits::default() {
        return Ok(plan);
    }
    refuse_unenforceable(&limits, hierarchies)?;
    if let Some(own) = hierarchies.v1.get("cpu") {
        let settings: Vec<Setting> = limits::v1(&limits);
        if !settings.is_empty() {
            let path = own.join(PARENT).join(&pod.uuid);
            plan.groups.push(group(path.clone(), settings, Devices::Unlimited));
            plan.supervisor.push(path);
        }
    }
    let settings: Vec<Setting> =
        limits::v2(&limits).into_iter().filter(|setting| !hierarchies.v1.contains_key(setting.controller)).collect();
    if let (Some(unified), false) = (&hierarchies.v2, settings.is_empty()) {
        let (base, ancestors) = place(unified);
        let path = base.join(format!("pod-{}", pod.uuid));
        plan.supervisor.push(path.clone());
        plan.groups.push(Group { path, settings, devices: Devices::Unlimited, ancestors });
    }
    Ok(plan)
}

/// A limit that nothing would enforce is refused, before anything is made.
fn refuse_unenforceable(limits: &Limits, hierarchies: &Hierarchies) -> Result<(), Failure> {
    let on_v2 = |controller: &str| {
        hierarchies.v2.as_ref().is_some_and(|unified| unified.controllers.iter().any(|name| name == controller))
    };
    for setting in limits::v2(limits) {
        let controller = setting.controller;
        let on_v1 = hierarchies.v1.contains_key(controller);
        let unit = hierarchies.v2.as_ref().and_then(|unified| unified.unit.as_ref());
        if let Some(unit) = unit.filter(|_| !on_v1) {
            let text = format!("no limit can be set in unit `{unit}`, which does not delegate its cgroup");
            return Err(Failure::new(text).hint("add `Delegate=yes` to the unit, or limit the unit itself"));
        }
        // v1 has a controller named `blkio`, never `io`, so I/O limits need v2.
        if !on_v1 && !on_v2(controller) {
            let what = match controller {
                "io" => "limit I/O".to_owned(),
                other => format!("limit {other}"),
            };
            return Err(Failure::new(format!(
                "this host cannot {what}: the cgroup controller `{controller}` is not there"
            ))
            .hint("`pod check` shows what this host can do"));
        }
    }
    Ok(())
}

fn group(path: PathBuf, settings: Vec<Setting>, devices: Devices) -> Group {
    Group { path, settings, devices, ancestors: Vec::new() }
}

/// A name that no other pod and app has: a UUID has no dot, nor has an app's name.
fn leaf(parent: &Path, uuid: &PodUuid, app: &AppName) -> PathBuf {
    parent.join(format!("{uuid}.{app}"))
}

#[cfg(test)]
mod tests;
