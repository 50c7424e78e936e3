//! The same bodies where the build machine cannot run them: under cgroup v2 alone, and on the built-in hypervisor. This program
//! runs again in the testbed VM, for the tests named here.

use tests::testbed::inside;

#[test]
fn pure_cgroup_v2_limits_namespaces() {
    let names = ["limits::", "several::", "users::", "confinement::other_devices_cannot", "confinement::devices_are"];
    inside::these_tests(&names, "namespaces", "auto");
}
