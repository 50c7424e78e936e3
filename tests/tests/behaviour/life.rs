//! The life of a pod without a daemon: states by directory and lock, gc the only cleaner.

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use tests::{Test, stage_test};

/// The entry of one pod in `pod list`, wherever the UUID stands in it.
fn listed(t: &Test, uuid: &str) -> Option<Value> {
    let pods = t.cli(["list", "--format=json"]);
    let pods = pods.assert_exit(0).json();
    let pods = pods.as_array().expect("a list of pods").clone();
    pods.into_iter().find(|pod| pod.as_object().is_some_and(|pod| pod.values().any(|value| value == uuid)))
}

fn state(t: &Test, uuid: &str) -> String {
    listed(t, uuid).map_or_else(|| "absent".to_owned(), |pod| pod["state"].as_str().unwrap_or("?").to_owned())
}

stage_test!(a_pod_is_running_then_exited_then_gone, |t| {
    let mut pod = t.pod().app("a", "process-sleep 60").start();
    assert_eq!(state(t, &pod.uuid), "running");
    pod.stop();
    assert_eq!(state(t, &pod.uuid), "exited");
    t.cli(["gc", "--grace-period=1h"]).assert_exit(0);
    assert_eq!(state(t, &pod.uuid), "exited-garbage");
    t.cli(["gc", "--grace-period=0s"]).assert_exit(0);
    assert_eq!(state(t, &pod.uuid), "absent");
});

stage_test!(a_prepared_pod_runs_later, |t| {
    let uuid = t.pod().app("a", "print prepared").prepare();
    assert_eq!(state(t, &uuid), "prepared");
    t.cli(["run-prepared", "--net=none", &uuid]).assert_exit(0).assert_stdout("prepared");
    assert_eq!(state(t, &uuid), "exited");
    t.cli(["run-prepared", "--net=none", &uuid]).assert_refused(125, &uuid[..8]);
});

stage_test!(a_pod_is_named_by_prefix_and_by_name, |t| {
    let mut pod = t.pod().flag("--name=web").app("a", "process-sleep 60").start();
    for name in [&pod.uuid, &pod.uuid[..8], "web"] {
        let status = t.cli(["status", "--format=json", name]);
        assert_eq!(status.assert_exit(0).json()["state"], "running", "{name}");
        let manifest = t.cli(["cat-manifest", name]);
        assert_eq!(manifest.assert_exit(0).json()["uuid"], pod.uuid.as_str(), "{name}");
    }
    let second = t.pod().flag("--name=web").app("a", "true").run();
    second.assert_refused(125, "`web`");
    pod.stop();
    // The name is free again.
    t.pod().flag("--name=web").app("a", "true").run().assert_exit(0);
});

stage_test!(no_pod_and_several_pods_are_said, |t| {
    for verb in ["status", "stop", "rm", "cat-manifest"] {
        t.cli([verb, "0000"]).assert_refused(125, "0000");
        t.cli([verb, "no-such-name"]).assert_refused(125, "no-such-name");
    }
});

stage_test!(stop_ends_a_pod_and_rm_removes_it, |t| {
    let mut pod = t.pod().app("a", "process-trap 15 then print ready then process-await-signal 15").start();
    pod.await_line("ready");
    t.cli(["rm", &pod.uuid]).assert_refused(125, "running");
    t.cli(["stop", &pod.uuid]).assert_exit(0);
    pod.wait().assert_exit(0);
    t.cli(["stop", &pod.uuid]).assert_exit(0);
    t.cli(["rm", &pod.uuid]).assert_exit(0);
    assert_eq!(state(t, &pod.uuid), "absent");
});

stage_test!(a_forced_stop_does_not_wait, |t| {
    let mut pod = t.pod().app("a", "process-trap 15 then print ready then process-sleep 60").start();
    pod.await_line("ready");
    t.cli(["stop", "--force", &pod.uuid]).assert_exit(0);
    pod.wait().assert_exit(137);
});

