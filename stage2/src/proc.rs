//! Writing to /proc, only through a procfs that stage2 made itself and never through a path an image could have shaped.

use anyhow::{Context, Result, ensure};
use contract::pod::Pod;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::path::PathBuf;

/// From the kernel's magic.h.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Writes `value` to `path` below a detached proc.
pub(crate) fn write(proc: BorrowedFd<'_>, path: &str, value: &str) -> Result<()> {
    // `self` is a link of procfs, not a magic one; leaving the mount is refused, so nothing mounted over a file is met.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve)?;
    ensure!(rustix::fs::fstatfs(&file)?.f_type as i64 == PROC_SUPER_MAGIC, "not procfs");
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Sets the pod's kernel parameters.
pub(crate) fn sysctls(pod: &Pod) -> Result<()> {
    if pod.sysctls.is_empty() {
        return Ok(());
    }
    let proc = crate::mount::detached("proc", &[], crate::mount::INERT)?;
    for (name, value) in &pod.sysctls {
        let set = || -> Result<()> { write(proc.as_fd(), path_of(name)?.to_str().context("not UTF-8")?, value) };
        set().with_context(|| format!("set sysctl `{name}`"))?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` → `sys/net/ipv4/ip_forward`. As sysctl(8), a slash in the name stands for a dot in a file name.
fn path_of(name: &str) -> Result<PathBuf> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/');
    let mut path = PathBuf::from("sys");
    for part in name.split('.') {
        ensure!(!part.is_empty() && part.bytes().all(plain) && !part.starts_with('/'), "not the name of a sysctl");
        path.push(part.replace('/', "."));
    }
    ensure!(!path.components().any(|part| part == std::path::Component::ParentDir), "not the name of a sysctl");
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(path_of("net.ipv4.ip_forward").unwrap().to_str(), Some("sys/net/ipv4/ip_forward"));
        assert_eq!(
            path_of("net.ipv4.conf.eth0/1.rp_filter").unwrap().to_str(),
            Some("sys/net/ipv4/conf/eth0.1/rp_filter")
        );
        for bad in ["", ".", "..", "net..x", "/etc", "a.//.b", "kernel.\n", "net./../x"] {
            assert!(path_of(bad).is_err(), "{bad:?}");
        }
    }
}
