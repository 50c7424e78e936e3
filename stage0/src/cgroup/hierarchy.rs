//! What cgroups this host has, and where in them this process is.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where every distribution mounts cgroups.
const ROOT: &str = "/sys/fs/cgroup";
/// Where systemd mounts v2 on a hybrid host.
const HYBRID: &str = "/sys/fs/cgroup/unified";
/// Where systemd is PID 1, sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";
/// The file system type of cgroup v2, linux/magic.h.
const CGROUP2: i64 = 0x6367_7270;

/// The hierarchies of this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Hierarchies {
    /// By controller: the v1 cgroup of this process.
    pub(crate) v1: BTreeMap<String, PathBuf>,
    /// The v2 hierarchy.
    pub(crate) v2: Option<Unified>,
    /// Why no cgroup can hold a list of devices here.
    pub(crate) no_devices: Option<String>,
}

/// The v2 hierarchy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Unified {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The cgroup of this process.
    pub(crate) own: PathBuf,
    /// Controllers that the root has.
    pub(crate) controllers: Vec<String>,
    /// The cgroup of this process, or the nearest above it, that systemd gave away (`Delegate=yes`): pods belong below it.
    pub(crate) delegated: Option<PathBuf>,
    /// The unit of systemd's that this process is in, if that was not given away: then its cgroup is not ours to change, and a
    /// process that left it would leave the unit's limits.
    pub(crate) unit: Option<String>,
}

/// Looks.
pub(crate) fn detect() -> Result<Hierarchies> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("read `/proc/self/cgroup`")?;
    let is_v2 = |path: &str| rustix::fs::statfs(path).is_ok_and(|statfs| statfs.f_type == CGROUP2);
    let mut hierarchies = parse(&text, if is_v2(ROOT) { Path::new(ROOT) } else { Path::new(HYBRID) });
    if let Some(unified) = &mut hierarchies.v2 {
        match std::fs::read_to_string(unified.mount.join("cgroup.controllers")) {
            Ok(text) => unified.controllers = text.split_whitespace().map(str::to_owned).collect(),
            // The kernel has v2, and nobody mounted it.
            Err(_) => hierarchies.v2 = None,
        }
    }
    if let Some(unified) = &mut hierarchies.v2 {
        let below = unified.own.ancestors().take_while(|cgroup| *cgroup != unified.mount);
        unified.delegated = below.into_iter().find(|cgroup| is_delegated(cgroup)).map(Path::to_owned);
        let own = unified.own.strip_prefix(&unified.mount).unwrap_or(Path::new(""));
        unified.unit = unit(own).filter(|_| unified.delegated.is_none() && Path::new(SYSTEMD).is_dir());
    }
    hierarchies.no_devices = no_devices(&hierarchies);
    Ok(hierarchies)
}

/// The unit that a cgroup belongs to. A login's session is none: it has no limits that its user would miss, and its processes
/// are the user's own to place.
fn unit(cgroup: &Path) -> Option<String> {
    let names: Vec<&str> = cgroup.iter().filter_map(|name| name.to_str()).collect();
    if names.first() == Some(&"user.slice") {
        return None;
    }
    names.into_iter().rev().find(|name| name.ends_with(".service") || name.ends_with(".scope")).map(str::to_owned)
}

/// Looks whether a device cgroup could be made, without making one.
fn no_devices(hierarchies: &Hierarchies) -> Option<String> {
    let refused = |cgroup: &Path| {
        let access = rustix::fs::access(cgroup, rustix::fs::Access::WRITE_OK);
        access.err().map(|error| format!("no cgroup can be made in `{}`: {error}", cgroup.display()))
    };
    if let Some(own) = hierarchies.v1.get("devices") {
        return refused(own);
    }
    let Some(unified) = &hierarchies.v2 else {
        return Some("this host has neither the cgroup controller `devices` nor cgroup v2".to_owned());
    };
    if let Some(unit) = &unified.unit {
        return Some(format!("unit `{unit}` does not delegate its cgroup (`Delegate=yes`)"));
    }
    refused(unified.delegated.as_ref().unwrap_or(&unified.mount)).or_else(|| {
        // What the kernel thinks of the privileges of this process, only the kernel knows.
        let loaded = super::bpf::load(&contract::devices::STANDARD);
        loaded.err().map(|error| format!("the kernel takes no BPF program for a cgroup: {error}"))
    })
}

