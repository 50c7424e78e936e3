//! What the probe reports of its confinement, down to each flag: spine, show 6.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use tests::{Outcome, Test, stage_test};

/// rkt's and Docker's default: what an app may ever have.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

fn report(t: &Test, flags: &str) -> Value {
    t.pod().app("a", "report").with(flags).run().assert_exit(0).json()
}

fn words(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn mount<'a>(report: &'a Value, target: &str) -> &'a Value {
    let mounts = report["mounts"].as_array().expect("a list of mounts");
    // The last one on a place is the one that is seen.
    let found = mounts.iter().rfind(|mount| mount["target"] == target);
    found.unwrap_or_else(|| panic!("nothing is mounted on {target}: {mounts:#?}"))
}

stage_test!(capabilities_are_the_default_fourteen, |t| {
    let root = report(t, "");
    for name in ["permitted", "effective", "bounding"] {
        assert_eq!(words(&root["capabilities"][name]), set(&DEFAULT), "{name}");
    }
    let alice = report(t, "--user=alice");
    for name in ["permitted", "effective"] {
        assert_eq!(words(&alice["capabilities"][name]), set(&[]), "{name}");
    }
    assert_eq!(words(&alice["capabilities"]["bounding"]), set(&DEFAULT));
});

stage_test!(capabilities_are_as_asked, |t| {
    let table: [(&str, Vec<&str>); 3] = [
        ("--caps-retain=CAP_CHOWN,CAP_KILL", vec!["CAP_CHOWN", "CAP_KILL"]),
        ("--cap-drop=all --cap-add=CAP_NET_RAW", vec!["CAP_NET_RAW"]),
        ("--caps-remove=CAP_MKNOD", DEFAULT.into_iter().filter(|name| *name != "CAP_MKNOD").collect()),
    ];
    for (flags, expected) in table {
        assert_eq!(words(&report(t, flags)["capabilities"]["effective"]), set(&expected), "{flags}");
    }
});

stage_test!(dangerous_system_calls_are_refused_by_default, |t| {
    let report = report(t, "");
    assert_eq!(report["seccomp_mode"], "2");
    let refused = [
        "mount",
        "umount2",
        "pivot_root",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "mount_setattr",
        "unshare-user",
        "clone-user",
        "setns",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "personality-no-randomize",
        "open_by_handle_at",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "acct",
        "settimeofday",
        "clock_settime",
        "syslog",
        "quotactl",
        "vhangup",
        "socket-vsock",
        "ioctl-tiocsti",
        "ioctl-tiocsti-high-bits",
        "ioctl-tioclinux",
    ];
    for name in refused {
        assert_eq!(report["syscalls"][name], "EPERM", "{name}");
    }
    let allowed = [
        ("getpid", "ok"),
        ("read", "EBADF"),
        ("chroot", "EFAULT"),
        ("personality-query", "ok"),
        ("socket-unix", "ok"),
        ("ioctl-other", "EBADF"),
        ("clone3", "ENOSYS"),
        ("unknown", "ENOSYS"),
    ];
    for (name, verdict) in allowed {
        assert_eq!(report["syscalls"][name], verdict, "{name}");
    }
});

stage_test!(a_filter_is_as_asked, |t| {
    assert_eq!(report(t, "--seccomp=unconfined")["seccomp_mode"], "0");
    // SYS_uname is 63, SYS_sysinfo 99.
    let run = |flags: &str| t.pod().app("a", "syscall 63 then syscall 99").with(flags).run();
    run("--seccomp=mode=remove,errno=EOPNOTSUPP,uname").assert_exit(0).assert_stdout("\"EOPNOTSUPP\"\n\"EFAULT\"");
    run("--seccomp=mode=remove,errno=kill,uname").assert_exit(0).assert_stdout("\"killed by 31\"\n\"EFAULT\"");
});

stage_test!(programs_gain_no_privileges_if_asked, |t| {
    assert_eq!(report(t, "--no-new-privs")["no_new_privileges"], true);
    let asked = report(t, "--no-new-privs=false");
    assert_eq!(asked["no_new_privileges"], false);
    // The filter of an app without no_new_privs is in force all the same.
    assert_eq!(asked["seccomp_mode"], "2");
});

stage_test!(namespaces_are_the_pods_own, |t| {
    let report = report(t, "");
    for name in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
        let inside = report["namespaces"][name].as_str().unwrap();
        if t.stage1() == "kvm" {
            // Another kernel counts its namespaces from the same number.
            continue;
        }
        assert!(!inside.is_empty() && inside != host, "{name}: {inside}");
    }
    let processes = report["processes"].as_object().unwrap();
    assert_eq!(processes.len(), 2, "{processes:?}");
    assert_eq!(processes["1"], "stage2");
});

