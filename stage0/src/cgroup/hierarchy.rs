//! What cgroups this host has, and where in them this process is.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where every distribution mounts cgroups.
const ROOT: &str = "/sys/fs/cgroup";
/// Where systemd mounts v2 on a hybrid host.
const HYBRID: &str = "/sys/fs/cgroup/unified";
/// The file system type of cgroup v2, linux/magic.h.
const CGROUP2: i64 = 0x6367_7270;

/// The hierarchies of this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Hierarchies {
    /// By controller: the v1 cgroup of this process.
    pub(crate) v1: BTreeMap<String, PathBuf>,
    /// The v2 hierarchy.
    pub(crate) v2: Option<Unified>,
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
    /// systemd gave the cgroup of this process away (`Delegate=yes`), so pods belong below it.
    pub(crate) delegated: bool,
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
        unified.delegated = unified.own != unified.mount && is_delegated(&unified.own);
    }
    Ok(hierarchies)
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
