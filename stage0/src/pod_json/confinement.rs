//! Capabilities, system call filter and protected paths: the defaults, what the image asks, what the user says.

use crate::arguments::app_flags::AppFlags;
use crate::failure::Failure;
use crate::pod_json::asks::Asks;
use crate::values::sets::{self, Insecure, SeccompFlag, SeccompMode};
use contract::kernel::Capability;
use contract::pod::Seccomp;
use contract::syscalls::{self, Default1};
use image_tools::config::{CapabilitySet, Isolators, SeccompSet};
use image_tools::trust::Allow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What root in an app may do unless somebody says otherwise: rkt's fourteen, which are Docker's too.
pub(crate) const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// Hidden from every app: the union of what rkt and podman hide, but for `/sys/fs`, of which only the parts that speak
/// about the whole host are hidden, because language runtimes read their limits in `/sys/fs/cgroup`.
const MASKED: [&str; 25] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmem",
    "/proc/latency_stats",
    "/proc/mem",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/bpf",
    "/sys/fs/fuse",
    "/sys/fs/pstore",
    "/sys/fs/selinux",
    "/sys/hypervisor",
    "/sys/kernel/security",
    "/sys/module",
    "/sys/power",
];

/// Read-only for every app. `/sys` is mounted read-only as a whole, so rkt's six directories below it need no mounts of
/// their own.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Hidden and protected paths of an app.
pub(crate) fn paths(insecure: Insecure) -> (Vec<PathBuf>, Vec<PathBuf>) {
    if insecure.paths {
        return (Vec::new(), Vec::new());
    }
    let masked = MASKED.iter().map(PathBuf::from).chain(thermal_state(Path::new(CPUS)));
    (masked.collect(), READ_ONLY.iter().map(PathBuf::from).collect())
}

const CPUS: &str = "/sys/devices/system/cpu";

/// The thermal state of each CPU, by which one app can watch another (GHSA-6fw5-f8r9-fgfm of moby; `/proc/interrupts` is the
/// other half). Not each CPU has it, and its path holds the CPU's number, so the host's are listed, as moby and podman do.
fn thermal_state(cpus: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cpus).into_iter().flatten().flatten(); // Without sysfs there is nothing to hide.
    let is_cpu = |name: &str| {
        let number = name.strip_prefix("cpu").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let names = entries.filter_map(|entry| entry.file_name().to_str().filter(|name| is_cpu(name)).map(str::to_owned));
    let mut paths: Vec<PathBuf> = names.map(|name| cpus.join(name).join("thermal_throttle")).collect();
    paths.retain(|path| path.symlink_metadata().is_ok());
    paths.sort();
    paths
}

/// The capabilities of an app, in the kernel's order.
pub(crate) fn capabilities(
    flags: &AppFlags,
    image: Option<&Isolators>,
    asks: &Asks<'_>,
    insecure: Insecure,
    missing: &[Capability],
) -> Result<Vec<Capability>, Failure> {
    if !flags.caps_retain.is_empty() && !flags.caps_remove.is_empty() {
        return Err(Failure::usage("cannot use both `--caps-retain` and `--caps-remove` for one image"));
    }
    let own = |set: &Capability| !missing.contains(set);
    if insecure.capabilities {
        return Ok(Capability::ALL.iter().copied().filter(own).collect());
    }
    let without =
        |removed: &BTreeSet<Capability>| CAPABILITIES.iter().copied().filter(|c| !removed.contains(c)).collect();
    let flat = |lists: &[Vec<Capability>]| lists.iter().flatten().copied().collect::<BTreeSet<_>>();
    let (added, dropped) = (flat(&flags.cap_add), flat(&flags.cap_drop));
    // A flag replaces what the image says, of either kind.
    let base: BTreeSet<Capability> = if !flags.caps_retain.is_empty() {
        flat(&flags.caps_retain)
    } else if !flags.caps_remove.is_empty() {
        without(&flat(&flags.caps_remove))
    } else {
        match image.and_then(|image| image.capabilities.as_ref()) {
            Some(CapabilitySet::Retain(names)) => {
                let asked = of_image(names)?;
                let by_flag = |capability: &&Capability| added.contains(capability) || dropped.contains(capability);
                let more = asked.iter().filter(|capability| !CAPABILITIES.contains(capability));
                require_capabilities(
                    asks,
                    &more.filter(|capability| !by_flag(capability)).copied().collect::<Vec<_>>(),
                )?;
                asked
            }
            Some(CapabilitySet::Remove(names)) => without(&of_image(names)?),
            None => CAPABILITIES.into_iter().collect(),
        }
    };
    let all = |set: &BTreeSet<Capability>| set.len() == Capability::ALL.len();
    let set: BTreeSet<Capability> = base.difference(&dropped).copied().chain(added.iter().copied()).collect();
    match set.iter().find(|capability| !own(capability)) {
        // `all` means all there are.
        Some(_) if all(&added) || flags.caps_retain.iter().any(|list| list.len() == Capability::ALL.len()) => {
            Ok(set.into_iter().filter(own).collect())
        }
        Some(capability) => {
            Err(Failure::new(format!("`{capability}` cannot be given to the app, pod itself has not got it"))
                .hint(format!("run pod with more privileges, or the app with `--cap-drop={capability}`")))
        }
        None => Ok(set.into_iter().collect()),
    }
}

