//! What a pod needs of its stage1, derived from `pod.json` and compared with `stage1.json`. A need that is not declared
//! is an error: a confinement is dropped by the user alone, never with a warning.

use crate::pod::{App, Ipc, Label, Network, Pod, RestartPolicy, Seccomp, Stdio, VolumeSource};
use std::collections::BTreeSet;

pub use crate::feature::{BASELINE, Feature};

/// All that this pod needs.
pub fn required(pod: &Pod) -> BTreeSet<Feature> {
    let mut needs: BTreeSet<Feature> = pod.apps.iter().flat_map(of_app).collect();
    needs.extend(of_pod(pod));
    needs.extend(baseline(pod).filter(|feature| !pod.waived.contains(feature)));
    needs
}

/// The part of [`BASELINE`] that this pod relies on, waived or not.
pub fn baseline(pod: &Pod) -> impl Iterator<Item = Feature> + use<> {
    let host_ipc = pod.ipc == Ipc::Host;
    BASELINE.into_iter().filter(move |feature| !(host_ipc && *feature == Feature::PrivateIpc))
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
        (matches!(app.label, Some(Label::Selinux { .. })), Feature::Selinux),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest pod, with changes to its text.
    fn pod(changes: &[(&str, &str)]) -> Pod {
        let mut text = String::from(
            r#"{"version":1,"uuid":"0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa","created_unix_secs":0,"hostname":"h","ipc":"private",
            "network":{"mode":"none"},"apps":[{"name":"a","image":{"id":"sha256:0","name":"x","trust":{"by":"digest"}},
            "root":{"layers":["/s/1"]},"exec":["/x"],"user":"0","working_directory":"/","environment":[],"capabilities":[],
            "no_new_privileges":false,"seccomp":{"mode":"unconfined"},"restart":{"policy":"no"},
            "stop":{"signal":15,"grace_millis":1},"stdio":{"mode":"null"}}]}"#,
        );
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        serde_json::from_str(&text).expect("the sample is a pod")
    }

    fn names(changes: &[(&str, &str)]) -> Vec<String> {
        required(&pod(changes)).into_iter().map(Feature::name).collect()
    }

    const LEAST: [&str; 6] =
        ["capabilities", "device-confinement", "no-network", "own-hostname", "pid-isolation", "private-ipc"];

    #[test]
    fn every_pod_needs_the_baseline() {
        assert_eq!(names(&[]), LEAST);
        let host_ipc = names(&[(r#""ipc":"private""#, r#""ipc":"host""#)]);
        assert_eq!(
            host_ipc,
            ["capabilities", "device-confinement", "host-ipc", "no-network", "own-hostname", "pid-isolation"]
        );
    }

    #[test]
    fn a_field_adds_its_feature() {
        for (from, to, feature) in [
            (r#""ipc""#, r#""private_users":{"first":1,"count":1},"ipc""#, "private-users"),
            (r#""ipc""#, r#""sysctls":{"net.x":"1"},"ipc""#, "sysctls"),
            (r#""ipc""#, r#""limits":{"memory_bytes":1},"ipc""#, "memory-limit"),
            (r#""ipc""#, r#""limits":{"cpu_shares":2},"ipc""#, "cpu-limit"),
            (r#""exec""#, r#""limits":{"pids":1},"exec""#, "pids-limit"),
            (r#""exec""#, r#""masked_paths":["/x"],"exec""#, "path-masks"),
            (r#""exec""#, r#""read_only_paths":["/x"],"exec""#, "path-masks"),
            (r#""exec""#, r#""oom_score_adj":1,"exec""#, "oom-score-adj"),
            (r#""exec""#, r#""notify":true,"exec""#, "notify"),
            (r#""mode":"null""#, r#""mode":"tty""#, "tty"),
            (r#""mode":"unconfined""#, r#""mode":"default-1""#, "seccomp"),
            (r#""policy":"no""#, r#""policy":"always""#, "restart"),
            (r#""layers":["/s/1"]"#, r#""layers":["/s/1"],"read_only":true"#, "read-only-root"),
        ] {
            let mut expected = [LEAST.to_vec(), vec![feature]].concat();
            expected.sort_unstable();
            let mut found = names(&[(from, to)]);
            found.sort();
            assert_eq!(found, expected, "{to}");
        }
    }

    #[test]
    fn only_the_baseline_can_be_waived() {
        let waived = |list: &str| names(&[(r#""ipc""#, &format!(r#""waived":{list},"ipc""#))]);
        assert_eq!(
            waived(r#"["pid-isolation","private-ipc"]"#),
            ["capabilities", "device-confinement", "no-network", "own-hostname"]
        );
        assert_eq!(waived(r#"["capabilities","no-network"]"#), LEAST);
    }
}
