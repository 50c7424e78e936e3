//! What `pod check` prints of a host: by stage0 for what all pods need, and by a stage1's `check` entrypoint for its own.

use serde::{Deserialize, Serialize};

/// A stage1's answer is at most this long, in bytes.
pub const BYTES_MAX: u64 = 64 << 10;
/// And comes within this time.
pub const SECS_MAX: u64 = 30;

/// One thing that a pod may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its name.
    pub feature: String,
    /// Whether this host has it.
    pub state: State,
    /// How and why, or what it would take.
    pub detail: String,
}

/// Whether a host has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It does.
    Yes,
    /// With less than one would expect.
    Partly,
    /// It does not.
    No,
}

impl Line {
    /// A line with `detail` if the feature is there, else with what it `takes`.
    pub fn new(feature: impl Into<String>, holds: bool, detail: impl Into<String>, takes: impl Into<String>) -> Self {
        let (state, detail) = if holds { (State::Yes, detail.into()) } else { (State::No, takes.into()) };
        Self { feature: feature.into(), state, detail }
    }
}
