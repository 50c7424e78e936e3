//! `control.sock`: what `pod stop`, `pod exec` and `pod status` say to the supervisor of a running pod.
//!
//! SOCK_SEQPACKET; one JSON message in a packet, at most [`MESSAGE_BYTES_MAX`]. The socket lies in the pod directory (mode
//! 0700, owned by root) and is never mounted into the pod. A connection is one request and its replies.

use crate::name::AppName;
use crate::status::{AppEnd, AppStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest packet.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// From the client. `Exec` opens a session, in which `Signal`, `Resize` may follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Start a process confined as the app is. Without `tty` the packet carries three fds by SCM_RIGHTS: stdin, stdout,
    /// stderr. With `tty` it carries none, and `Started` brings the terminal's fd.
    Exec(Exec),
    /// Send a signal to the process of this session.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// New size of the session's terminal.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Stop all apps, each by its stop signal, then SIGKILL after its grace time or this one.
    Stop {
        /// Overrides the apps' own grace time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_millis: Option<u64>,
    },
    /// Ask how the apps are.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Status,
}

/// A process to start beside an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Whose root, user, capabilities, filter and cgroup it gets.
    pub app: AppName,
    /// argv.
    pub arguments: Vec<String>,
    /// Added to the app's environment.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// Another user of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Another working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// On a terminal of its own, of this size (rows, columns).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<(u16, u16)>,
}

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// The process runs. With a terminal, the packet carries the fd of its master side by SCM_RIGHTS.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Started,
    /// It ended; last message of the session.
    Exited {
        /// How.
        end: AppEnd,
    },
    /// The request was understood and is being carried out.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Accepted,
    /// The request was refused.
    Refused {
        /// One line.
        message: String,
    },
    /// How the apps are.
    Status {
        /// By name.
        apps: BTreeMap<AppName, AppStatus>,
        /// sd_notify readiness, or all apps started.
        ready: bool,
    },
}
