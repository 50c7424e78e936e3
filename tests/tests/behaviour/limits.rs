//! Limits of memory, processes and CPU time, of an app and of the whole pod.

use contract::status::AppEnd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tests::stage_test;

stage_test!(memory_is_limited_where_it_says, |t| {
    t.pod().app("a", "process-memory 40").with("--memory=64M").run().assert_exit(0).assert_stdout("used 40");
    let pod = t.pod().app("a", "process-memory 100").with("--memory=64M").run();
    pod.assert_exit(137);
    assert_eq!(pod.status("a").end, Some(AppEnd::Signal(9)));
});

stage_test!(memory_of_the_pod_is_limited_over_all_apps, |t| {
    let pod = t.pod().flag("--memory=96M").app("a", "process-memory 70 then process-sleep 30");
    let pod = pod.app("b", "process-sleep 0.3 then process-memory 70 then process-sleep 30").run();
    pod.assert_exit(137);
});

stage_test!(processes_are_limited, |t| {
    let pod = t.pod().app("a", "process-fork 50").with("--pids=10").run();
    pod.assert_exit(0);
    let forked: u32 = pod.stdout.trim().trim_start_matches("forked ").parse().unwrap();
    assert!((5..10).contains(&forked), "{forked}");
    t.pod().app("a", "process-fork 50").with("--pids=100").run().assert_exit(0).assert_stdout("forked 50");
});

stage_test!(cpu_time_is_limited, |t| {
    let pod = t.pod().app("a", "process-burn 1.5").with("--cpu=250m").run();
    pod.assert_exit(0);
    let percent: u32 = pod.stdout.trim().trim_start_matches("percent ").parse().unwrap();
    // The clock of an emulated machine, as the testbed and a microVM without KVM are, is coarse beside its CPU.
    let percent_max = if t.stage1() == "kvm" { 60 } else { 45 };
    assert!((5..=percent_max).contains(&percent), "{percent} % of a CPU instead of 25");
});

/// On the host, so in namespaces only: in a machine the app's cgroup is the guest's.
#[test]
fn the_limits_stand_in_the_cgroup_of_the_app() {
    tests::on_stage("namespaces", "limits-in-cgroup", limits_in_cgroup);
}

fn limits_in_cgroup(t: &tests::Test) {
    let pod = t.pod().app("a", "process-sleep 60").with("--memory=64M --pids=33 --cpu-shares=512").start();
    let host: contract::host::Host =
        serde_json::from_slice(&std::fs::read(t.pod_directory(&pod.uuid).join("host.json")).unwrap()).unwrap();
    let directories = host.app_cgroups.values().flatten();
    let mut found = std::collections::BTreeMap::new();
    for directory in directories {
        for file in ["memory.limit_in_bytes", "memory.max", "pids.max", "cpu.shares", "cpu.weight"] {
            if let Ok(text) = std::fs::read_to_string(directory.join(file)) {
                found.insert(file, text.trim().to_owned());
            }
        }
    }
    let memory = found.get("memory.max").or(found.get("memory.limit_in_bytes")).map(String::as_str);
    assert_eq!(memory, Some("67108864"), "{found:?}");
    assert_eq!(found.get("pids.max").map(String::as_str), Some("33"), "{found:?}");
    assert!(found.get("cpu.shares").is_none_or(|shares| shares == "512"), "{found:?}");
}

/// Only cgroup v2 limits I/O; where it has no `io`, a pod that asks for it is refused.
#[test]
fn io_is_limited_or_refused() {
    tests::on_stage("namespaces", "limits-of-io", |t| {
        let names = std::fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort_by_key(|name| name.starts_with("loop"));
        let device = Path::new("/dev").join(names.first().expect("a machine has a disk"));
        let flag = format!("--io-write-bps={}=1M", device.display());
        let pod = t.pod().app("a", "process-sleep 60").with(&flag);
        let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        if !controllers.split_whitespace().any(|name| name == "io") {
            pod.run().assert_refused(125, "the cgroup controller `io` is not there");
            return;
        }
        let pod = pod.start();
        let host = std::fs::read(t.pod_directory(&pod.uuid).join("host.json")).unwrap();
        let host: contract::host::Host = serde_json::from_slice(&host).unwrap();
        let number = std::fs::metadata(&device).unwrap().rdev();
        let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        let limits: Vec<String> = host
            .app_cgroups
            .values()
            .flatten()
            .map(|path| path.join("io.max"))
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        assert_eq!(limits, [format!("{number} rbps=max wbps=1048576 riops=max wiops=max\n")]);
    });
}
