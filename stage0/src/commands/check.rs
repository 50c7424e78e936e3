//! `pod check`: like lxc-checkconfig, one line for each feature that a pod may ask for: whether this host can do it, how,
//! and what it would take. It only looks; it makes nothing and changes nothing. What a stage1 needs, that stage1 says.

use crate::arguments::commands::{Format, Formatted};
use crate::cgroup::hierarchy::{self, Hierarchies};
use crate::lsm::selinux::{Contexts, Selinux};
use crate::lsm::{self, Apparmor};
use crate::output::{self, Table};
use crate::pod_json::confinement;
use crate::stage1;
use anyhow::Result;
use contract::check::{Line, State};
use contract::kernel::Capability;
use std::fs;
use std::path::{Path, PathBuf};

/// What the lines are made of.
#[derive(Debug, Default)]
struct Host {
    root: bool,
    kernel: (u32, u32),
    hierarchies: Hierarchies,
    memsw: bool,
    overlay: bool,
    namespaces: Vec<String>,
    user_namespaces_max: u64,
    seccomp_actions: String,
    permitted: u64,
    ptmx: bool,
    apparmor: Apparmor,
    selinux: Selinux,
    erofs: Option<PathBuf>,
    certificates: bool,
    stages: Vec<(&'static str, Option<usize>)>,
    /// What stage1-kvm says of itself.
    machines: Vec<Line>,
}

/// `pod check`
pub(crate) fn check(arguments: &Formatted) -> Result<()> {
    let lines = lines(&look()?);
    if arguments.format.format != Format::Table {
        return output::print_json(&lines, arguments.format.format);
    }
    let mut table = Table::new(&["FEATURE", "STATE", "DETAIL"], false);
    for line in lines {
        let state = match line.state {
            State::Yes => "yes",
            State::Partly => "partly",
            State::No => "no",
        };
        table.row([line.feature, state.to_owned(), line.detail]);
    }
    output::print(&table.render())
}

fn lines(host: &Host) -> Vec<Line> {
    let mut lines = kernel_lines(host);
    lines.extend(cgroup_lines(host));
    lines.extend(machine_lines(host));
    lines
}

fn line(feature: &str, holds: bool, detail: impl Into<String>, takes: impl Into<String>) -> Line {
    Line::new(feature, holds, detail, takes)
}

fn kernel_lines(host: &Host) -> Vec<Line> {
    let (major, minor) = host.kernel;
    let missing: Vec<&str> = ["pid", "mnt", "ipc", "uts", "net", "cgroup"]
        .into_iter()
        .filter(|name| !host.namespaces.iter().any(|ns| ns == name))
        .collect();
    let has = |capability: Capability| host.permitted & 1 << capability.number() != 0;
    let lost: Vec<&str> =
        confinement::CAPABILITIES.into_iter().filter(|cap| !has(*cap)).map(Capability::name).collect();
    let users = host.namespaces.iter().any(|name| name == "user") && host.user_namespaces_max > 0;
    let mut lines = vec![
        line("run", host.root && has(Capability::SysAdmin), "as root", "run pod as root, with CAP_SYS_ADMIN"),
        line(
            "kernel",
            host.kernel >= (5, 12),
            format!("{major}.{minor}"),
            format!("{major}.{minor} lacks mount_setattr(2); Linux 5.12 or newer"),
        ),
        line(
            "namespaces",
            missing.is_empty(),
            "pid, mount, ipc, uts, net, cgroup",
            format!("the kernel has no {} namespaces", missing.join(", ")),
        ),
        line("overlay", host.overlay, "overlayfs", "load it: `modprobe overlay`"),
    ];
    lines.push(match (users, host.kernel >= (5, 19)) {
        (true, true) => line("private-users", true, "user namespaces, idmapped layers", ""),
        (false, _) => line("private-users", false, "", "CONFIG_USER_NS, and `sysctl user.max_user_namespaces` above 0"),
        (true, false) => line("private-users", false, "", "idmapped mounts under overlayfs; Linux 5.19 or newer"),
    });
    lines.extend([
        apparmor(&host.apparmor),
        selinux(&host.selinux),
        line("seccomp", host.seccomp_actions.contains("errno"), "filter mode", "CONFIG_SECCOMP_FILTER"),
        match lost.as_slice() {
            [] => line("capabilities", true, "all of the default set", ""),
            some => Line {
                feature: "capabilities".into(),
                state: State::Partly,
                detail: format!("pod itself lacks {}; use `--caps-remove`", some.join(" ")),
            },
        },
        line(
            "rlimits",
            has(Capability::SysResource),
            "all",
            "hard limits cannot be raised: pod lacks CAP_SYS_RESOURCE",
        ),
        line("tty", host.ptmx, "/dev/ptmx", "CONFIG_UNIX98_PTYS"),
        line(
            "no-network, host-network",
            missing.is_empty() || !missing.contains(&"net"),
            "network namespaces",
            "CONFIG_NET_NS",
        ),
    ]);
    // rlimits can be lowered everywhere.
    lines
        .iter_mut()
        .filter(|line| line.feature == "rlimits" && line.state == State::No)
        .for_each(|line| line.state = State::Partly);
    lines
}

/// The detail of the profile that apps get if nothing is said.
fn apparmor(host: &Apparmor) -> Line {
    let detail = |state, detail: String| Line { feature: "apparmor".into(), state, detail };
    match (host, host.mode(lsm::PROFILE)) {
        (_, Some("enforce")) => detail(State::Yes, format!("profile `{}`", lsm::PROFILE)),
        (_, Some(mode)) => detail(State::Partly, format!("profile `{}` is loaded in mode {mode}", lsm::PROFILE)),
        (Apparmor::On(_), None) => detail(
            State::Partly,
            format!("`--apparmor=PROFILE` only; load `{0}`: `apparmor_parser --replace FILE`", lsm::PROFILE),
        ),
        (Apparmor::Hidden(why), None) => detail(State::No, why.clone()),
        (Apparmor::Off, None) => detail(State::No, "a kernel that runs AppArmor".into()),
    }
}

/// The detail is the context that apps get if nothing is said, without the categories of each pod.
fn selinux(host: &Selinux) -> Line {
    let (state, detail) = match host {
        Selinux::On(Contexts { process, enforcing: true, .. }) => (State::Yes, format!("context `{process}`")),
        Selinux::On(Contexts { process, .. }) => {
            (State::Partly, format!("context `{process}`, and the policy is permissive: `setenforce 1`"))
        }
        Selinux::Unlabelled(why) => (State::No, format!("a policy with labels for containers: {why}")),
        Selinux::Off => (State::No, "a kernel that runs SELinux".to_owned()),
    };
    Line { feature: "selinux".into(), state, detail }
}

fn cgroup_lines(host: &Host) -> Vec<Line> {
    let hierarchies = &host.hierarchies;
    let on_v2 = |name: &str| {
        hierarchies.v2.as_ref().is_some_and(|unified| unified.controllers.iter().any(|controller| controller == name))
    };
    let limit = |feature: &'static str, name: &str| match (hierarchies.v1.contains_key(name), on_v2(name)) {
        (true, _) => line(feature, true, format!("cgroup v1 `{name}`"), ""),
        (_, true) => line(feature, true, format!("cgroup v2 `{name}`"), ""),
        _ => line(feature, false, "", format!("the cgroup controller `{name}`")),
    };
    let mut memory = limit("memory-limit", "memory");
    if memory.state == State::Yes && !on_v2("memory") && !host.memsw {
        memory.detail.push_str("; without swap accounting, so by no swapping at all");
    }
    let devices = match (&hierarchies.no_devices, hierarchies.v1.contains_key("devices"), &hierarchies.v2) {
        (Some(obstacle), ..) => Line {
            feature: "devices".into(),
            state: State::Partly,
            detail: format!("apps lose CAP_MKNOD, because {obstacle}"),
        },
        (None, true, _) => line("devices", true, "cgroup v1 `devices`", ""),
        (None, false, Some(_)) => line("devices", true, "BPF program on cgroup v2", ""),
        (None, false, None) => line("devices", false, "", "cgroup v2, or the v1 controller `devices`"),
    };
    vec![
        memory,
        limit("cpu-limit", "cpu"),
        limit("pids-limit", "pids"),
        line(
            "io-limit",
            on_v2("io"),
            "cgroup v2 `io`",
            "the controller `io` of cgroup v2; v1 does not see buffered writes",
        ),
        devices,
    ]
}

