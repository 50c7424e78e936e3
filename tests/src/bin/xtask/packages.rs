//! The Debian packages a task needs: the missing ones are named, and installed when this runs as root.
//!
//! Services of server packages are not wanted on the build machine, so servers are not installed here: the tests bring
//! them in roots of their own, made by debootstrap. The one exception is the registry, which listens on the loopback only.

mod apt;
mod qemu;

use anyhow::{Result, bail};
use std::path::Path;

/// What a task is about to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Compile and link the executables.
    Build,
    /// Run a microVM of a guest kernel that is there: the hypervisor and the tools for its disks and shares.
    Hypervisor,
    /// Run a microVM of the distribution's kernel for virtual machines.
    Machine,
    /// Build the project's own guest kernel.
    Kernel,
    /// Run all tests.
    Test,
    /// Measure beside the peers.
    Bench,
}

/// Who first needs a package, the package, and a file that proves it is there: a file, because on machines that are not
/// Debian the same tool comes from elsewhere.
const PACKAGES: &[(Need, &str, &[&str])] = &[
    (Need::Build, "gcc", &["/usr/bin/cc"]),
    (Need::Build, "libc6-dev", &["/usr/lib/x86_64-linux-gnu/libc.a", "/usr/lib/aarch64-linux-gnu/libc.a"]),
    (Need::Build, "ca-certificates", &["/etc/ssl/certs/ca-certificates.crt"]),
    (Need::Hypervisor, "qemu-system-x86", &["/usr/bin/qemu-system-x86_64"]),
    (Need::Hypervisor, "qemu-system-common", &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]),
    (Need::Hypervisor, "erofs-utils", &["/usr/bin/mkfs.erofs"]),
    // Its file is named by its version. The testbed VM boots it, too.
    (Need::Machine, "linux-image-cloud-amd64", &["/usr/share/doc/linux-image-cloud-amd64"]),
    (Need::Kernel, "xz-utils", &["/usr/bin/xz"]),
    (Need::Kernel, "make", &["/usr/bin/make"]),
    (Need::Kernel, "bc", &["/usr/bin/bc"]),
    (Need::Kernel, "bison", &["/usr/bin/bison"]),
    (Need::Kernel, "flex", &["/usr/bin/flex"]),
    (Need::Kernel, "libelf-dev", &["/usr/include/libelf.h"]),
    (Need::Kernel, "linux-source-6.12", &["/usr/src/linux-source-6.12.tar.xz"]),
    (Need::Test, "buildah", &["/usr/bin/buildah"]),
    (Need::Test, "debootstrap", &["/usr/sbin/debootstrap"]),
    (Need::Test, "minisign", &["/usr/bin/minisign"]),
    (Need::Test, "podman", &["/usr/bin/podman"]),
    (Need::Test, "skopeo", &["/usr/bin/skopeo"]),
    (Need::Test, "umoci", &["/usr/bin/umoci"]),
    (Need::Test, "crun", &["/usr/bin/crun"]),
    // podman takes this one where cgroups are of version 1, and crun refuses to be taken there.
    (Need::Test, "runc", &["/usr/sbin/runc", "/usr/bin/runc"]),
    (Need::Test, "docker-registry", &["/usr/bin/docker-registry"]),
    (Need::Test, "apache2-utils", &["/usr/bin/htpasswd"]),
    (Need::Test, "openssl", &["/usr/bin/openssl"]),
    (Need::Test, "iproute2", &["/sbin/ip"]),
    (Need::Test, "nftables", &["/usr/sbin/nft"]),
    (Need::Test, "apparmor", &["/sbin/apparmor_parser"]),
    (Need::Test, "selinux-policy-default", &["/etc/selinux/default/contexts/lxc_contexts"]),
    (Need::Test, "e2fsprogs", &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"]),
    (Need::Test, "systemd", &["/lib/systemd/systemd"]),
    (Need::Bench, "bubblewrap", &["/usr/bin/bwrap"]),
    (Need::Bench, "busybox-static", &["/bin/busybox"]),
    (Need::Bench, "time", &["/usr/bin/time"]),
    (Need::Bench, "systemd-container", &["/usr/bin/systemd-nspawn"]),
];

fn missing(need: Need) -> Vec<&'static str> {
    let there = |files: &[&str]| files.iter().any(|file| Path::new(file).exists());
    PACKAGES.iter().filter(|(from, _, files)| *from <= need && !there(files)).map(|(_, package, _)| *package).collect()
}

/// Makes sure that everything `need` asks for is installed. No package is ever removed for it.
pub(crate) fn ensure(need: Need) -> Result<()> {
    let missing = missing(need);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    eprintln!("xtask: Debian packages are missing: {list}");
    if !rustix::process::geteuid().is_root() {
        bail!("run this as root first: apt-get update && apt-get install --no-install-recommends {list}");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this is not Debian; install what these Debian packages hold: {list}");
    }
    apt::update()?;
    if apt::removes(&missing)?.is_empty() {
        return apt::install(&missing);
    }
    // Installed all at once they displace a package. Only qemu is known to, and has another way in.
    let (of_qemu, others): (Vec<&str>, Vec<&str>) = missing.into_iter().partition(|name| qemu::PACKAGES.contains(name));
    let removed = apt::removes(&others)?;
    if !removed.is_empty() {
        bail!("installing `{}` would remove `{}`, so nothing was installed", others.join(" "), removed.join(" "));
    }
    apt::install(&others)?;
    let removed = apt::removes(&of_qemu)?;
    if removed.is_empty() { apt::install(&of_qemu) } else { qemu::install_beside(&removed) }
}
