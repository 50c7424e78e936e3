//! What a pod needs of its stage1, derived from `pod.json` and compared with `stage1.json`. A need that is not declared
//! is an error: a confinement is never dropped with a warning.

use crate::pod::{App, Ipc, Label, Network, Pod, RestartPolicy, Seccomp, Stdio, VolumeSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One thing that a stage1 may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Each is the field of `pod.json` that needs it; see `of_pod` and `of_app`.
pub enum Feature {
    Apparmor,
    Capabilities,
    CpuLimit,
    Devices,
    EmptyVolume,
    Exec,
    HostIpc,
    HostNetwork,
    HostVolume,
    IoLimit,
    JoinedNetwork,
    MemoryLimit,
    NoNetwork,
    NoNewPrivileges,
    Notify,
    OomScoreAdj,
    PathMasks,
    PidsLimit,
    PrivateUsers,
    ReadOnlyRoot,
    Restart,
    Rlimits,
    Seccomp,
    SeveralApps,
    Sysctls,
    Tmpfs,
    Tty,
}

impl Feature {
    /// The name in `stage1.json`.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// All that this pod needs.
pub fn required(pod: &Pod) -> BTreeSet<Feature> {
    let mut needs: BTreeSet<Feature> = pod.apps.iter().flat_map(of_app).collect();
    needs.extend(of_pod(pod));
    needs
}

fn of_pod(pod: &Pod) -> impl Iterator<Item = Feature> {
    let network = match pod.network {
        Network::Host => Feature::HostNetwork,
        Network::None => Feature::NoNetwork,
        Network::Joined => Feature::JoinedNetwork,
    };
    let volumes = pod.volumes.iter().map(|volume| match volume.source {
        VolumeSource::Host { .. } => Feature::HostVolume,
        VolumeSource::Empty { .. } => Feature::EmptyVolume,
    });
    let switches = [
        (pod.apps.len() > 1, Feature::SeveralApps),
        (pod.ipc == Ipc::Host, Feature::HostIpc),
        (pod.private_users.is_some(), Feature::PrivateUsers),
        (!pod.sysctls.is_empty(), Feature::Sysctls),
    ];
    let switches = switches.into_iter().filter_map(|(needed, feature)| needed.then_some(feature));
    of_limits(&pod.limits).chain(volumes.collect::<Vec<_>>()).chain(switches).chain([network])
}

fn of_app(app: &App) -> Vec<Feature> {
    let switches = [
        (app.root.read_only, Feature::ReadOnlyRoot),
        (!app.tmpfs.is_empty(), Feature::Tmpfs),
        (!app.devices.is_empty(), Feature::Devices),
        (!app.masked_paths.is_empty() || !app.read_only_paths.is_empty(), Feature::PathMasks),
        (app.no_new_privileges, Feature::NoNewPrivileges),
        (app.seccomp != Seccomp::Unconfined, Feature::Seccomp),
        (matches!(app.label, Some(Label::Apparmor { .. })), Feature::Apparmor),
        (!app.rlimits.is_empty(), Feature::Rlimits),
        (app.oom_score_adj.is_some(), Feature::OomScoreAdj),
        (app.restart.policy != RestartPolicy::No, Feature::Restart),
        (app.stdio == Stdio::Tty, Feature::Tty),
        (app.notify, Feature::Notify),
        (true, Feature::Capabilities),
    ];
    let switches = switches.into_iter().filter_map(|(needed, feature)| needed.then_some(feature));
    of_limits(&app.limits).chain(switches).collect()
}

fn of_limits(limits: &crate::pod::Limits) -> impl Iterator<Item = Feature> + use<> {
    [
        (limits.memory_bytes.is_some(), Feature::MemoryLimit),
        (limits.cpu_millis.is_some() || limits.cpu_shares.is_some(), Feature::CpuLimit),
        (limits.pids.is_some(), Feature::PidsLimit),
        (!limits.io.is_empty(), Feature::IoLimit),
    ]
    .into_iter()
    .filter_map(|(needed, feature)| needed.then_some(feature))
}
