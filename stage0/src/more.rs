//! What a pod has beyond the defaults, told to its user at the run, in `pod list` and in `pod status`. It is read from
//! `pod.json`, so it says what the pod has, whoever gave it.

use crate::pod_json::confinement::CAPABILITIES;
use contract::kernel::Capability;
use contract::pod::{App, Device, Ipc, Limits, Network, Pod, Seccomp, Trust};
use contract::syscalls::{self, Default1, Rule};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The weight of a cgroup about which nothing is said.
const CPU_SHARES_DEFAULT: u64 = 1024;

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
    limits: Limits,
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
            limits: app.limits.clone(),
            oom_score_adj: app.oom_score_adj,
        }
    }

    /// A phrase for each thing that is more than the default, with who gave it.
    pub(crate) fn more(&self, trust: &Trust) -> Vec<String> {
        let own: Vec<&Capability> = self.capabilities.iter().filter(|one| !CAPABILITIES.contains(one)).collect();
        let mut more = match own.len() + CAPABILITIES.len() >= Capability::ALL.len() - 1 {
            true => vec![by_flag("all capabilities")],
            false => own.iter().map(|one| by(trust, &one.name().replacen("CAP_", "cap:", 1), one.name())).collect(),
        };
        more.extend(match &self.seccomp {
            Seccomp::Unconfined => Some(by(trust, "seccomp", "no system call filter")),
            list if is_wider(list, &self.capabilities) => Some(by(trust, "seccomp", "a system call filter of its own")),
            _ => None,
        });
        more.extend(self.masked_paths.is_empty().then(|| by_flag("unprotected paths of /proc and /sys")));
        more.extend(self.devices.iter().map(|device| by_flag(&format!("device {}", device.path.display()))));
        let shares = self.limits.cpu_shares.filter(|shares| *shares > CPU_SHARES_DEFAULT);
        more.extend(shares.map(|shares| by(trust, "cpu-shares", &format!("{shares} CPU shares"))));
        let score = self.oom_score_adj.filter(|score| *score < 0 || granted(trust, "oom-score"));
        more.extend(score.map(|score| by(trust, "oom-score", &format!("OOM score adjustment {score}"))));
        // Whether a limit that a flag gave is above the caller's, pod.json does not say.
        let Trust::Signature { granted, .. } = trust else { return more };
        let limits = granted.iter().filter_map(|word| Some((word, word.strip_prefix("rlimit:")?)));
        more.extend(limits.map(|(word, name)| by(trust, word, &format!("hard limit RLIMIT_{name}"))));
        more
    }
}

/// As [`Confinement::more`], of what all apps of a pod share.
pub(crate) fn shared(
    network: &Network,
    ipc: Ipc,
    sysctls: &BTreeMap<String, String>,
    trusts: &[&Trust],
) -> Vec<String> {
    let mut more: Vec<String> = Vec::new();
    more.extend((*network == Network::Host).then(|| by_flag("the host's network")));
    more.extend((ipc == Ipc::Host).then(|| by_flag("the host's IPC")));
    more.extend(sysctls.keys().map(|key| {
        let (word, what) = (format!("sysctl:{key}"), format!("sysctl {key}"));
        match trusts.iter().find(|trust| granted(trust, &word)) {
            Some(trust) => by(trust, &word, &what),
            None => by_flag(&what),
        }
    }));
    more
}

/// Whether the rule gave what this word means.
fn granted(trust: &Trust, word: &str) -> bool {
    matches!(trust, Trust::Signature { granted, .. } if granted.iter().any(|one| one == word))
}

/// `CAP_BPF (rule example.com)`, or `(flag)`.
fn by(trust: &Trust, word: &str, what: &str) -> String {
    match trust {
        Trust::Signature { prefix, .. } if granted(trust, word) => format!("{what} (rule {prefix})"),
        _ => by_flag(what),
    }
}

fn by_flag(what: &str) -> String {
    format!("{what} (flag)")
}

