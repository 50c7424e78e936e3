//! The supervisor of a running pod: the part of a stage1 that is the same for all.
//!
//! A stage1 plans and isolates its pod, and then lives as long as the pod does, as the host's root and outside of the pod. This
//! crate is that life: it takes over what stage0 left ([`Place`]), waits ([`Supervisor`]), serves `control.sock`, writes `pid` and
//! `status/NAME`, carries the streams and terminals, and reports. What follows from what is decided by [`life`], which makes no
//! system call. A stage1 adds two things: the descriptors that only it has, and how its pod is killed.
//!
//! `pod` links the crate for the other side of the socket ([`client`]) and for terminals.
//!
//! Everything that comes up from stage2 or from a guest is hostile. It must never decide more than texts and exit codes, never
//! make the supervisor wait, and never reach a terminal unescaped.

mod apps;
pub mod client;
mod control;
pub mod life;
pub mod link;
mod place;
pub mod record;
pub mod report;
mod supervise;
pub mod sys;
pub mod terminal;

pub use life::{End, Outcome};
pub use link::Link;
pub use place::{Place, run};
pub use supervise::{Signals, Supervisor, Turn};
