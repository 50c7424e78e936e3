//! The security modules of the testbed's kernel: AppArmor with the profile that comes with pod, and SELinux with Debian's policy.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use tests::testbed::inside;
use tests::{Outcome, Test};

const PARSER: &str = "/sbin/apparmor_parser";
const PROFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stage0/dist/apparmor/pod-default");
const CURRENT: &str = "file-read /proc/self/attr/current";
/// Where the policy says which contexts are for containers, and two that Debian's policy has.
const CONTEXTS: &str = "/etc/selinux/default/contexts/lxc_contexts";
const PROCESS: &str = "system_u:system_r:svirt_t:s0";
const FILE: &str = "system_u:object_r:svirt_image_t:s0";
/// So that nothing but the profile forbids it.
const MOUNT: &str = "--cap-add=CAP_SYS_ADMIN --seccomp=unconfined";

#[test]
fn apps_are_confined_by_apparmor() {
    inside::checks_on(
        "namespaces",
        "",
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

/// What `pod check` says about a module: state and detail.
fn checked(t: &Test, module: &str) -> String {
    let text = t.cli(["check"]).assert_ok().stdout.clone();
    let line = text.lines().find_map(|line| line.strip_prefix(module)).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Loads the profile, as a package would.
fn load() {
    Outcome::of(Command::new(PARSER).args(["--replace", "--skip-cache", PROFILE])).assert_ok();
}

fn without_the_profile_nothing_is_applied(t: &Test) {
    assert!(checked(t, "apparmor").starts_with("partly"), "{}", checked(t, "apparmor"));
    t.pod().app("a", CURRENT).run().assert_exit(0).assert_stdout("unconfined");
    let asked = t.pod().app("a", CURRENT).with("--apparmor=pod-default").run();
    asked.assert_refused(125, "AppArmor profile `pod-default`: it is not loaded");
    // What the profile forbids works as long as it is not there.
    t.pod().app("a", "process-mount /tmp").with(MOUNT).run().assert_exit(0).assert_stdout("ok");
}

fn every_process_of_an_app_has_the_profile(t: &Test) {
    load();
    assert_eq!(checked(t, "apparmor"), "yes profile `pod-default`");
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

/// The machine's files have no labels, so in this mode the policy decides nothing, but the kernel knows every context.
#[test]
fn apps_have_a_context_of_selinux() {
    inside::checks_on(
        "namespaces",
        "lsm=selinux selinux=1 enforcing=0",
        "lsm::apps_have_a_context_of_selinux",
        &[
            ("a_policy_without_containers_has_no_label", a_policy_without_containers_has_no_label),
            ("every_process_of_a_pod_has_its_context", every_process_of_a_pod_has_its_context),
            ("files_made_for_an_app_have_its_context", files_made_for_an_app_have_its_context),
            ("a_context_that_the_policy_has_not_is_refused", a_context_that_the_policy_has_not_is_refused),
        ],
    );
}

/// What init does at boot.
fn load_policy() {
    let files = Path::new("/sys/fs/selinux");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("selinuxfs", files, "selinuxfs", flags, None).expect("the kernel runs SELinux");
    // Its name has the version of its format.
    let mut policies = fs::read_dir("/etc/selinux/default/policy").expect("the policy is installed");
    let policy = policies.next().expect("a policy").expect("a policy").path();
    fs::write(files.join("load"), fs::read(policy).expect("a policy that can be read")).expect("the kernel takes it");
}

/// Debian's policy has none of the types that its own `lxc_contexts` names.
fn a_policy_without_containers_has_no_label(t: &Test) {
    load_policy();
    let said = checked(t, "selinux");
    assert!(said.starts_with("no ") && said.contains("`system_u:system_r:container_t:s0`"), "{said}");
    let pod = t.pod().app("a", CURRENT).run();
    assert!(!pod.assert_exit(0).stdout.contains("container_t"), "{}", pod.outcome);
    // From here on it names types that the policy has; the machine's files go with it.
    fs::write(CONTEXTS, format!("process = \"{PROCESS}\"\nfile = \"{FILE}\"\n")).expect("a file of the machine");
}

fn every_process_of_a_pod_has_its_context(t: &Test) {
    let detail = format!("partly context `{PROCESS}`, and the policy is permissive: `setenforce 1`");
    assert_eq!(checked(t, "selinux"), detail);
    let mut contexts = BTreeSet::new();
    for flags in ["--user=root", "--user=alice --no-new-privs", "--seccomp=mode=remove,openat2"] {
        let pod = t.pod().app("a", CURRENT).with(flags).run();
        contexts.insert(pod.assert_exit(0).stdout.trim_matches(['\0', '\n']).to_owned());
    }
    let pods = contexts.len();
    let pod = t.pod().app("a", CURRENT).app("b", CURRENT).run();
    let both = pod.assert_exit(0).stdout.replace('\0', "");
    contexts.extend(both.lines().map(str::to_owned));
    // The two apps of one pod have one context, and each pod another.
    assert_eq!((pods, contexts.len()), (3, 4), "{contexts:?}");
    for context in &contexts {
        assert!(context.starts_with(&format!("{PROCESS}:c")), "{contexts:?}");
    }
    let pod = t.pod().app("a", CURRENT).with("--selinux=unconfined").run();
    assert!(!pod.assert_exit(0).stdout.contains("svirt_t"), "{}", pod.outcome);
}

fn files_made_for_an_app_have_its_context(t: &Test) {
    let places = ["/", "/probe", "/dev", "/dev/null", "/dev/pts", "/dev/shm", "/etc/hosts", "/t", "/v"];
    let words = places.map(|place| format!("file-label {place}")).join(" then ");
    let pod = t.pod().flag("--volume=v,kind=empty --mount=volume=v,target=/v").app("a", &words).with("--tmpfs=/t");
    let pod = pod.with(&format!("--selinux={PROCESS}:c3,c5")).run();
    let expected = places.map(|_| format!("{FILE}:c3,c5")).join("\n");
    pod.assert_exit(0).assert_stdout(&expected);
}

fn a_context_that_the_policy_has_not_is_refused(t: &Test) {
    let context = "system_u:system_r:no_such_t:s0";
    let pod = t.pod().app("a", CURRENT).with(&format!("--selinux={context}")).run();
    pod.assert_refused(125, &format!("confine it by SELinux context `{context}`: invalid argument"));
}
