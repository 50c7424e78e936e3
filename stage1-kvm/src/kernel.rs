//! Which guest kernel boots.

use crate::kernel_modules;
use crate::plan::Kernel;
use anyhow::Result;
use contract::pod::{Network, Pod};
use contract::text::Advised;
use std::path::{Path, PathBuf};

/// The file name of the project's own kernel, wherever it lies.
const OWN: &str = "vmlinux";
/// Where a package installs it, and where `stage1-kvm/kernel/build` puts it.
const OWN_DIRECTORIES: [&str; 2] = ["/usr/lib/pod", "/var/cache/pod/kernel"];

/// The kernel that the pod names, or the first that is there.
pub(crate) fn find(pod: &Pod) -> Result<Kernel> {
    let card = pod.network == Network::Joined;
    let named = pod.machine.as_ref().and_then(|machine| machine.kernel.clone());
    let path = named.map_or_else(|| usual().map(|(path, _)| path), Ok)?;
    Ok(Kernel { modules: kernel_modules::of(&path, card)?, path })
}

/// The kernel of a pod that names none, and why it is that one.
pub(crate) fn usual() -> Result<(PathBuf, &'static str)> {
    let own = std::env::current_exe().ok();
    let found = candidates(own.as_deref().and_then(Path::parent)).into_iter().find(|path| path.exists());
    let found = found.map(|path| (path, "pod's own")).or_else(|| Some((of_host()?, "the one that this host runs")));
    let found = found.or_else(|| {
        let cloud = newest_cloud_kernel(Path::new("/boot"), Path::new("/lib/modules"))?;
        Some((cloud, "a distribution's kernel for virtual machines"))
    });
    found.ok_or_else(|| {
        let advice = "install `linux-image-cloud-amd64` (Debian), build one with `stage1-kvm/kernel/build`, or name one with `--kernel`";
        Advised::new("no guest kernel", advice).into()
    })
}

/// The kernel that this host runs, where its package left the file: an ordinary host needs nothing more.
fn of_host() -> Option<PathBuf> {
    let release = rustix::system::uname().release().to_str().ok()?.to_owned();
    Some(PathBuf::from(format!("/boot/vmlinuz-{release}"))).filter(|path| path.exists())
}

/// The newest kernel of a `linux-image-cloud` package whose modules are installed. Distributions build it for virtual machines, so
/// it has what a guest needs, whatever kernel the host itself runs.
fn newest_cloud_kernel(boot: &Path, modules: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(boot).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let versions = names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
    let usable = versions.filter(|version| version.contains("-cloud-") && modules.join(version).is_dir());
    let newest = usable.max_by_key(|version| numbers(version))?;
    Some(boot.join(format!("vmlinuz-{newest}")))
}

/// The numbers in a version, so that 6.12 is newer than 6.1 and 6.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|character: char| !character.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// All places of the project's own kernel, best first: beside this program, as a package has it, as a build left it.
fn candidates(beside: Option<&Path>) -> Vec<PathBuf> {
    let beside = beside.map(|directory| vec![directory.join(OWN), directory.join("../lib/pod").join(OWN)]);
    let fixed = OWN_DIRECTORIES.iter().map(|directory| Path::new(directory).join(OWN));
    beside.into_iter().flatten().chain(fixed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cloud_kernel_with_modules_is_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let (boot, modules) = (scratch.path().join("boot"), scratch.path().join("modules"));
        std::fs::create_dir_all(&boot).unwrap();
        assert_eq!(newest_cloud_kernel(&boot, &modules), None);
        assert_eq!(newest_cloud_kernel(&scratch.path().join("missing"), &modules), None);
        let installed = ["6.9.0-1-cloud-amd64", "6.12.3-2-cloud-amd64", "6.1.0-40-cloud-amd64", "7.0.0-1-amd64"];
        for version in installed {
            std::fs::write(boot.join(format!("vmlinuz-{version}")), b"").unwrap();
            std::fs::create_dir_all(modules.join(version)).unwrap();
        }
        // The package of this one was removed, its kernel was left behind.
        std::fs::write(boot.join("vmlinuz-6.13.0-1-cloud-amd64"), b"").unwrap();
        let newest = newest_cloud_kernel(&boot, &modules);
        assert_eq!(newest, Some(boot.join("vmlinuz-6.12.3-2-cloud-amd64")));
    }
}
