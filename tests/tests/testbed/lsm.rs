//! AppArmor, which the testbed's kernel runs: the profile that comes with pod is loaded there, and apps are confined by it.

use std::process::Command;
use tests::testbed::inside;
use tests::{Outcome, Test};

const PARSER: &str = "/sbin/apparmor_parser";
const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stage0/dist/apparmor/pod-default");
const CURRENT: &str = "file-read /proc/self/attr/current";
/// So that nothing but the profile forbids it.
const MOUNT: &str = "--cap-add=CAP_SYS_ADMIN --seccomp=unconfined";

#[test]
fn apps_are_confined_by_apparmor() {
    inside::checks_on(
        "namespaces",
        "lsm::apps_are_confined_by_apparmor",
        &[
            ("without_the_profile_nothing_is_applied", without_the_profile_nothing_is_applied),
            ("every_process_of_an_app_has_the_profile", every_process_of_an_app_has_the_profile),
            ("what_the_profile_forbids_is_refused", what_the_profile_forbids_is_refused),
            ("pods_with_the_profile_end_as_others_do", pods_with_the_profile_end_as_others_do),
            ("a_profile_that_has_gone_is_not_left_out", a_profile_that_has_gone_is_not_left_out),
            ("a_guest_has_no_profile_of_the_host", a_guest_has_no_profile_of_the_host),
        ],
    );
}

/// What `pod check` says about AppArmor: state and detail.
fn checked(t: &Test) -> String {
    let text = t.cli(["check"]).assert_ok().stdout.clone();
    let line = text.lines().find_map(|line| line.strip_prefix("apparmor ")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Loads the profile, as a package would.
fn load() {
    Outcome::of(Command::new(PARSER).args(["--replace", "--skip-cache", PROFILE])).assert_ok();
}

fn without_the_profile_nothing_is_applied(t: &Test) {
    assert!(checked(t).starts_with("partly"), "{}", checked(t));
    t.pod().app("a", CURRENT).run().assert_exit(0).assert_stdout("unconfined");
    let asked = t.pod().app("a", CURRENT).with("--apparmor=pod-default").run();
    asked.assert_refused(125, "AppArmor profile `pod-default`: it is not loaded");
    // What the profile forbids works as long as it is not there.
    t.pod().app("a", "process-mount /tmp").with(MOUNT).run().assert_exit(0).assert_stdout("ok");
}

fn every_process_of_an_app_has_the_profile(t: &Test) {
    load();
    assert_eq!(checked(t), "yes profile `pod-default`");
    let users = ["--user=root", "--user=alice", "--user=alice --no-new-privs", "--cap-drop=all --readonly-rootfs"];
    for flags in users.into_iter().chain(["--seccomp=mode=remove,openat2"]) {
        let pod = t.pod().app("a", CURRENT).with(flags).run();
        pod.assert_exit(0).assert_stdout("pod-default (enforce)");
    }
    let users = t.pod().flag("--private-users").app("a", CURRENT).run();
    users.assert_exit(0).assert_stdout("pod-default (enforce)");
    let child = t.pod().app("a", "exec /probe file-read /proc/self/attr/current").run();
    child.assert_exit(0).assert_stdout("pod-default (enforce)");
    t.pod().app("a", CURRENT).with("--apparmor=unconfined").run().assert_exit(0).assert_stdout("unconfined");
    // Of two apps each has its own.
    let pod = t.pod().flag("--volume=v,kind=empty --mount=volume=v,target=/v");
    let pod = pod.app("a", &format!("{CURRENT} then file-write /v/done x")).with("--apparmor=unconfined");
    let pod = pod.app("b", &format!("file-await /v/done then {CURRENT}")).run();
    pod.assert_exit(0).assert_stdout("unconfined\npod-default (enforce)");
}

fn what_the_profile_forbids_is_refused(t: &Test) {
    let table = [
        ("process-mount /tmp", MOUNT, "ok", "EACCES"),
        ("file-try-write /proc/sys/net/ipv4/ip_forward", "", "ok", "EACCES"),
        ("file-try-write /proc/sysrq-trigger", "", "ok", "EACCES"),
        (
            "file-try-create /proc/self/coredump_filter then file-try-write /proc/self/coredump_filter",
            "",
            "EEXIST\nok",
            "EEXIST\nok",
        ),
        // PID 1 of the pod is none of the app's peers; SIGCONT does nothing to it.
        ("process-kill 1 18", "", "ok", "EACCES"),
        ("file-write /tmp/x y then file-read /tmp/x then exec /probe print done", "", "y\ndone", "y\ndone"),
    ];
    for (words, flags, unconfined, confined) in table {
        for (profile, expected) in [("unconfined", unconfined), ("pod-default", confined)] {
            let pod = t.pod().flag("--insecure-options=paths").app("a", words).with(flags);
            let pod = pod.with(&format!("--apparmor={profile}")).run();
            assert_eq!(pod.assert_exit(0).stdout.trim_end(), expected, "{profile}: {words}");
        }
    }
}

fn pods_with_the_profile_end_as_others_do(t: &Test) {
    let pod = t.pod().app("a", "process-sleep 600").app("b", "process-sleep 600").start();
    let current = ["/probe", "file-read", "/proc/self/attr/current", "then", "process-kill", "2", "18"];
    pod.exec("b", &current).assert_exit(0).assert_stdout("pod-default (enforce)\nok");
    t.cli(["stop", &pod.uuid]).assert_ok();
}

fn a_profile_that_has_gone_is_not_left_out(t: &Test) {
    let uuid = t.pod().app("a", CURRENT).prepare();
    Outcome::of(Command::new(PARSER).args(["--remove", PROFILE])).assert_ok();
    let outcome = t.cli(["run-prepared", &uuid]);
    outcome.assert_refused(125, "confine it by AppArmor profile `pod-default`: no such file or directory");
    load();
}

fn a_guest_has_no_profile_of_the_host(t: &Test) {
    let probe = t.probe();
    let words = ["run", "--stage1=kvm", "--net=none", probe, "--apparmor=pod-default", "--", "true"];
    t.cli(words).assert_refused(125, "stage1 `kvm` cannot do what this pod needs: apparmor");
    assert!(t.cli(["prepare", "--stage1=kvm", "--net=none", probe]).assert_ok().stdout.len() > 30);
}
