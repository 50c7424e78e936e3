//! Exit codes of `pod run`, the same on every stage1.

/// Command line that cannot be understood.
pub const USAGE: u8 = 2;
/// A failure of pod itself, before or around the app.
pub const FAILURE: u8 = 125;
/// The app's program is there and cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// The app's program is not there.
pub const NOT_FOUND: u8 = 127;
/// 128 + the number of the signal that killed the app.
pub const SIGNAL_BASE: u8 = 128;
