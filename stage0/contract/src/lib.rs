//! The ABI between the stages of pod.
//!
//! stage0 writes what is here, a stage1 reads it, and stage2 carries it out. The crate holds types, names and pure
//! checks; it has no policy, no threads, no logging and no network. `README.md` beside it is the normative text: what a
//! third party must read to write a stage1. Every structure refuses unknown fields, because a stage that does not
//! understand a field may be dropping a confinement.

pub mod channel;
pub mod check;
pub mod control;
pub mod devices;
pub mod dir;
pub mod exit;
mod feature;
pub mod features;
pub mod guest;
pub mod host;
pub mod json;
pub mod kernel;
pub mod limits;
pub mod name;
pub mod pod;
#[cfg(test)]
mod schema;
pub mod stage1;
pub mod status;
pub mod syscalls;
pub mod text;

/// Where stage2 finds things inside the pod, on every stage1: fd numbers and paths of the pod root.
pub mod stage2;

/// The version of `pod.json` and `stage1.json` that this crate writes and reads.
pub const VERSION: u32 = 1;

/// At most this many apps may share one pod.
pub const APPS_MAX: usize = 64;
