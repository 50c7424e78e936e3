//! Which guest kernel boots.

use crate::kernel_modules;
use crate::plan::Kernel;
use crate::run::Hint;
use anyhow::Result;
use contract::pod::{Network, Pod};
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
    found.ok_or_else(|| {
        Hint::error("no guest kernel", "build one with `stage1-kvm/kernel/build`, or name one with `--kernel`")
    })
}

/// The kernel that this host runs, where its package left the file: an ordinary host needs nothing more.
fn of_host() -> Option<PathBuf> {
    let release = rustix::system::uname().release().to_str().ok()?.to_owned();
    Some(PathBuf::from(format!("/boot/vmlinuz-{release}"))).filter(|path| path.exists())
}

/// All places of the project's own kernel, best first: beside this program, as a package has it, as a build left it.
fn candidates(beside: Option<&Path>) -> Vec<PathBuf> {
    let beside = beside.map(|directory| vec![directory.join(OWN), directory.join("../lib/pod").join(OWN)]);
    let fixed = OWN_DIRECTORIES.iter().map(|directory| Path::new(directory).join(OWN));
    beside.into_iter().flatten().chain(fixed).collect()
}
