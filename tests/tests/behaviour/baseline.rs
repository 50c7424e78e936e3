//! What every pod relies on, whatever its stage1: one that forgets a part of it is refused, or noticed.

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tests::image::{Layer, Recipe};
use tests::{Outcome, Test, confined, executables, on_stage};

const BASELINE: [&str; 4] = ["device-confinement", "own-hostname", "pid-isolation", "private-ipc"];

/// A stage1 of a third party: that in namespaces under another name, without some features, and with other entrypoints.
fn stage1(t: &Test, without: &[&str], entrypoints: &Value) -> PathBuf {
    let directory = t.path("fly");
    fs::create_dir_all(&directory).unwrap();
    for program in ["stage1-namespaces", "stage2", "stranger"] {
        if !directory.join(program).exists() {
            fs::copy(executables().join(program), directory.join(program)).unwrap();
        }
    }
    let text = fs::read(executables().join("stage1-namespaces.json")).unwrap();
    let mut declaration: Value = serde_json::from_slice(&text).unwrap();
    declaration["name"] = json!("fly");
    let features = declaration["features"].as_array_mut().unwrap();
    features.retain(|feature| !without.contains(&feature.as_str().unwrap()));
    declaration["entrypoints"] = entrypoints.clone();
    fs::write(directory.join("stage1.json"), declaration.to_string()).unwrap();
    directory
}

fn usual() -> Value {
    json!({ "run": ["stage1-namespaces", "run"] })
}

/// `pod [FLAGS] run` of one app of the probe, on a stage1 of the test's own.
fn run(t: &Test, globals: &[&str], stage1: &str, app: &[&str], words: &[&str]) -> Outcome {
    let image = t.probe();
    let flag = format!("--stage1={stage1}");
    t.cli([globals, &["run", &flag, "--net=none", image], app, &["--"], words].concat())
}

