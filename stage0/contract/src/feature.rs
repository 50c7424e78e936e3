//! What a stage1 may be able to do, by name: the words of `stage1.json`.

use serde::{Deserialize, Serialize};

/// One thing that a stage1 may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Each is the field of `pod.json` that needs it; see `features::required`.
pub enum Feature {
    Apparmor,
    Capabilities,
    CpuLimit,
    DeviceConfinement,
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
    OwnHostname,
    PathMasks,
    PidIsolation,
    PidsLimit,
    PrivateIpc,
    PrivateUsers,
    ReadOnlyRoot,
    Restart,
    Rlimits,
    Seccomp,
    Selinux,
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

/// What every pod relies on without a word in `pod.json`. A stage1 must declare these like any other; the user can give parts of
/// them up, which is then in [`crate::pod::Pod::waived`].
///
/// * `device-confinement`: an app opens no device node but the standard ones and those of `pod.json`.
/// * `own-hostname`: the pod's host name is its own, and the host's stays as it is.
/// * `pid-isolation`: a process of the pod sees and signals none outside, and all die with PID 1 of the pod.
/// * `private-ipc`: System V and POSIX IPC are the pod's own, unless `ipc` is `host`.
pub const BASELINE: [Feature; 4] =
    [Feature::DeviceConfinement, Feature::OwnHostname, Feature::PidIsolation, Feature::PrivateIpc];
