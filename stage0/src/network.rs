//! `--net=ns:PATH`: a network namespace that somebody else made, `ip netns` or a CNI runtime, and goes on to own: it is in
//! no `host.json`, and nothing in it is set up or released here.

use crate::failure::Failure;
use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Linux's `NSFS_MAGIC`.
const NAMESPACES: i64 = 0x6e73_6673;

/// The path in `ns:PATH`.
pub(crate) fn path(net: &str) -> Option<&Path> {
    net.strip_prefix("ns:").map(Path::new)
}

/// Opens the namespace that a network names, if it names one. The fd keeps it alive until the pod has it.
pub(crate) fn open(net: &str) -> Result<Option<OwnedFd>> {
    let Some(path) = path(net) else { return Ok(None) };
    let context = || format!("open the network namespace `{}`", path.display());
    // Non-blocking: what is no namespace at all must not make us wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let namespace = rustix::fs::openat(CWD, path, flags, Mode::empty()).with_context(context)?;
    let stat = rustix::fs::fstat(&namespace).with_context(context)?;
    // Of other files the question would have another meaning.
    let namespaces = rustix::fs::fstatfs(&namespace).with_context(context)?.f_type == NAMESPACES;
    if !namespaces || crate::sys::namespace_kind(namespace.as_fd()).ok() != Some(libc::CLONE_NEWNET) {
        return Err(Failure::new(format!("`{}` is not a network namespace", path.display()))
            .hint("`ip netns add NAME` makes one at `/run/netns/NAME`")
            .into());
    }
    let own = rustix::fs::stat("/proc/self/ns/net").context("look at the own network namespace")?;
    if (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino) {
        return Err(Failure::new(format!("`{}` is the host's own network namespace", path.display()))
            .hint("`--net=host` shares it")
            .into());
    }
    Ok(Some(namespace))
}