/// A pod that has ended on this stage1.
fn ended(t: &Test, stage1: &str) -> String {
    let file = t.path("uuid");
    let image = t.probe();
    let save = format!("--uuid-file-save={}", file.display());
    t.cli(["run", &save, &format!("--stage1={stage1}"), "--net=none", image, "--", "true"]).assert_exit(0);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

fn gc(t: &Test) -> Outcome {
    Outcome::of_at_most(&mut t.pod_command(["gc", "--grace-period=0s"]), Duration::from_secs(90))
}

fn on_namespaces(name: &str, body: fn(&Test)) {
    on_stage("namespaces", name, body);
}

#[test]
fn a_forgetful_stage1_is_refused_before_the_start() {
    on_namespaces("forgetful", |t| {
        for feature in BASELINE {
            let stage1 = stage1(t, &[feature], &usual()).display().to_string();
            let refused = run(t, &[], &stage1, &[], &["true"]);
            refused.assert_refused(125, &format!("stage1 `fly` cannot do what this pod needs: {feature}\n"));
            refused.assert_stderr_has("--insecure-options=isolation");
            run(t, &["--insecure-options=paths"], &stage1, &[], &["true"]).assert_refused(125, feature);
        }
        assert!(t.uuids().is_empty(), "a pod was made");
        let all = stage1(t, &BASELINE, &usual()).display().to_string();
        run(t, &[], &all, &[], &["true"]).assert_refused(125, &BASELINE.join(", "));
    });
}

#[test]
fn what_is_waived_is_said_and_shown() {
    on_namespaces("waived", |t| {
        let stage1 = stage1(t, &["pid-isolation", "private-ipc"], &usual()).display().to_string();
        let line = "pod: the pod runs without what stage1 `fly` does not give: pid-isolation, private-ipc\n";
        for option in ["isolation", "all-run"] {
            let waived = run(t, &[&format!("--insecure-options={option}")], &stage1, &[], &["print", "ran"]);
            waived.assert_exit(0).assert_stdout("ran");
            assert!(waived.stderr.starts_with(line), "{waived}");
            assert_eq!(waived.stderr == line, option == "isolation", "{waived}");
        }
        let list = t.cli(["list"]).assert_exit(0).stdout.clone();
        assert_eq!(list.matches("(insecure)").count(), 2, "{list}");
        let uuid = t.uuids()[0].clone();
        t.cli(["status", &uuid])
            .assert_exit(0)
            .stdout
            .lines()
            .find(|line| *line == "waived=pid-isolation, private-ipc")
            .unwrap();
        let status = t.cli(["status", "--format=json", &uuid]).assert_exit(0).json();
        assert_eq!(status["waived"], json!(["pid-isolation", "private-ipc"]));
        // A pod on a stage1 that lacks nothing is like any other.
        let whole = run(t, &["--insecure-options=isolation"], "namespaces", &[], &["true"]);
        assert_eq!(whole.assert_exit(0).stderr, "", "{whole}");
        assert_eq!(t.cli(["list"]).stdout.matches("(insecure)").count(), 2);
    });
}

#[test]
fn a_prepared_pod_is_held_to_the_baseline_again() {
    on_namespaces("prepared", |t| {
        let path = stage1(t, &[], &usual()).display().to_string();
        let flag = format!("--stage1={path}");
        let image = t.probe();
        let uuid = t.cli(["prepare", &flag, image, "--", "true"]).assert_exit(0).stdout.trim().to_owned();
        stage1(t, &["own-hostname"], &usual());
        t.cli(["run-prepared", &uuid]).assert_refused(125, "cannot do what this pod needs: own-hostname");
        let waived = t.cli(["--insecure-options=isolation", "prepare", &flag, image, "--", "true"]);
        waived.assert_exit(0).assert_stderr_has("does not give: own-hostname");
        t.cli(["run-prepared", waived.stdout.trim()]).assert_exit(0).assert_stderr_has("does not give: own-hostname");
    });
}

#[test]
fn an_app_that_nothing_keeps_from_devices_does_not_start() {
    on_namespaces("no-cgroups", |t| {
        let forgetful = json!({ "run": ["stranger", "run-without-cgroups"] });
        let path = stage1(t, &[], &forgetful).display().to_string();
        let refused = run(t, &[], &path, &[], &["print", "ran"]);
        refused.assert_exit(125).assert_stdout("");
        refused.assert_stderr_has("neither a device cgroup nor a user namespace keeps it from devices\nhint: ");
        run(t, &[], &path, &["--cap-drop=MKNOD", "--cap-add=SYS_ADMIN"], &["true"]).assert_exit(125);
        // Without the means to make a node none is needed; and a user namespace is as good.
        let without = run(t, &[], &path, &["--cap-drop=MKNOD"], &["report"]).assert_exit(0).json();
        assert_eq!(without["mknod"]["c 1:11 kmsg"]["/dev"], json!({ "made": "EPERM", "open": "absent" }));
        let image = t.probe();
        let users = ["run", &format!("--stage1={path}"), "--net=none", "--private-users", image, "--", "report"];
        let users = t.cli(users).assert_exit(0).json();
        assert_eq!(users["mknod"]["c 1:11 kmsg"]["/dev"], json!({ "made": "EPERM", "open": "absent" }));
        // The user can give it up where the stage1 says that it does not do it.
        stage1(t, &["device-confinement"], &forgetful);
        let waived = run(t, &["--insecure-options=isolation"], &path, &[], &["report"]).assert_exit(0).json();
        let verdict = &waived["mknod"]["b 7:0 loop"]["/dev"];
        assert!(verdict["made"] == "ok" && verdict["open"] != "EPERM", "{verdict}");
    });
}

#[test]
fn where_no_cgroup_can_be_made_an_app_cannot_make_nodes() {
    on_namespaces("read-only", |t| {
        t.probe();
        confined::with_read_only_cgroups(|| {
            let image = t.probe();
            let pod = |words: &[&str]| t.cli([&["run", "--net=none", image], words, &["--", "report"]].concat());
            let plain = pod(&[]);
            let said: Vec<&str> = plain.stderr.lines().collect();
            assert_eq!(said.len(), 1, "{plain}");
            assert!(
                said[0].starts_with("pod: app `probe` runs without CAP_MKNOD, to be kept from devices: "),
                "{plain}"
            );
            let report = plain.assert_exit(0).json();
            assert!(!report["capabilities"]["bounding"].to_string().contains("CAP_MKNOD"), "{plain}");
            for (device, places) in report["mknod"].as_object().unwrap() {
                for (place, verdict) in places.as_object().unwrap() {
                    assert_eq!(verdict["made"], "EPERM", "{device} in {place}");
                }
            }
            // Who gave the capability up is told nothing; in a user namespace nothing is taken.
            assert_eq!(pod(&["--cap-drop=MKNOD"]).assert_exit(0).stderr, "");
            pod(&["--cap-add=SYS_ADMIN"]).assert_refused(125, "CAP_SYS_ADMIN and cannot be kept from devices");
            pod(&["--device=/dev/full:/dev/f:r"]).assert_refused(125, "only a part of the access to device `/dev/f`");
            pod(&["--device=/dev/full:/dev/f:rw"]).assert_exit(0);
            let prepared = t.cli(["prepare", image, "--", "report"]);
            prepared.assert_exit(0).assert_stderr_has("without CAP_MKNOD");
            assert_eq!(t.cli(["run-prepared", prepared.stdout.trim()]).assert_exit(0).stderr, "");
        });
        // One that was prepared where a cgroup could be made, and is run where none can.
        let image = t.probe();
        let prepared = t.cli(["prepare", image, "--", "report"]).assert_exit(0).stdout.trim().to_owned();
        confined::with_read_only_cgroups(|| {
            let ran = t.cli(["run-prepared", &prepared]);
            ran.assert_exit(0).assert_stderr_has("without CAP_MKNOD");
            assert_eq!(ran.json()["mknod"]["c 1:11 kmsg"]["/dev"]["made"], "EPERM");
            let manifest = t.cli(["cat-manifest", &prepared]).assert_exit(0).stdout.clone();
            assert!(!manifest.contains("CAP_MKNOD"), "{manifest}");
        });
    });
}

#[test]
fn the_programs_of_a_stage1_lie_beside_it() {
    on_namespaces("programs", |t| {
        let refused = |path: &str, run_words: Value, text: &str| {
            stage1(t, &[], &json!({ "run": run_words }));
            run(t, &[], path, &[], &["true"]).assert_refused(125, text);
        };
        let directory = stage1(t, &[], &usual());
        std::os::unix::fs::symlink("/bin/echo", directory.join("link")).unwrap();
        let path = directory.display().to_string();
        refused(&path, json!(["/bin/echo"]), "`/bin/echo` of a stage1 is not a path below");
        refused(&path, json!(["../../../../../bin/echo"]), "is not a path below");
        refused(&path, json!(["link"]), "`link` of a stage1 is a link");
        refused(&path, json!(["gone"]), "open the program `gone`");
    });
}

#[test]
fn the_programs_of_a_stage1_image_stay_inside() {
    on_namespaces("image", |t| {
        let text = fs::read_to_string(executables().join("stage1-namespaces.json")).unwrap();
        let declared = |entry: &str| {
            let mut declaration: Value = serde_json::from_str(&text).unwrap();
            declaration["entrypoints"] = json!({ "run": [entry] });
            declaration.to_string()
        };
        let refused = |name: &str, layer: Layer, text: &str| {
            let layer = layer.symlink("link", "/bin/echo").symlink("linked", "/bin");
            let file = t.convert(&Recipe::new([layer]), &format!("example.com/{name}:1")).display().to_string();
            run(t, &["--insecure-options=image"], &file, &[], &["true"]).assert_refused(125, text);
        };
        for (name, entry, text) in [
            ("absolute", "/bin/echo", "is not a path below"),
            ("parent", "../../../../../../../../bin/echo", "is not a path below"),
            ("link", "link", "is a link"),
            ("linked", "linked/echo", "is a link"),
        ] {
            refused(name, Layer::new().file("stage1.json", 0o644, declared(entry).as_bytes()), text);
        }
        let file = Layer::new().file("there.json", 0o644, declared("link").as_bytes());
        refused("declaration", file.symlink("stage1.json", "there.json"), "`/stage1.json` of image");
    });
}

#[test]
fn a_stage1_without_exec_is_not_asked_to() {
    on_namespaces("exec", |t| {
        let path = stage1(t, &["exec"], &usual()).display().to_string();
        let mut pod = t.pod().flag(&format!("--stage1={path}")).app("a", "process-sleep 100").start();
        pod.exec("a", &["/probe", "true"]).assert_refused(125, "stage1 `fly` cannot do what this command needs: exec");
        stage1(t, &[], &usual());
        pod.exec("a", &["/probe", "true"]).assert_exit(0);
        pod.stop();
    });
}

#[test]
fn a_gc_without_an_end_is_killed_and_the_pod_stays() {
    on_namespaces("gc-forever", |t| {
        let hangs = json!({ "run": ["stage1-namespaces", "run"], "gc": ["stranger", "gc-forever"] });
        let path = stage1(t, &[], &hangs).display().to_string();
        let (stuck, other) = (ended(t, &path), ended(t, "namespaces"));
        let collected = gc(t);
        collected.assert_refused(125, &format!("pod `{stuck}`: "));
        collected.assert_stderr_has("stranger` took longer than 30 s for its `gc` and was killed");
        assert_eq!(collected.stdout.trim(), other, "{collected}");
        assert_eq!(t.cli(["status", "--format=json", &stuck]).json()["state"], "exited-garbage");
        let alive: Vec<String> = t.leftovers(&[]).into_iter().filter(|left| left.starts_with("process")).collect();
        assert!(alive.is_empty(), "{alive:?}");
        stage1(t, &[], &usual());
        assert_eq!(gc(t).assert_exit(0).stdout.trim(), stuck);
    });
}

#[test]
fn a_stage1_that_is_gone_keeps_what_only_it_can_release() {
    on_namespaces("gone", |t| {
        let collects = json!({ "run": ["stage1-namespaces", "run"], "gc": ["missing"] });
        let directory = stage1(t, &[], &collects);
        let path = directory.display().to_string();
        let (kept, other) = (ended(t, &path), ended(t, "namespaces"));
        gc(t).assert_refused(125, "open the program `missing`").assert_stdout(&other);
        let file = directory.join("stage1.json");
        let away = directory.join("away.json");
        fs::rename(&file, &away).unwrap();
        let collected = gc(t);
        collected.assert_refused(125, &format!("pod `{kept}`: stage1 `{}` is gone", file.display()));
        t.cli(["rm", &kept]).assert_refused(125, "is gone");
        assert_eq!(t.cli(["status", "--format=json", &kept]).json()["state"], "exited-garbage");
        // One that has nothing to release is not missed.
        fs::rename(&away, &file).unwrap();
        stage1(t, &[], &usual());
        let plain = ended(t, &path);
        fs::remove_file(&file).unwrap();
        gc(t).assert_refused(125, "is gone").assert_stdout(&plain);
        stage1(t, &[], &usual());
        gc(t).assert_exit(0).assert_stdout(&kept);
    });
}