stage_test!(two_apps_share_all_but_mounts_and_cgroup, |t| {
    // One after the other, because a report is longer than what a pipe takes in one piece.
    let pod = t.pod().flag("--volume=v,kind=empty --mount=volume=v,target=/v");
    let pod = pod.app("a", "report then file-write /v/done x").app("b", "file-await /v/done then report").run();
    pod.assert_exit(0);
    let reports: Vec<Value> = pod.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["pid", "ipc", "uts", "net"] {
        assert_eq!(reports[0]["namespaces"][name], reports[1]["namespaces"][name], "{name}");
    }
    for name in ["mnt", "cgroup"] {
        assert_ne!(reports[0]["namespaces"][name], reports[1]["namespaces"][name], "{name}");
    }
});

stage_test!(the_network_is_loopback_only, |t| {
    let report = report(t, "");
    let interfaces = report["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 1, "{interfaces:?}");
    assert_eq!(interfaces[0]["name"], "lo");
    assert_eq!(interfaces[0]["up"], true);
    assert!(interfaces[0]["addresses"].to_string().contains("127.0.0.1"));
});

stage_test!(the_hosts_network_is_shared_if_asked, needs[HostNetwork], |t| {
    let report = t.pod().net("host").app("a", "report").run();
    let host = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(report.assert_exit(0).json()["namespaces"]["net"], host);
});

stage_test!(mounts_have_the_strictest_flags, |t| {
    let report = report(t, "");
    let table: [(&str, &str, &[&str]); 6] = [
        ("/proc", "proc", &["nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
        ("/dev", "tmpfs", &["nosuid"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec"]),
        ("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
    ];
    for (target, kind, flags) in table {
        let mount = mount(&report, target);
        assert_eq!(mount["type"], kind, "{target}");
        let options = words(&mount["options"]);
        assert!(set(flags).is_subset(&options), "{target} has {options:?}");
    }
    for mount in report["mounts"].as_array().unwrap() {
        let propagation = words(&mount["propagation"]);
        assert!(!propagation.iter().any(|word| word.starts_with("shared:")), "{mount}");
        // Nothing of the host's file system shows but what the pod was given.
        assert!(!mount["target"].as_str().unwrap().contains("unreachable"), "{mount}");
    }
});

stage_test!(devices_are_the_standard_ones, |t| {
    let report = report(t, "");
    let devices = report["devices"].as_object().unwrap();
    let table = [
        ("null", "c 1:3"),
        ("zero", "c 1:5"),
        ("full", "c 1:7"),
        ("random", "c 1:8"),
        ("urandom", "c 1:9"),
        ("tty", "c 5:0"),
        ("fd", "-> /proc/self/fd"),
        ("stdin", "-> /proc/self/fd/0"),
        ("stdout", "-> /proc/self/fd/1"),
        ("stderr", "-> /proc/self/fd/2"),
        ("ptmx", "-> pts/ptmx"),
        ("pts", "directory"),
        ("shm", "directory"),
        ("mqueue", "directory"),
    ];
    for (name, kind) in table {
        assert_eq!(devices.get(name).map(|device| &device["kind"]), Some(&json!(kind)), "{name}");
    }
    let known: BTreeSet<&str> = table.iter().map(|(name, _)| *name).chain(["core", "console"]).collect();
    let strangers: Vec<&String> = devices.keys().filter(|name| !known.contains(name.as_str())).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
});

/// Whether a device of a report could be opened somewhere; and that it could not, if it could be made there at all.
fn opened(report: &Value, device: &str) -> Vec<String> {
    let places = report["mknod"][device].as_object().unwrap_or_else(|| panic!("no {device}"));
    assert_eq!(places.len(), 4, "{places:?}");
    places.iter().filter(|(_, verdict)| verdict["open"] == "ok").map(|(place, _)| place.clone()).collect()
}

/// In a guest these are the disk of the first app, the guest's random numbers and its kernel's log.
const OTHERS: [&str; 7] =
    ["c 1:1 mem", "c 1:4 port", "c 1:11 kmsg", "c 10:183 hwrng", "c 10:232 kvm", "b 254:0 disk", "b 7:0 loop"];

stage_test!(other_devices_cannot_be_opened, |t| {
    // Several apps, because of several disks.
    let pod = t.pod().app("a", "report").app("b", "true").run();
    let report = pod.assert_exit(0).json();
    for device in OTHERS {
        let verdict = &report["mknod"][device];
        assert_eq!(verdict["/dev"]["made"], "ok", "{device}: nodes are only names, and can be made");
        assert_eq!(verdict["/dev"]["open"], "EPERM", "{device}");
        assert!(opened(&report, device).is_empty(), "{device}: {verdict}");
    }
    // What the test relies on: a device that is the app's opens, where devices work.
    assert_eq!(opened(&report, "c 1:3 null"), ["/dev"]);
});

// Device nodes work nowhere but in the app's own /dev; a file is masked by a node of that.
stage_test!(mounts_are_nodev_but_dev, |t| {
    let volume = "--mount=volume=v,target=/v --tmpfs=/t";
    let report = t.pod().flag("--volume=v,kind=empty").app("a", "report").with(volume).run().assert_exit(0).json();
    let mounts = report["mounts"].as_array().unwrap();
    let working = mounts.iter().filter(|mount| !words(&mount["options"]).contains("nodev"));
    let (masks, working): (Vec<&Value>, Vec<&Value>) = working.partition(|mount| mount["root"] == "/null");
    let targets: BTreeSet<&str> = working.iter().filter_map(|mount| mount["target"].as_str()).collect();
    assert_eq!(targets, BTreeSet::from(["/dev", "/dev/pts"]));
    let dev = &mount(&report, "/dev")["device"];
    assert!(!masks.is_empty() && masks.iter().all(|mask| mask["device"] == *dev), "{masks:#?}");
    for target in ["/", "/v", "/t", "/etc/hosts", "/dev/shm"] {
        assert!(words(&mount(&report, target)["options"]).contains("nodev"), "{target}");
    }
});

stage_test!(a_given_device_can_be_used, needs[Devices], |t| {
    let with_device = t
        .pod()
        .app("a", "file-try-write /dev/full-copy then report")
        .with("--device=/dev/full:/dev/full-copy:rw")
        .run();
    with_device.assert_exit(0);
    assert!(with_device.stdout.starts_with("ok\n"), "{}", with_device.outcome);
});

stage_test!(only_the_standard_streams_are_open, |t| {
    let report = report(t, "");
    let descriptors: Vec<&String> = report["descriptors"].as_object().unwrap().keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"], "{}", report["descriptors"]);
    assert_eq!(report["descriptors"]["0"], "/dev/null");
});

stage_test!(resource_limits_are_as_asked, |t| {
    let report = report(t, "--rlimit=nofile=100:200 --rlimit=core=0");
    assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!([100, 200]));
    assert_eq!(report["rlimits"]["RLIMIT_CORE"], json!([0, 0]));
});

stage_test!(resource_limits_of_the_caller_are_the_pods, |t| {
    let image = t.probe();
    let pod = t.pod_command(["run", &format!("--stage1={}", t.stage1()), "--net=none", image, "--", "report"]);
    let mut limited = Command::new("prlimit");
    limited.args(["--nofile=300:400", "--core=0:0", "--stack=1048576:2097152", "--"]);
    limited.arg(pod.get_program()).args(pod.get_args());
    limited.envs(pod.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let report = Outcome::of(&mut limited).assert_exit(0).json();
    for (name, limits) in
        [("RLIMIT_NOFILE", [300, 400]), ("RLIMIT_CORE", [0, 0]), ("RLIMIT_STACK", [1_048_576, 2_097_152])]
    {
        assert_eq!(report["rlimits"][name], json!(limits), "{name}");
    }
});

stage_test!(a_root_can_be_read_only, |t| {
    t.pod()
        .app("a", "file-try-create /new then file-try-create /tmp/new")
        .with("--readonly-rootfs")
        .run()
        .assert_exit(0)
        .assert_stdout("EROFS\nEROFS");
    t.pod().app("a", "file-try-create /new then file-exists /new").run().assert_exit(0).assert_stdout("ok\ntrue");
});

stage_test!(what_an_app_writes_to_its_root_stays_in_its_pod, |t| {
    t.pod().app("a", "file-write /srv/from-image changed").run().assert_exit(0);
    t.pod().app("a", "file-read /srv/from-image").run().assert_exit(0).assert_stdout("image content");
});

stage_test!(an_oom_score_is_set, |t| {
    assert_eq!(report(t, "--oom-score-adj=500")["oom_score_adj"], "500");
});

// runc CVE-2019-5736: the runtime's own program, written through /proc/PID/exe. Without CAP_SYS_PTRACE the app does not reach it;
// with that, the mount must refuse. In a machine it is the guest's copy, and the host's file is out of reach.
stage_test!(cve_2019_5736_programs_of_the_host_are_not_writable, |t| {
    let stage2 = tests::executables().join("stage2");
    let before = std::fs::read(&stage2).unwrap();
    let init = |flags: &str| report(t, flags)["init_executable"].clone();
    assert_eq!(init("--user=root")["write"], "EACCES");
    let reached = init("--user=root --cap-add=SYS_PTRACE");
    let expected: &[&str] = if t.stage1() == "kvm" { &["EROFS", "ETXTBSY"] } else { &["EROFS"] };
    assert!(expected.iter().any(|word| reached["write"] == *word), "{reached}");
    assert!(before == std::fs::read(&stage2).unwrap(), "stage2 was changed");
});

/// Where a working directory would lead out of the root, by the name of an image's link: the kernel's own links to what a
/// process has open, and to the roots and directories of others.
fn links_out() -> Vec<(String, String)> {
    let fds = (3..16).map(|fd| (format!("fd-{fd}"), format!("/proc/self/fd/{fd}")));
    let others = ["/proc/self/cwd", "/proc/self/root", "/proc/1/cwd", "/proc/1/root", "/proc/thread-self/fd/4"];
    let others = others.iter().enumerate().map(|(number, target)| (format!("other-{number}"), (*target).to_owned()));
    fds.chain(others).collect()
}

// runc CVE-2024-21626: a working directory that is a leaked fd of the host. stage0 refuses such a path of the user's; links of
// the image and the path of an exec reach stage2, which must refuse them itself.
stage_test!(cve_2024_21626_the_working_directory_is_no_leaked_fd, |t| {
    let links = links_out();
    let layer = tests::probe_layer(&tests::probe_bytes());
    let layer = links.iter().fold(layer, |layer, (name, target)| layer.symlink(name, target));
    let mut recipe = tests::image::Recipe::new([layer]);
    recipe.entrypoint = vec!["/probe".into()];
    let image = t.signed(&recipe, "example.com/links:1").display().to_string();
    // A machine takes seconds to start; there, exec tries them all.
    let tried = if t.stage1() == "kvm" { 1 } else { links.len() };
    for (name, _) in &links[..tried] {
        let pod = t.pod().app_of(&image, "a", "report").with(&format!("--working-dir=/{name}")).run();
        pod.assert_exit(125).assert_stderr_has("working directory");
    }
    let pod = t.pod().app_of(&image, "a", "process-sleep 60").start();
    let exec = |directory: &str| {
        let directory = format!("--working-dir={directory}");
        t.cli(["exec", &directory, &pod.uuid, "--", "/probe", "report"])
    };
    exec("/tmp").assert_ok();
    for (name, target) in &links {
        exec(&format!("/{name}")).assert_refused(125, "working directory");
        exec(target).assert_exit(125);
    }
});

// CVE-2017-5226 and its like: characters pushed into the caller's terminal.
stage_test!(cve_2017_5226_an_app_has_a_session_of_its_own, |t| {
    let report = report(t, "");
    assert_ne!(report["session"], 0, "session of a process outside of the pod");
    assert_eq!(report["session"], report["pid"]);
    assert_eq!(report["syscalls"]["ioctl-tiocsti"], "EPERM");
});

// PID 1 has more capabilities than the app, so tracing it is an escape. What holds today: the app's default capabilities do not
// reach it, and CAP_SYS_PTRACE does, because PID 1 shares the apps' PID namespace.
stage_test!(tracing_the_first_process_takes_sys_ptrace, |t| {
    let seize = |flags: &str| t.pod().app("a", "process-seize 1").with(flags).run();
    seize("").assert_exit(0).assert_stdout("EPERM");
    seize("--user=alice").assert_exit(0).assert_stdout("EPERM");
    seize("--cap-add=SYS_PTRACE").assert_exit(0).assert_stdout("ok");
});

// A session keyring is inherited by fork(2) and execve(2), whatever namespaces are made; the caller's may hold its secrets.
stage_test!(the_callers_keyring_is_not_the_apps, |t| {
    let callers = Outcome::of(t.program("probe").arg("process-keyring"));
    let callers: i64 = callers.assert_exit(0).stdout.trim().parse().expect("this kernel has keyrings");
    // The filter does not allow the question.
    let pod = t.pod().app("a", "process-keyring then process-sleep 60").with("--seccomp=unconfined").start();
    let exec = pod.exec("a", &["/probe", "process-keyring"]);
    assert_ne!(exec.assert_exit(0).stdout.trim(), callers.to_string());
    let pod = t.pod().app("a", "process-keyring").with("--seccomp=unconfined").run();
    assert_ne!(pod.assert_exit(0).stdout.trim(), callers.to_string());
});
