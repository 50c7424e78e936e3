//! What a pod has beyond the defaults, told to its user at the run, in `pod list` and in `pod status`. It is read from
//! `pod.json`, so it says what the pod has, whoever gave it.

use crate::pod_json::confinement::CAPABILITIES;
use contract::kernel::Capability;
use contract::pod::{App, Device, Ipc, Network, Pod, Seccomp};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The confinement of one app, as far as it can be wider than the default.
#[derive(Debug, Deserialize)]
pub(crate) struct Confinement {
    capabilities: Vec<Capability>,
    seccomp: Seccomp,
    #[serde(default)]
    masked_paths: Vec<PathBuf>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    oom_score_adj: Option<i32>,
}

impl Confinement {
    pub(crate) fn of(app: &App) -> Self {
        Self {
            capabilities: app.capabilities.clone(),
            seccomp: app.seccomp.clone(),
            masked_paths: app.masked_paths.clone(),
            devices: app.devices.clone(),
            oom_score_adj: app.oom_score_adj,
        }
    }

    /// A phrase for each thing that is more than the default.
    pub(crate) fn more(&self) -> Vec<String> {
        let own: Vec<&Capability> = self.capabilities.iter().filter(|one| !CAPABILITIES.contains(one)).collect();
        let mut more = match own.len() + CAPABILITIES.len() >= Capability::ALL.len() - 1 {
            true => vec!["all capabilities".to_owned()],
            false => own.iter().map(ToString::to_string).collect(),
        };
        more.extend(match &self.seccomp {
            Seccomp::Unconfined => Some("no system call filter".to_owned()),
            Seccomp::Retain { within_default: false, .. } | Seccomp::Remove { within_default: false, .. } => {
                Some("a system call filter of its own".to_owned())
            }
            _ => None,
        });
        more.extend(self.masked_paths.is_empty().then(|| "unprotected paths of /proc and /sys".to_owned()));
        more.extend(self.devices.iter().map(|device| format!("device {}", device.path.display())));
        more.extend(self.oom_score_adj.filter(|score| *score < 0).map(|score| format!("OOM score adjustment {score}")));
        more
    }
}

/// As [`Confinement::more`], of what all apps of a pod share.
pub(crate) fn shared(network: &Network, ipc: Ipc, sysctls: &BTreeMap<String, String>) -> Vec<String> {
    let mut more: Vec<String> = Vec::new();
    more.extend((*network == Network::Host).then(|| "the host's network".to_owned()));
    more.extend((ipc == Ipc::Host).then(|| "the host's IPC".to_owned()));
    more.extend(sysctls.keys().map(|key| format!("sysctl {key}")));
    more
}

/// The lines that `pod run` prints. `in_namespaces`: the pod shares the host's kernel.
pub(crate) fn notices(pod: &Pod, in_namespaces: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let shared = shared(&pod.network, pod.ipc, &pod.sysctls);
    if !shared.is_empty() {
        lines.push(format!("the pod has more than the default: {}", shared.join(", ")));
    }
    for app in &pod.apps {
        let more = Confinement::of(app).more();
        if !more.is_empty() {
            lines.push(format!("app `{}` has more than the default: {}", app.name, more.join(", ")));
        }
        if in_namespaces && pod.private_users.is_none() && app.capabilities.contains(&Capability::SysAdmin) {
            lines.push(format!(
                "app `{}` can make read-only volumes writable and uncover hidden paths: it has CAP_SYS_ADMIN without `--private-users`",
                app.name
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confinement(text: &str) -> Vec<String> {
        serde_json::from_str::<Confinement>(text).unwrap().more()
    }

    #[test]
    fn only_what_is_more_is_told() {
        let default = r#"{"capabilities":["CAP_KILL"],"seccomp":{"mode":"default-1"},"masked_paths":["/proc/kcore"]}"#;
        let text = |from: &str, to: &str| confinement(&default.replace(from, to));
        assert!(confinement(default).is_empty());
        assert_eq!(text("\"CAP_KILL\"", "\"CAP_NET_ADMIN\",\"CAP_SYS_ADMIN\""), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert_eq!(text("default-1", "unconfined"), ["no system call filter"]);
        assert_eq!(text("\"default-1\"", "\"retain\",\"syscalls\":[]"), ["a system call filter of its own"]);
        assert!(text("\"default-1\"", "\"retain\",\"syscalls\":[],\"within_default\":true").is_empty());
        assert_eq!(text("\"/proc/kcore\"", ""), ["unprotected paths of /proc and /sys"]);
        assert_eq!(text("{\"cap", "{\"oom_score_adj\":-5,\"cap"), ["OOM score adjustment -5"]);
        assert!(text("{\"cap", "{\"oom_score_adj\":5,\"cap").is_empty());
        let all: Vec<String> = Capability::ALL.iter().map(|one| format!("\"{one}\"")).collect();
        assert_eq!(text("\"CAP_KILL\"", &all.join(",")), ["all capabilities"]);
    }

    #[test]
    fn what_is_shared() {
        let sysctls = BTreeMap::from([("net.core.somaxconn".to_owned(), "1".to_owned())]);
        assert_eq!(shared(&Network::Host, Ipc::Host, &sysctls).len(), 3);
        assert!(shared(&Network::None, Ipc::Private, &BTreeMap::new()).is_empty());
    }
}
