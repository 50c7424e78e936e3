//! The supervisor of a running pod: its process, and its control socket. Both are found through the pod directory.

use super::pods::PodDir;
use ::supervisor::client;
pub(crate) use ::supervisor::client::Connection;
use anyhow::{Context, Result};
use contract::dir::PID;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The process of the supervisor, if it still runs.
pub(crate) fn process(pod: &PodDir) -> Result<Option<OwnedFd>> {
    let Some(file) = pod.open_file(PID)? else { return Ok(None) };
    let mut text = String::new();
    file.take(64).read_to_string(&mut text).with_context(|| format!("read `{PID}` of pod `{}`", pod.uuid))?;
    client::process(&text).with_context(|| format!("find the supervisor of pod `{}`", pod.uuid))
}

/// Connects. `None`: there is no socket, or nobody listens: the pod is not up yet, or over.
pub(crate) fn connect(pod: &PodDir) -> Result<Option<Connection>> {
    Connection::open(pod.fd(), None).with_context(|| format!("pod `{}`", pod.uuid))
}

/// As [`connect`]; a supervisor that accepts no connection for `limit` counts as one that does not listen.
pub(crate) fn connect_within(pod: &PodDir, limit: Duration) -> Result<Option<Connection>> {
    Connection::open(pod.fd(), Some(limit)).with_context(|| format!("pod `{}`", pod.uuid))
}
