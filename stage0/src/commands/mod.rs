//! The commands, a file each.

pub(crate) mod about;
pub(crate) mod check;
pub(crate) mod exec;
pub(crate) mod image_trust;
pub(crate) mod images;
pub(crate) mod pods;
pub(crate) mod run;
pub(crate) mod stop;
pub(crate) mod trust;