fn machine_lines(host: &Host) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, features) in &host.stages {
        let feature = if *name == "kvm" { "stage1 kvm" } else { "stage1 namespaces" };
        let detail = format!("{} features", features.unwrap_or_default());
        lines.push(line(
            feature,
            features.is_some(),
            detail,
            format!("`stage1-{name}.json` beside pod, or in /usr/lib/pod"),
        ));
    }
    lines.extend(host.machines.iter().cloned());
    let erofs = host.erofs.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    lines.push(line("microVM images", host.erofs.is_some(), erofs, "mkfs.erofs: install `erofs-utils`"));
    lines.push(line("fetch by https", host.certificates, "certificates of the system", "install `ca-certificates`"));
    lines
}

fn look() -> Result<Host> {
    let hierarchies = hierarchy::detect()?;
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memsw = hierarchies.v1.get("memory").is_some_and(|own| {
        // The root cgroup has no limits; any child shows whether the file would be there.
        own.join("memory.memsw.limit_in_bytes").exists() || own.join("memory.memsw.usage_in_bytes").exists()
    });
    Ok(Host {
        root: rustix::process::geteuid().is_root(),
        kernel: version(&text("/proc/sys/kernel/osrelease")),
        memsw,
        hierarchies,
        overlay: text("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay")),
        namespaces: fs::read_dir("/proc/self/ns")
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default(),
        user_namespaces_max: text("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0),
        seccomp_actions: text("/proc/sys/kernel/seccomp/actions_avail"),
        permitted: rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits()),
        ptmx: Path::new("/dev/ptmx").exists(),
        apparmor: Apparmor::look(),
        selinux: Selinux::look(),
        erofs: program("mkfs.erofs"),
        certificates: Path::new("/etc/ssl/certs").is_dir() || Path::new("/etc/pki/tls/certs").is_dir(),
        stages: ["namespaces", "kvm"]
            .map(|name| (name, stage1::built_in(name).ok().map(|located| located.stage1.features.len())))
            .to_vec(),
        machines: stage1::built_in("kvm").map_or_else(|_| Vec::new(), |located| located.check()),
    })
}

/// The first two numbers of `6.18.44-…`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Where a program is, in the directories that root searches.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin"]);
    directories
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [("6.18.44-fc\n", (6, 18)), ("5.4", (5, 4)), ("", (0, 0)), ("x.y", (0, 0))] {
            assert_eq!(version(text), expected);
        }
    }

    #[test]
    fn nothing_is_said_to_work_on_a_bare_host() {
        let host = Host { stages: vec![("namespaces", None), ("kvm", None)], ..Host::default() };
        for line in lines(&host) {
            assert_ne!(line.state, State::Yes, "{line:?}");
            assert!(!line.detail.is_empty(), "{line:?}");
        }
    }
}