/// systemd marks a delegated cgroup by an extended attribute.
fn is_delegated(cgroup: &Path) -> bool {
    let mut value = [0_u8; 8];
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| rustix::fs::getxattr(cgroup, *name, &mut value).is_ok_and(|length| value[..length] == *b"1"))
}

/// `/proc/self/cgroup`: lines `ID:CONTROLLER,…:PATH`; v2 is the line with ID 0.
fn parse(text: &str, unified: &Path) -> Hierarchies {
    let mut hierarchies = Hierarchies::default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        // A path from outside a cgroup namespace starts with `..`: then the mount's root is what we can see.
        let path = if path.starts_with("..") { "" } else { path };
        if id == "0" && controllers.is_empty() {
            let own = if path.is_empty() { unified.to_owned() } else { unified.join(path) };
            hierarchies.v2 = Some(Unified { mount: unified.to_owned(), own, ..Unified::default() });
        } else {
            for controller in controllers.split(',').filter(|name| !name.starts_with("name=")) {
                let root = Path::new(ROOT).join(controller);
                let own = if path.is_empty() { root } else { root.join(path) };
                hierarchies.v1.insert(controller.to_owned(), own);
            }
        }
    }
    hierarchies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_from_logins() {
        for (path, expected) in [
            ("system.slice/x.service", Some("x.service")),
            ("system.slice/x.service/init", Some("x.service")),
            ("system.slice/run-r1.scope", Some("run-r1.scope")),
            ("a.slice/a-b.slice/y@1.service", Some("y@1.service")),
            ("user.slice/user-0.slice/session-3.scope", None),
            ("user.slice/user-1000.slice/user@1000.service/app.slice/vte.scope", None),
            ("pod/pod-1", None),
            ("", None),
        ] {
            assert_eq!(unit(Path::new(path)).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_device_cgroup_needs_a_place() {
        let v2 = |unified: Unified| Hierarchies { v2: Some(unified), ..Hierarchies::default() };
        let missing = PathBuf::from("/no/such/cgroup");
        let unit = Unified { unit: Some("x.service".to_owned()), ..Unified::default() };
        let v1 = [("devices".to_owned(), missing.clone())].into_iter().collect();
        for (hierarchies, text) in [
            (Hierarchies::default(), "neither"),
            (v2(unit), "unit `x.service` does not delegate"),
            (v2(Unified { mount: missing.clone(), ..Unified::default() }), "in `/no/such/cgroup`"),
            (Hierarchies { v1, ..Hierarchies::default() }, "in `/no/such/cgroup`"),
        ] {
            let reason = no_devices(&hierarchies).unwrap();
            assert!(reason.contains(text), "{reason}");
        }
    }

    #[test]
    fn parses_all_kinds_of_hosts() {
        let v2 = parse("0::/system.slice/pod.service\n", Path::new(ROOT));
        assert!(v2.v1.is_empty());
        assert_eq!(v2.v2.unwrap().own, Path::new("/sys/fs/cgroup/system.slice/pod.service"));
        let hybrid = parse("5:devices:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n", Path::new(HYBRID));
        assert_eq!(hybrid.v1["memory"], Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(hybrid.v1["cpuacct"], Path::new("/sys/fs/cgroup/cpuacct"));
        assert_eq!(hybrid.v1.len(), 4);
        assert_eq!(hybrid.v2.unwrap().own, Path::new(HYBRID));
        let foreign = parse("4:memory:/../../x\n", Path::new(ROOT));
        assert_eq!(foreign.v1["memory"], Path::new("/sys/fs/cgroup/memory"));
    }
}
