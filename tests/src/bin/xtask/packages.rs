//! The Debian packages a task needs: the missing ones are named, and installed when this runs as root.
//!
//! Services of server packages are not wanted on the build machine, so servers are not installed here: the tests bring
//! them in roots of their own, made by debootstrap. The one exception is the registry, which listens on the loopback only.

use crate::command::must;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// What a task is about to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Compile and link the executables.
    Build,
    /// Run a microVM: the hypervisor, the tools for its disks and shares, and what the guest kernel is built from.
    Machine,
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
    (Need::Machine, "xz-utils", &["/usr/bin/xz"]),
    (Need::Machine, "qemu-system-x86", &["/usr/bin/qemu-system-x86_64"]),
    (Need::Machine, "qemu-system-common", &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]),
    (Need::Machine, "erofs-utils", &["/usr/bin/mkfs.erofs"]),
    (Need::Machine, "make", &["/usr/bin/make"]),
    (Need::Machine, "bc", &["/usr/bin/bc"]),
    (Need::Machine, "bison", &["/usr/bin/bison"]),
    (Need::Machine, "flex", &["/usr/bin/flex"]),
    (Need::Machine, "libelf-dev", &["/usr/include/libelf.h"]),
    (Need::Machine, "linux-source-6.12", &["/usr/src/linux-source-6.12.tar.xz"]),
    (Need::Test, "buildah", &["/usr/bin/buildah"]),
    (Need::Test, "debootstrap", &["/usr/sbin/debootstrap"]),
    (Need::Test, "minisign", &["/usr/bin/minisign"]),
    (Need::Test, "podman", &["/usr/bin/podman"]),
    (Need::Test, "skopeo", &["/usr/bin/skopeo"]),
    (Need::Test, "umoci", &["/usr/bin/umoci"]),
    (Need::Test, "crun", &["/usr/bin/crun"]),
    (Need::Test, "docker-registry", &["/usr/bin/docker-registry"]),
    (Need::Test, "apache2-utils", &["/usr/bin/htpasswd"]),
    (Need::Test, "openssl", &["/usr/bin/openssl"]),
    (Need::Test, "iproute2", &["/sbin/ip"]),
    (Need::Test, "nftables", &["/usr/sbin/nft"]),
    // The testbed VM boots this kernel, whose file is named by its version, and the host's systemd.
    (Need::Test, "linux-image-cloud-amd64", &["/usr/share/doc/linux-image-cloud-amd64"]),
    (Need::Test, "e2fsprogs", &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"]),
    (Need::Test, "systemd", &["/lib/systemd/systemd"]),
    (Need::Bench, "bubblewrap", &["/usr/bin/bwrap"]),
    (Need::Bench, "busybox-static", &["/bin/busybox"]),
    (Need::Bench, "runc", &["/usr/sbin/runc", "/usr/bin/runc"]),
    (Need::Bench, "time", &["/usr/bin/time"]),
    (Need::Bench, "systemd-container", &["/usr/bin/systemd-nspawn"]),
];

fn missing(need: Need) -> Vec<&'static str> {
    let there = |files: &[&str]| files.iter().any(|file| Path::new(file).exists());
    PACKAGES.iter().filter(|(from, _, files)| *from <= need && !there(files)).map(|(_, package, _)| *package).collect()
}

/// Makes sure that everything `need` asks for is installed.
pub(crate) fn ensure(need: Need) -> Result<()> {
    let missing = missing(need);
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    eprintln!("xtask: Debian packages are missing: {}", missing.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("run this as root first: apt-get update && {install}");
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this is not Debian; install what these Debian packages hold: {}", missing.join(" "));
    }
    must(apt().arg("update"))?;
    must(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing))
        .with_context(|| format!("install {}", missing.join(" ")))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--quiet"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdin(std::process::Stdio::null());
    command
}
