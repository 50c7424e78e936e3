//! How an app ended: `status/NAME`, and the rule that makes one exit code of several.

use crate::exit;
use serde::{Deserialize, Serialize};

/// What became of one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AppStatus {
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AppEnd>,
    /// Why the app was killed, if its pod died under it and it had not ended itself: one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// First start, nanoseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_nanos: Option<u64>,
    /// Last end, nanoseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_nanos: Option<u64>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
}

/// The end of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AppEnd {
    /// exit(2) with this code.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
    /// Never ran: a step of its start did not succeed.
    Failed {
        /// 125, 126 or 127.
        exit: u8,
        /// The step and its error, one line.
        message: String,
    },
}

impl AppEnd {
    /// As a shell would say it.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Code(code) => *code,
            Self::Signal(signal) => exit::SIGNAL_BASE.wrapping_add(*signal),
            Self::Failed { exit, .. } => *exit,
        }
    }

    /// Whether it ends the pod when the app is not restarted.
    pub const fn is_failure(&self) -> bool {
        self.exit_code() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        for (end, code) in [
            (AppEnd::Code(0), 0),
            (AppEnd::Code(7), 7),
            (AppEnd::Signal(9), 137),
            (AppEnd::Failed { exit: 127, message: String::new() }, 127),
        ] {
            assert_eq!(end.exit_code(), code);
            assert_eq!(end.is_failure(), code != 0);
        }
    }
}