stage_test!(a_running_pod_is_not_collected, |t| {
    let mut pod =
        t.pod().app("a", "process-trap 15 then print ready then process-await-signal 15 then print end").start();
    pod.await_line("ready");
    t.cli(["gc", "--grace-period=0s", "--expire-prepared=0s"]).assert_exit(0);
    assert_eq!(state(t, &pod.uuid), "running");
    pod.stop().assert_exit(0).assert_stdout("signal 15\nend");
});

stage_test!(the_death_of_the_supervisor_is_the_death_of_the_pod, |t| {
    let mut pod = t.pod().app("a", "process-sleep 60").app("b", "process-fork 3 then process-sleep 60").start();
    pod.signal(Signal::KILL);
    pod.wait().assert_exit(137);
    assert_eq!(state(t, &pod.uuid), "exited");
    // `finish` looks for what may be left.
});

stage_test!(status_tells_how_apps_ended, |t| {
    let pod = t.pod().app("good", "exit 0").app("bad", "process-sleep 0.2 then exit 7").run();
    pod.assert_exit(7);
    let status = t.cli(["status", "--format=json", &pod.uuid]);
    let status = status.assert_exit(0).json();
    assert_eq!(status["state"], "exited");
    let text = status.to_string();
    assert!(text.contains("good") && text.contains("bad") && text.contains('7'), "{text}");
});

stage_test!(exec_confines_as_the_app, |t| {
    let pod = t.pod().app("a", "process-sleep 60").with("--user=alice --memory=64M --caps-retain=CAP_CHOWN").start();
    let report = pod.exec("a", &["/probe", "report"]);
    let inside = report.assert_exit(0).json();
    assert_eq!(inside["uid"][0], 1000);
    assert_eq!(inside["gid"][0], 1000);
    assert_eq!(inside["capabilities"]["bounding"], serde_json::json!(["CAP_CHOWN"]));
    assert_eq!(inside["seccomp_mode"], "2");
    assert_eq!(inside["syscalls"]["mount"], "EPERM");
    assert_eq!(inside["hostname"].as_str().unwrap()[..4], *"pod-");
    let descriptors: Vec<&String> = inside["descriptors"].as_object().unwrap().keys().collect();
    assert_eq!(descriptors, ["0", "1", "2"]);
    assert!(inside["environment"].to_string().contains("FROM_IMAGE"));
    // The limit of the app holds for what exec starts, too.
    pod.exec("a", &["/probe", "process-memory", "100"]).assert_exit(137);
    pod.exec("a", &["/probe", "exit", "42"]).assert_exit(42);
    pod.exec("a", &["/no/such/program"]).assert_exit(127);
    pod.exec("a", &["/etc/passwd"]).assert_exit(126);
    pod.exec("b", &["/probe"]).assert_refused(125, "`b`");
});

stage_test!(exec_needs_a_running_pod, |t| {
    let pod = t.pod().app("a", "true").run();
    t.cli(["exec", &pod.uuid, "--", "/probe"]).assert_refused(125, "running");
});

stage_test!(a_pod_directory_is_for_root_only, |t| {
    use std::os::unix::fs::PermissionsExt;
    let pod = t.pod().app("a", "process-sleep 60").start();
    let mode = fs::metadata(t.pod_directory(&pod.uuid)).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let socket = t.pod_directory(&pod.uuid).join("control.sock");
    assert!(socket.exists());
});

stage_test!(what_a_stage1_does_not_declare_is_refused, |t| {
    // A stage1 of a third party that can do nothing.
    let file = t.path("stage1-nothing.json");
    let declaration = serde_json::json!({
        "versions": [1], "name": "nothing", "features": [], "root": "tree", "entrypoints": { "run": ["nothing"] }
    });
    fs::write(&file, declaration.to_string()).unwrap();
    let image = t.probe();
    let outcome = t.cli(["run", &format!("--stage1={}", file.display()), "--net=none", image, "--", "true"]);
    outcome.assert_refused(125, "capabilities");
    assert!(t.cli(["list", "--format=json"]).json().as_array().unwrap().iter().all(|pod| pod["state"] != "running"));
});
