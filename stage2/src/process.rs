//! The processes that PID 1 has started, and what it keeps of each.

use crate::failure::Failure;
use crate::launch::Started;
use crate::remains::Namespace;
use rustix::fd::OwnedFd;

/// What a process is to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The first process of the app at this place.
    App(usize),
    /// An exec session, by its number, beside the app at this place.
    Session(u32, usize),
}

/// One process.
pub(crate) struct Process {
    /// What it is.
    pub(crate) role: Role,
    /// How to reach it.
    pub(crate) started: Started,
    /// Until the end of its report was seen: its program is not executed yet.
    pub(crate) starting: bool,
    /// What it reported instead of executing its program.
    pub(crate) failure: Option<Failure>,
    /// The master of its terminal, until stage1 has it.
    pub(crate) terminal: Option<OwnedFd>,
    /// Where an app says that it is ready.
    pub(crate) notify: Option<OwnedFd>,
    /// To find what the app leaves behind.
    pub(crate) namespace: Option<Namespace>,
}

impl Process {
    /// A process that was started just now.
    pub(crate) fn new(role: Role, started: Started) -> Self {
        Self { role, started, starting: true, failure: None, terminal: None, notify: None, namespace: None }
    }
}
