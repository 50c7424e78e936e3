//! The harness of the behaviour tests: it runs in the test process on the build machine, as root, and drives the
//! executables as a user would.
//!
//! It must not touch anything but its own temporary directories and what the pods it started own; what a test leaves
//! behind is a failure of that test. Nothing here links the code under test except the contract's types.

mod apps;
mod fixture;
pub mod image;
mod leftovers;
mod outcome;
mod running;
pub mod testbed;

pub use apps::{PodBuilder, Ran};
pub use fixture::{Key, PROBE, Test, executables, probe_bytes, probe_layer, probe_recipe};
pub use outcome::Outcome;
pub use running::Running;

/// Set by the full run: what would skip fails instead.
const FULL: &str = "POD_TESTS_FULL";

/// Runs a test's body on one stage1, and then sees to it that nothing is left of it.
pub fn on_stage(stage1: &'static str, name: &str, body: fn(&Test)) {
    if !rustix::process::geteuid().is_root() {
        return skip("a pod is started by root");
    }
    let test = Test::new(stage1, name);
    body(&test);
    test.finish();
}

/// Says why a test cannot run here; in the full run that is a failure.
pub fn skip(reason: &str) {
    println!("skip: {reason}");
    assert!(std::env::var_os(FULL).is_none(), "skipped in the full run: {reason}");
}

/// One behaviour, tested on every stage1 by the same body: `stage_test!(name, |t| { … });`.
#[macro_export]
macro_rules! stage_test {
    ($(#[$attribute:meta])* $name:ident, |$test:ident| $body:block) => {
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)] // A body may need nothing of its file.
            use super::*;

            fn body($test: &$crate::Test) $body

            #[test]
            fn namespaces() {
                $crate::on_stage("namespaces", stringify!($name), body);
            }
        }
    };
}
