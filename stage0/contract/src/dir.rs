//! The pod directory: `$DATA/pods/PHASE/UUID/`, and the state that phase and lock make together.
//!
//! A transition is one rename(2) of the directory. The flock(2) on the directory's own fd is held from creation to the
//! death of the last process of the chain, which inherits the fd; so the kernel itself frees it, whatever kills the pod.

use serde::{Deserialize, Serialize};

/// The resolved pod. Writer: stage0, before the pod leaves `prepare`.
pub const POD: &str = "pod.json";
/// What gc must release. Writer: stage0, each entry before the thing it names is made.
pub const HOST: &str = "host.json";
/// Per app: `APP/upper`, `APP/work`. Writer: stage0.
pub const APPS: &str = "apps";
/// Per empty volume: `NAME/`. Writer: stage0.
pub const VOLUMES: &str = "volumes";
/// Supervisor pid and start time, `PID START` (field 22 of /proc/PID/stat), newline. Writer: stage1.
pub const PID: &str = "pid";
/// Per app: JSON of [`crate::status::AppStatus`]. Writer: stage1.
pub const STATUS: &str = "status";
/// Unix socket for [`crate::control`]. Writer: stage1.
pub const CONTROL: &str = "control.sock";
/// The overlay upper layer of an app, below `apps/NAME/`.
pub const UPPER: &str = "upper";
/// The overlay work directory of an app, below `apps/NAME/`.
pub const WORK: &str = "work";

/// The fd of the locked pod directory in every stage.
pub const LOCK_FD: i32 = 3;
/// The fd of the pod's network namespace, if [`crate::pod::Network::Joined`].
pub const NETWORK_FD: i32 = 4;
/// The fd of the pod's user namespace, if `private_users`.
pub const USER_FD: i32 = 5;

/// The directory under `pods/` that a pod is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Being created; not yet locked.
    Embryo,
    /// Images and files are being put in place.
    Prepare,
    /// Ready for `run-prepared`.
    Prepared,
    /// stage1 has it, or had it.
    Run,
    /// Ended and marked by gc.
    ExitedGarbage,
    /// Never ran, marked by gc.
    Garbage,
}

impl Phase {
    /// All phases, in the order of a pod's life, so that a walk that races with a rename meets the pod again.
    pub const ALL: [Self; 6] =
        [Self::Embryo, Self::Prepare, Self::Prepared, Self::Run, Self::ExitedGarbage, Self::Garbage];

    /// The directory's name.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Embryo => "embryo",
            Self::Prepare => "prepare",
            Self::Prepared => "prepared",
            Self::Run => "run",
            Self::ExitedGarbage => "exited-garbage",
            Self::Garbage => "garbage",
        }
    }
}

/// What a pod is doing, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Explained by `State::of`.
pub enum State {
    Embryo,
    Preparing,
    AbortedPrepare,
    Prepared,
    Running,
    Exited,
    ExitedGarbage,
    Deleting,
    Garbage,
}

impl State {
    /// The state is the phase and whether somebody holds the lock; nothing else is recorded anywhere.
    pub const fn of(phase: Phase, locked: bool) -> Self {
        match (phase, locked) {
            (Phase::Embryo, _) => Self::Embryo,
            (Phase::Prepare, true) => Self::Preparing,
            (Phase::Prepare, false) => Self::AbortedPrepare,
            (Phase::Prepared, _) => Self::Prepared,
            (Phase::Run, true) => Self::Running,
            (Phase::Run, false) => Self::Exited,
            (Phase::ExitedGarbage, false) => Self::ExitedGarbage,
            (Phase::ExitedGarbage | Phase::Garbage, true) => Self::Deleting,
            (Phase::Garbage, false) => Self::Garbage,
        }
    }

    /// The word shown to users.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Embryo => "embryo",
            Self::Preparing => "preparing",
            Self::AbortedPrepare => "aborted-prepare",
            Self::Prepared => "prepared",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::ExitedGarbage => "exited-garbage",
            Self::Deleting => "deleting",
            Self::Garbage => "garbage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_phase_and_lock() {
        for phase in Phase::ALL {
            for locked in [false, true] {
                let word = State::of(phase, locked).word();
                assert_eq!(serde_json::to_string(&State::of(phase, locked)).unwrap(), format!("\"{word}\""));
            }
        }
        assert_eq!(State::of(Phase::Run, true), State::Running);
        assert_eq!(State::of(Phase::Run, false), State::Exited);
    }
}
