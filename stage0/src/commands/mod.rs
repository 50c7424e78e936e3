//! The commands, a file each.

pub(crate) mod run;
pub(crate) mod trust;
