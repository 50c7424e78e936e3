//! The channel between stage1 and stage2.
//!
//! In namespaces it is a SOCK_SEQPACKET pair: one JSON message in a packet, fds by SCM_RIGHTS. In a guest it is a byte
//! stream (a virtio-console port) of frames, which carry the messages and the bytes of the standard streams. The crate `wire`
//! beside this one does both. stage1 treats everything from stage2 as hostile: the pod may have taken it over.

use crate::control::Exec;
use crate::name::AppName;
use crate::status::AppEnd;
use serde::{Deserialize, Serialize};

/// The longest packet or frame.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// The most fds in one packet; the kernel's limit (SCM_MAX_FD) is 253.
pub const FDS_MAX: usize = 250;

/// Guest only: so many bytes of stream data may be under way in each direction of a session, over all its streams, before the
/// receiver has passed them on and said so by a frame. So neither side ever queues more, and a reader that stands still holds up
/// its own session and nothing else.
pub const WINDOW_BYTES: usize = 128 << 10;

/// Guest only: at most this much stream data in one frame.
pub const DATA_BYTES_MAX: usize = 32 << 10;

/// stage1 → stage2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// First message in namespaces, in the socket before stage2 runs. The packet carries, for each entry and in order, as
    /// many fds as it says: `tasks` files of cgroup v1 or `cgroup.procs` files of v2, open for writing, that the app's first
    /// process writes `0` to while it has one thread. A packet holds at most [`FDS_MAX`]; the rest follow in packets of one byte `+`.
    Start {
        /// How many cgroup fds each app has.
        cgroups: Vec<(AppName, usize)>,
        /// Size of the caller's terminal (rows, columns), for an app on a tty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tty: Option<(u16, u16)>,
    },
    /// Stop the pod.
    Stop {
        /// Overrides the apps' grace time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_millis: Option<u64>,
    },
    /// A signal for every app (SIGHUP, SIGUSR1 … that the supervisor received).
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// Start a process beside an app; in namespaces the packet carries its three fds, or none for a tty.
    Exec {
        /// Chosen by stage1; names the session in what follows.
        session: u32,
        /// What to start.
        exec: Exec,
    },
    /// Signal an exec session.
    ExecSignal {
        /// Which session.
        session: u32,
        /// Signal number.
        signal: i32,
    },
    /// A terminal's new size; session 0 is the app's own.
    Resize {
        /// Which session.
        session: u32,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
}

/// stage2 → stage1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// The app's program was executed. For an app on a tty in namespaces the packet carries the terminal's master fd.
    Started {
        /// Which.
        app: AppName,
    },
    /// The app ended. `again`: it will be restarted.
    Ended {
        /// Which.
        app: AppName,
        /// How.
        end: AppEnd,
        /// Its restart policy starts it again.
        again: bool,
    },
    /// The app said READY=1.
    Ready {
        /// Which.
        app: AppName,
    },
    /// An exec session's program was executed; with a tty in namespaces, the packet carries the master fd.
    ExecStarted {
        /// Which session.
        session: u32,
    },
    /// An exec session ended.
    ExecEnded {
        /// Which session.
        session: u32,
        /// How.
        end: AppEnd,
    },
    /// Guest only, its first event: the guest's PID 1 runs and has the channel.
    Booted,
    /// Guest only: the pod is over, with this exit code; the guest powers off. In namespaces it is stage2's exit status.
    PodEnded {
        /// Exit code of the pod.
        exit: u8,
    },
    /// stage2 could not do its work: the pod ends with 125.
    Failed {
        /// One line.
        message: String,
    },
}