/// Whether a list of system calls lets through what `default-1` would not, for some arguments at least.
fn is_wider(seccomp: &Seccomp, capabilities: &[Capability]) -> bool {
    let has = |any: &[Capability]| any.iter().any(|one| capabilities.contains(one));
    let in_default = |call: &syscalls::Syscall| match call.default1 {
        // No list lets a program type into a terminal, either.
        Default1::Yes | Default1::By(Rule::Ioctl) => true,
        Default1::By(Rule::Clone | Rule::Clone3 | Rule::Unshare) => has(&[Capability::SysAdmin]),
        Default1::With(any) => has(any),
        Default1::No | Default1::By(_) => false,
    };
    let beyond = |name: &str| syscalls::find(name).is_some_and(|call| !in_default(call));
    match seccomp {
        Seccomp::Retain { syscalls, within_default: false, .. } => syscalls.iter().any(|name| beyond(name)),
        Seccomp::Remove { syscalls, within_default: false, .. } => {
            let left = |call: &&syscalls::Syscall| !syscalls.iter().any(|name| name == call.name);
            syscalls::all().iter().filter(left).any(|call| !in_default(call))
        }
        _ => false,
    }
}

/// The lines that `pod run` prints. `in_namespaces`: the pod shares the host's kernel.
pub(crate) fn notices(pod: &Pod, in_namespaces: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let trusts: Vec<&Trust> = pod.apps.iter().map(|app| &app.image.trust).collect();
    let shared = shared(&pod.network, pod.ipc, &pod.sysctls, &trusts);
    if !shared.is_empty() {
        lines.push(format!("the pod has more than the default: {}", shared.join(", ")));
    }
    for app in &pod.apps {
        let more = Confinement::of(app).more(&app.image.trust);
        if !more.is_empty() {
            lines.push(format!("app `{}` has more than the default: {}", app.name, more.join(", ")));
        }
        // A security module refuses new mounts, also to this capability.
        let may_mount = app.capabilities.contains(&Capability::SysAdmin) && app.label.is_none();
        if in_namespaces && pod.private_users.is_none() && may_mount {
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
        let more = serde_json::from_str::<Confinement>(text).unwrap().more(&Trust::Insecure);
        more.iter().map(|what| what.strip_suffix(" (flag)").expect("nobody else gave it").to_owned()).collect()
    }

    #[test]
    fn only_what_is_more_is_told() {
        let default = r#"{"capabilities":["CAP_KILL"],"seccomp":{"mode":"default-1"},"masked_paths":["/proc/kcore"]}"#;
        let text = |from: &str, to: &str| confinement(&default.replace(from, to));
        assert!(confinement(default).is_empty());
        assert_eq!(text("\"CAP_KILL\"", "\"CAP_NET_ADMIN\",\"CAP_SYS_ADMIN\""), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert_eq!(text("default-1", "unconfined"), ["no system call filter"]);
        let own = ["a system call filter of its own"];
        assert_eq!(text("\"default-1\"", "\"retain\",\"syscalls\":[\"read\",\"mount\"]"), own);
        assert_eq!(text("\"default-1\"", "\"retain\",\"syscalls\":[\"clone\"]"), own, "with all flags");
        assert_eq!(text("\"default-1\"", "\"remove\",\"syscalls\":[\"chmod\"]"), own);
        assert!(text("\"default-1\"", "\"retain\",\"syscalls\":[\"read\",\"ioctl\"]").is_empty(), "less");
        assert_eq!(text("{\"cap", "{\"limits\":{\"cpu_shares\":2000},\"cap"), ["2000 CPU shares"]);
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
        let words = ["sysctl:net.core.somaxconn", "cap:NET_ADMIN", "rlimit:NOFILE"];
        let granted = words.map(str::to_owned).to_vec();
        let rule = Trust::Signature { prefix: "a.example".to_owned(), keys: Vec::new(), granted };
        let of = |trust: &Trust| shared(&Network::Host, Ipc::Host, &sysctls, &[trust]);
        assert_eq!(of(&Trust::Insecure).len(), 3);
        assert_eq!(of(&Trust::Insecure)[2], "sysctl net.core.somaxconn (flag)");
        assert_eq!(of(&rule)[2], "sysctl net.core.somaxconn (rule a.example)");
        assert!(shared(&Network::None, Ipc::Private, &BTreeMap::new(), &[]).is_empty());
        let text =
            r#"{"capabilities":["CAP_NET_ADMIN","CAP_BPF"],"seccomp":{"mode":"default-1"},"masked_paths":["/x"]}"#;
        let more = serde_json::from_str::<Confinement>(text).unwrap().more(&rule);
        assert_eq!(
            more,
            ["CAP_NET_ADMIN (rule a.example)", "CAP_BPF (flag)", "hard limit RLIMIT_NOFILE (rule a.example)"]
        );
    }
}
