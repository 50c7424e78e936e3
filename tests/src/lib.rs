//! The harness of the behaviour tests: it runs in the test process on the build machine, as root, and drives the
//! executables as a user would.
//!
//! It must not touch anything but its own temporary directories and what the pods it started own; what a test leaves
//! behind is a failure of that test. Nothing here links the code under test except the contract's types.

pub mod image;
