//! The harness of the behaviour tests: it runs in the test process on the build machine, as root, and drives the
//! executables as a user would.
//!
//! It must not touch anything but its own temporary directories and what the pods it started own; what a test leaves
//! behind is a failure of that test. Nothing here links the code under test except the contract's types.

mod apps;
pub mod caller;
pub mod confined;
pub mod control;
#[cfg(feature = "kvm")]
pub mod cpuid;
mod fixture;
pub mod image;
pub mod kernels;
mod leftovers;
pub mod network;
mod outcome;
pub mod podman;
mod running;
mod terminal;
pub mod testbed;

pub use contract::features::Feature;

pub use apps::{PodBuilder, Ran};
pub use fixture::{Key, PROBE, Test, executables, probe_bytes, probe_layer, probe_recipe};
pub use outcome::Outcome;
pub use running::Running;
pub use terminal::Terminal;

use contract::stage1::Stage1;
use std::collections::BTreeSet;

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

/// As [`on_stage`], for a behaviour that a stage1 may declare not to have: then the declaration is what is checked.
pub fn on_able_stage(stage1: &'static str, needs: &[Feature], name: &str, body: fn(&Test)) {
    let declared = declared(stage1);
    let missing: Vec<String> = needs.iter().filter(|need| !declared.contains(need)).map(|need| need.name()).collect();
    if missing.is_empty() {
        on_stage(stage1, name, body);
    } else {
        println!("{stage1} declares that it has no {}", missing.join(", "));
    }
}

/// What the declaration beside the executables says that a stage1 can do.
fn declared(stage1: &str) -> BTreeSet<Feature> {
    let file = executables().join(format!("stage1-{stage1}.json"));
    let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let declaration: Stage1 =
        contract::json::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    declaration.features
}

/// One behaviour, tested on every stage1 by the same body: `stage_test!(name, |t| { … });`, or, if it needs something
/// that a stage1 may declare not to have, `stage_test!(name, needs [HostNetwork], |t| { … });`.
#[macro_export]
macro_rules! stage_test {
    ($(#[$attribute:meta])* $name:ident, |$test:ident| $body:block) => {
        $crate::stage_test!($(#[$attribute])* $name, needs [], |$test| $body);
    };
    ($(#[$attribute:meta])* $name:ident, needs [$($need:ident),*], |$test:ident| $body:block) => {
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)] // A body may need nothing of its file.
            use super::*;

            fn body($test: &$crate::Test) $body

            #[test]
            fn namespaces() {
                $crate::on_able_stage("namespaces", &[$($crate::Feature::$need),*], stringify!($name), body);
            }

            #[cfg(feature = "kvm")]
            #[test]
            fn kvm() {
                $crate::on_able_stage("kvm", &[$($crate::Feature::$need),*], stringify!($name), body);
            }
        }
    };
}
