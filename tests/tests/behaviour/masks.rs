//! Paths of the kernel that are hidden or read-only in every app. The lists stand here a second time, written from what moby,
//! podman and rkt hide, so that a path which is dropped from the program's own list is missed.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use tests::{Outcome, Test, stage_test};

/// moby, podman, and what only rkt or this project hides, in this order.
const HIDDEN: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/dev/block",
    "/sys/fs/selinux",
    "/proc/config.gz",
    "/proc/kallsyms",
    "/proc/kmem",
    "/proc/mem",
    "/sys/fs/bpf",
    "/sys/fs/fuse",
    "/sys/fs/pstore",
    "/sys/hypervisor",
    "/sys/kernel/security",
    "/sys/module",
    "/sys/power",
];

const PROTECTED: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `/sys/devices/system/cpu/cpuN/thermal_throttle` of this machine, if its CPUs have it (GHSA-6fw5-f8r9-fgfm).
fn thermal() -> Vec<String> {
    let cpus =
        fs::read_dir("/sys/devices/system/cpu").unwrap().flatten().map(|cpu| cpu.path().join("thermal_throttle"));
    cpus.filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
}

/// How `paths` look from an app that is run with `options`.
fn look(t: &Test, options: &[&str], paths: &[&str]) -> Value {
    let image = t.probe();
    let stage1 = format!("--stage1={}", t.stage1());
    let words = [options, &["run", &stage1, "--net=none", image, "--", "file-look"], paths].concat();
    t.cli(words).assert_exit(0).json()
}

fn manifest_of(t: &Test, ran: &Outcome) -> Value {
    assert_eq!(ran.code, 0, "{ran}");
    let uuids = t.uuids();
    t.cli(["cat-manifest", uuids.first().expect("a pod")]).assert_exit(0).json()
}

fn strings(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

// Not each kernel has each path, so what the stage1 is told is looked at as well.
stage_test!(every_path_that_others_hide_is_hidden, |t| {
    let image = t.probe();
    let prepared = t.cli(["prepare", &format!("--stage1={}", t.stage1()), image, "--", "true"]);
    let app = &manifest_of(t, &prepared)["apps"][0];
    let (masked, read_only) = (strings(&app["masked_paths"]), strings(&app["read_only_paths"]));
    let hidden = HIDDEN.iter().map(|path| (*path).to_owned()).chain(thermal());
    let forgotten: Vec<String> = hidden.filter(|path| !masked.contains(path)).collect();
    assert!(forgotten.is_empty(), "not hidden: {forgotten:?}");
    let forgotten: Vec<&&str> = PROTECTED.iter().filter(|path| !read_only.contains(**path)).collect();
    assert!(forgotten.is_empty(), "not read-only: {forgotten:?}");
});

stage_test!(masked_paths_show_nothing_and_take_nothing, |t| {
    let thermal = thermal();
    let paths: Vec<&str> = HIDDEN.iter().copied().chain(thermal.iter().map(String::as_str)).collect();
    let open = look(t, &["--insecure-options=paths"], &paths);
    let masked = look(t, &[], &paths);
    let mut shown = 0;
    for path in paths {
        let (open, look) = (&open[path], &masked[path]);
        assert_eq!(open == "absent", look == "absent", "{path}: {look}");
        if look == "absent" {
            continue;
        }
        let empty = if look["kind"] == "directory" {
            look["entries"] == 0 && look["write"] == "EROFS"
        } else {
            look["read"] == "empty"
        };
        assert!(empty, "{path}: {look}");
        shown += usize::from(open != look);
    }
    // Else this kernel has nothing to hide, and the test would prove nothing.
    assert!(shown >= 5, "only {shown} paths differ: {open}");
});

stage_test!(protected_paths_take_nothing, |t| {
    let paths = [PROTECTED, &["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/sys/fs/cgroup"]].concat();
    let report = t.pod().app("a", "report").run();
    let report = report.assert_exit(0).json();
    let looks = look(t, &[], &paths);
    for path in &paths {
        let look = &looks[path];
        // A kernel may be built without it. A name that procfs does not know cannot be made anywhere.
        let refused = ["EROFS", "ENOENT", "EPERM"].iter().any(|word| look["write"] == *word);
        assert!(look == "absent" || refused, "{path}: {look}");
        if look["kind"] == "file" {
            assert_eq!(look["write"], "EROFS", "{path}: {look}");
        }
    }
    for path in PROTECTED.iter().filter(|path| looks[**path] != "absent") {
        let mounts = report["mounts"].as_array().expect("a list of mounts");
        let mount = mounts.iter().rfind(|mount| mount["target"] == *path);
        let mount = mount.unwrap_or_else(|| panic!("nothing is mounted on {path}"));
        assert!(strings(&mount["options"]).contains("ro"), "{mount}");
    }
});
