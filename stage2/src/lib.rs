//! PID 1 of a pod or of a guest.

pub mod guest;