fn require_capabilities(asks: &Asks<'_>, more: &[Capability]) -> Result<(), Failure> {
    if more.is_empty() {
        return Ok(());
    }
    let short = |capability: &Capability| capability.to_string().trim_start_matches("CAP_").to_owned();
    let names: Vec<String> = more.iter().map(short).collect();
    let wishes: Vec<Allow> = names.iter().cloned().map(Allow::Capability).collect();
    let what = more.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    asks.require(&wishes, &what, &format!("--cap-add={}", names.join(",")))
}

fn of_image(names: &[String]) -> Result<BTreeSet<Capability>, Failure> {
    names
        .iter()
        .map(|name| sets::capability(name).map_err(|error| Failure::new(format!("the image asks for {error}"))))
        .collect()
}

/// The filter of an app.
pub(crate) fn seccomp(
    flags: &AppFlags,
    image: Option<&Isolators>,
    asks: &Asks<'_>,
    capabilities: &[Capability],
    insecure: Insecure,
) -> Result<Seccomp, Failure> {
    if insecure.seccomp {
        return Ok(Seccomp::Unconfined);
    }
    let eperm = Some(libc::EPERM);
    match (&flags.seccomp, image.and_then(|image| image.seccomp.as_ref())) {
        (Some(SeccompFlag { mode: SeccompMode::Default, .. }), _) | (None, None) => Ok(Seccomp::Default1),
        (Some(SeccompFlag { mode: SeccompMode::Unconfined, .. }), _) => Ok(Seccomp::Unconfined),
        (Some(SeccompFlag { mode: SeccompMode::Retain, errno, names }), _) => {
            retain(names, errno.unwrap_or(eperm)).map_err(Failure::usage)
        }
        (Some(SeccompFlag { mode: SeccompMode::Remove, errno, names }), _) => {
            remove(names, errno.unwrap_or(eperm)).map_err(Failure::usage)
        }
        (None, Some(set)) => seccomp_of_image(set, asks, capabilities),
    }
}

/// The image's set within `default-1`, unless it names what that refuses and its rule allows a filter of its own. A group is a
/// list for all apps, so what `default-1` refuses of a group is refused and not asked about.
fn seccomp_of_image(set: &SeccompSet, asks: &Asks<'_>, capabilities: &[Capability]) -> Result<Seccomp, Failure> {
    let asked = match set {
        SeccompSet::Retain { syscalls, errno } => retain(syscalls, image_errno(errno)?),
        SeccompSet::Remove { syscalls, errno } => remove(syscalls, image_errno(errno)?),
    };
    let mut seccomp = asked.map_err(|error| of_seccomp(&error))?;
    let refused = |name: &&String| match syscalls::find(name).map(|known| known.default1) {
        Some(Default1::No) => true,
        Some(Default1::With(any)) => !any.iter().any(|one| capabilities.contains(one)),
        _ => false,
    };
    let more: Option<String> = match (&seccomp, set) {
        (Seccomp::Unconfined, _) => Some("no system call filter".to_owned()),
        (_, SeccompSet::Retain { syscalls, .. }) => {
            let names: Vec<&str> = syscalls.iter().filter(refused).map(String::as_str).collect();
            (!names.is_empty()).then(|| format!("the system calls {}", names.join(", ")))
        }
        _ => None,
    };
    match more {
        Some(what) => asks.require(&[Allow::Seccomp], &what, &flag_for(&seccomp, set))?,
        None => {
            if let Seccomp::Retain { within_default, .. } | Seccomp::Remove { within_default, .. } = &mut seccomp {
                *within_default = true;
            }
        }
    }
    Ok(seccomp)
}

/// The flag that gives the image the filter that it asks for, and no more.
fn flag_for(seccomp: &Seccomp, set: &SeccompSet) -> String {
    let (SeccompSet::Retain { syscalls, errno } | SeccompSet::Remove { syscalls, errno }) = set;
    match seccomp {
        Seccomp::Retain { .. } => {
            format!("--seccomp=mode=retain,errno={},{}", errno.as_deref().unwrap_or("kill"), syscalls.join(","))
        }
        _ => "--seccomp=unconfined".to_owned(),
    }
}

