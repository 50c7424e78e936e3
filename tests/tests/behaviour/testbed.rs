//! The same bodies where the build machine cannot run them: under cgroup v2 alone, and on the built-in hypervisor. This program
//! runs again in the testbed VM, for the tests named here.

use tests::testbed::inside;

#[test]
fn pure_cgroup_v2_limits_namespaces() {
    let names = [
        "limits::",
        "several::",
        "users::",
        "baseline::an_app_that_nothing_keeps",
        "baseline::where_no_cgroup_can",
        "confinement::a_given_device",
        "confinement::devices_are",
        "confinement::mounts_are_nodev",
        "confinement::other_devices_cannot",
    ];
    inside::these_tests(&names, "namespaces", "auto");
}

#[cfg(feature = "kvm")]
#[test]
fn the_builtin_hypervisor_runs_pods() {
    // Each starts a machine inside of an emulated one, so not all are here, but some of each kind.
    let names = [
        "limits::memory_is_limited",
        "limits::processes",
        "machines::",
        "outcome::a_program_that",
        "outcome::an_app_killed_by",
        "outcome::first_failing",
        "outcome::much_output",
        "outcome::other_signals",
        "outcome::sigterm_to_the_pod",
        "outcome::standard_",
        "several::three_apps",
        "several::apps_see",
        "terminals::an_interactive",
        "terminals::exec_on",
        "volumes::a_",
        "volumes::an_empty_volume_has",
    ];
    inside::these_tests(&names, "kvm", "builtin");
}