fn of_seccomp(error: &str) -> Failure {
    Failure::new(format!("the image's seccomp set: {error}"))
}

fn image_errno(name: &Option<String>) -> Result<Option<i32>, Failure> {
    name.as_deref().map(|name| sets::errno(name).map_err(|error| of_seccomp(&error))).transpose()
}

fn retain(names: &[String], errno: Option<i32>) -> Result<Seccomp, String> {
    // rkt's word for "no filter at all".
    if names.iter().any(|name| name == "@appc.io/all") {
        return Ok(Seccomp::Unconfined);
    }
    Ok(Seccomp::Retain { syscalls: expand(names)?, errno, within_default: false })
}

fn remove(names: &[String], errno: Option<i32>) -> Result<Seccomp, String> {
    if names == ["@appc.io/empty"] {
        return Ok(Seccomp::Default1);
    }
    Ok(Seccomp::Remove { syscalls: expand(names)?, errno, within_default: false })
}

/// Names and groups as sorted names.
fn expand(names: &[String]) -> Result<Vec<String>, String> {
    let mut all = BTreeSet::new();
    for name in names {
        if name.starts_with('@') {
            let group = syscalls::group(name)
                .ok_or_else(|| format!("`{}` is not a group of system calls", name.escape_debug()))?;
            all.extend(group.into_iter().map(str::to_owned));
        } else {
            let known =
                syscalls::find(name).ok_or_else(|| format!("`{}` is not a system call", name.escape_debug()))?;
            all.insert(known.name.to_owned());
        }
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn flags(line: &str) -> AppFlags {
        let matches = crate::arguments::tree::app_flags("run").get_matches_from(line.split_whitespace());
        AppFlags::from_arg_matches(&matches).unwrap()
    }

    fn count(line: &str, missing: &[Capability]) -> Result<usize, String> {
        capabilities(&flags(line), None, &Asks::new(None, &[]), Insecure::default(), missing)
            .map(|set| set.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_thermal_state_of_each_cpu_is_hidden() {
        let cpus = tempfile::tempdir().unwrap();
        for name in ["cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2/topology", "cpufreq/thermal_throttle"] {
            std::fs::create_dir_all(cpus.path().join(name)).unwrap();
        }
        let expected = ["cpu0/thermal_throttle", "cpu11/thermal_throttle"].map(|name| cpus.path().join(name));
        assert_eq!(thermal_state(cpus.path()), expected);
        assert!(thermal_state(&cpus.path().join("none")).is_empty());
    }

    #[test]
    fn capability_sets() {
        for (line, expected) in [
            ("", 14),
            ("--caps-retain=CAP_KILL", 1),
            ("--caps-retain=", 0),
            ("--caps-remove=CAP_KILL,MKNOD", 12),
            ("--cap-add=NET_ADMIN", 15),
            ("--cap-drop=all --cap-add=chown", 1),
            ("--cap-drop=all", 0),
            ("--cap-add=all", 41),
            ("--caps-retain=kill --cap-add=chown", 2),
        ] {
            assert_eq!(count(line, &[]), Ok(expected), "{line}");
        }
        assert!(count("--caps-retain=KILL --caps-remove=CHOWN", &[]).is_err());
        assert_eq!(count("--cap-add=all", &[Capability::SysResource]), Ok(40));
        assert!(count("--cap-add=SYS_RESOURCE", &[Capability::SysResource]).is_err());
    }

    #[test]
    fn filters() {
        let filter = |line: &str| seccomp(&flags(line), None, &Asks::new(None, &[]), &[], Insecure::default());
        assert_eq!(filter("").unwrap(), Seccomp::Default1);
        assert_eq!(filter("--seccomp=unconfined").unwrap(), Seccomp::Unconfined);
        assert_eq!(filter("--seccomp=@appc.io/all").unwrap(), Seccomp::Unconfined);
        assert_eq!(filter("--seccomp=mode=remove,@appc.io/empty").unwrap(), Seccomp::Default1);
        assert_eq!(
            filter("--seccomp=mode=remove,mount,chmod").unwrap(),
            Seccomp::Remove {
                syscalls: vec!["chmod".to_owned(), "mount".to_owned()],
                errno: Some(1),
                within_default: false
            }
        );
        assert_eq!(
            filter("--seccomp=errno=kill,read").unwrap(),
            Seccomp::Retain { syscalls: vec!["read".to_owned()], errno: None, within_default: false }
        );
        for bad in ["--seccomp=raed", "--seccomp=@nobody"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        let insecure = Insecure { seccomp: true, ..Insecure::default() };
        assert_eq!(
            seccomp(&flags("--seccomp=read"), None, &Asks::new(None, &[]), &[], insecure).unwrap(),
            Seccomp::Unconfined
        );
    }
}
