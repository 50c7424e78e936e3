//! An image can only narrow its confinement: what it asks for beyond the defaults needs a flag of the user, or the word of the
//! trust rule that accepted its signature.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tests::image::Layer;
use tests::{Key, Outcome, Test, probe_bytes, probe_recipe, stage_test};

/// An `.aci` with the probe in it and these isolators.
fn aci(t: &Test, name: &str, isolators: &Value) -> PathBuf {
    let arch = if cfg!(target_arch = "aarch64") { "aarch64" } else { "amd64" };
    let wide = "CAP_SYS_ADMIN CAP_SYS_PTRACE seccomp=unconfined --cap-add=all";
    let manifest = json!({
        "acKind": "ImageManifest", "acVersion": "0.8.11", "name": format!("example.com/{name}"),
        "labels": [{ "name": "version", "value": "1" }, { "name": "os", "value": "linux" },
                   { "name": "arch", "value": arch }, { "name": "capabilities", "value": "SYS_ADMIN" }],
        "annotations": [{ "name": "io.podman.annotations.privileged", "value": "TRUE" },
                        { "name": "io.podman.annotations.seccomp", "value": "unconfined" },
                        { "name": "run.oci.keep_original_groups", "value": wide }],
        "app": { "exec": ["/probe"], "user": "0", "group": "0", "isolators": isolators },
    });
    let archive = Layer::new()
        .file("manifest", 0o644, manifest.to_string().as_bytes())
        .directory("rootfs", 0o755)
        .file("rootfs/probe", 0o755, &probe_bytes());
    let file = t.path(&format!("{name}.aci"));
    fs::write(&file, archive.tar()).unwrap();
    file
}

/// The same as a native image, signed by a key that is trusted for its name.
fn signed(t: &Test, name: &str, isolators: &Value) -> (PathBuf, Key) {
    let file = t.path(&format!("{name}.pod"));
    let of = aci(t, name, isolators);
    let full = format!("example.com/{name}:1");
    t.tools(["convert", &of.display().to_string(), &file.display().to_string(), "--name", &full]).assert_ok();
    let key = t.key(name);
    t.sign(&file, &key);
    t.trust(&format!("example.com/{name}"), &key);
    (file, key)
}

fn run(t: &Test, image: &Path, globals: &[&str], flags: &[&str]) -> Outcome {
    let (stage1, image) = (format!("--stage1={}", t.stage1()), image.display().to_string());
    let words = [globals, &["run", &stage1, "--net=none", &image], flags, &["--", "report"]].concat();
    t.cli(words)
}

fn bounding(report: &Value) -> Vec<String> {
    let sets = report["capabilities"]["bounding"].as_array().expect("a list");
    sets.iter().map(|name| name.as_str().expect("a name").to_ascii_uppercase()).collect()
}

fn capabilities(names: &[&str]) -> Value {
    json!([{ "name": "os/linux/capabilities-retain-set", "value": { "set": names } }])
}

stage_test!(an_image_does_not_widen_its_capabilities, |t| {
    let (image, _) = signed(t, "wide", &capabilities(&["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_KILL"]));
    let refused = run(t, &image, &[], &[]);
    refused.assert_refused(125, "the image asks for CAP_NET_ADMIN, CAP_SYS_ADMIN, which is more than the default");
    refused.assert_stderr_has("`--cap-add=NET_ADMIN,SYS_ADMIN`");
    let allow = "pod trust allow --prefix example.com/wide cap:NET_ADMIN cap:SYS_ADMIN";
    refused.assert_stderr_has(allow);
    assert!(t.uuids().is_empty(), "a pod was made");
    // The user's flag, for one run; it stands on stderr what the app has.
    let ran = run(t, &image, &[], &["--cap-add=NET_ADMIN,SYS_ADMIN"]);
    ran.assert_exit(0)
        .assert_stderr_has("app `wide` has more than the default: CAP_NET_ADMIN (flag), CAP_SYS_ADMIN (flag)");
    assert_eq!(bounding(&ran.json()).len(), 3);
    run(t, &image, &[], &[]).assert_exit(125);
    // The hint, pasted.
    t.cli(allow.split_whitespace().skip(1)).assert_ok();
    let ran = run(t, &image, &[], &[]);
    let mut names = bounding(&ran.assert_exit(0).json());
    names.iter_mut().for_each(|name| *name = name.trim_start_matches("CAP_").to_owned());
    names.sort();
    assert_eq!(names, ["KILL", "NET_ADMIN", "SYS_ADMIN"]);
    ran.assert_stderr_has("CAP_NET_ADMIN (rule example.com/wide), CAP_SYS_ADMIN (rule example.com/wide)");
    let status = t.cli(["status", "--format=json", &t.uuids()[0]]);
    assert!(status.stdout.contains("CAP_SYS_ADMIN"), "{status}");
    t.cli(["list"]).assert_stdout_has("(more than the default)");
    t.cli(["trust", "show", "example.com/wide"]).assert_stdout_has("allows cap:NET_ADMIN cap:SYS_ADMIN");
    // Taken back.
    t.cli(["trust", "allow", "--take-back", "--prefix", "example.com/wide", "cap:SYS_ADMIN"]).assert_ok();
    run(t, &image, &[], &[]).assert_refused(125, "the image asks for CAP_NET_ADMIN, CAP_SYS_ADMIN");
});

stage_test!(what_a_rule_allows_is_for_signed_images, |t| {
    let isolators = capabilities(&["CAP_NET_ADMIN"]);
    let (image, _) = signed(t, "vpn", &isolators);
    t.cli(["trust", "allow", "--prefix", "example.com/vpn", "cap:NET_ADMIN"]).assert_ok();
    run(t, &image, &[], &[]).assert_exit(0);
    // The same image, let in by the user and not by its rule.
    let unsigned = aci(t, "vpn", &isolators);
    let insecure = ["--insecure-options=image"];
    run(t, &unsigned, &insecure, &[]).assert_refused(125, "the image asks for CAP_NET_ADMIN");
    // A prepared pod is held to the rule when it runs.
    let stage1 = format!("--stage1={}", t.stage1());
    let prepared = t.cli(["prepare", &stage1, "--net=none", &image.display().to_string(), "--", "print", "ran"]);
    let uuid = prepared.assert_ok().stdout.trim().to_owned();
    let another = t.cli(["prepare", &stage1, "--net=none", &image.display().to_string(), "--", "print", "ran"]);
    let run_prepared = t.cli(["run-prepared", another.assert_ok().stdout.trim()]);
    run_prepared.assert_exit(0).assert_stderr_has("has more than the default: CAP_NET_ADMIN (rule example.com/vpn)");
    t.cli(["trust", "allow", "--take-back", "--prefix", "example.com/vpn", "cap:NET_ADMIN"]).assert_ok();
    t.cli(["run-prepared", &uuid]).assert_refused(125, "does not allow `cap:NET_ADMIN` any more");
});

stage_test!(an_image_does_not_switch_its_filter_off, needs[Seccomp], |t| {
    let filter = |set: &str| json!([{ "name": "os/linux/seccomp-retain-set", "value": { "set": [set] } }]);
    let (image, _) = signed(t, "nofilter", &filter("@appc.io/all"));
    let refused = run(t, &image, &[], &[]);
    refused.assert_refused(125, "the image asks for no system call filter, which is more than the default");
    refused.assert_stderr_has("`--seccomp=unconfined`");
    let ran = run(t, &image, &[], &["--seccomp=unconfined"]);
    ran.assert_exit(0).assert_stderr_has("app `nofilter` has more than the default: no system call filter (flag)");
    t.cli(["trust", "allow", "--prefix", "example.com/nofilter", "seccomp"]).assert_ok();
    assert_eq!(run(t, &image, &[], &[]).assert_exit(0).json()["seccomp_mode"], "0");
    let (bpf, _) = signed(t, "bpf", &filter("bpf"));
    let refused = run(t, &bpf, &[], &[]);
    refused.assert_refused(125, "the image asks for the system calls bpf");
    // The flag gives what was asked for and no more, so that the probe dies of its first other call.
    refused.assert_stderr_has("`--seccomp=mode=retain,errno=kill,bpf`");
});

// A list of forbidden calls is no list of allowed ones: what the default profile refuses stays refused.
stage_test!(an_image_that_forbids_calls_keeps_the_default_filter, needs[Seccomp], |t| {
    let isolators = json!([{ "name": "os/linux/seccomp-remove-set", "value": { "set": ["chmod"], "errno": "EPERM" } }]);
    let (image, _) = signed(t, "strict", &isolators);
    let verdicts = run(t, &image, &[], &[]).assert_exit(0).json()["syscalls"].clone();
    let plain = signed(t, "plain", &json!([])).0;
    let plain = run(t, &plain, &[], &[]).assert_exit(0).json()["syscalls"].clone();
    assert_eq!(verdicts, plain, "the refused ones are those of the default");
    assert!(plain.as_object().is_some_and(|calls| calls.len() > 30), "{plain}");
});

stage_test!(an_image_does_not_lower_its_oom_score, |t| {
    let score = |value: i32| json!([{ "name": "os/linux/oom-score-adj", "value": value }]);
    let (image, _) = signed(t, "immortal", &score(-1000));
    let refused = run(t, &image, &[], &[]);
    refused.assert_refused(125, "the image asks for an OOM score adjustment of -1000, which is more than the default");
    refused.assert_stderr_has("`--oom-score-adj=-1000`");
    let (image, _) = signed(t, "mortal", &score(700));
    assert_eq!(run(t, &image, &[], &[]).assert_exit(0).json()["oom_score_adj"], "700");
});

stage_test!(labels_and_annotations_widen_nothing, |t| {
    let report = run(t, &signed(t, "plain", &json!([])).0, &[], &[]).assert_exit(0).json();
    assert_eq!(bounding(&report).len(), 14);
    let mut recipe = probe_recipe(&probe_bytes());
    for (name, value) in [
        ("io.podman.annotations.privileged", "TRUE"),
        ("io.containers.capabilities", "CAP_SYS_ADMIN"),
        ("run.oci.seccomp_fail_unknown_syscall", "0"),
        ("os/linux/capabilities-retain-set", r#"{"set":["CAP_SYS_ADMIN"]}"#),
    ] {
        recipe.labels.insert(name.to_owned(), value.to_owned());
    }
    let archive = t.path("docker.tar");
    recipe.docker_archive(&archive).unwrap();
    let source = PathBuf::from(format!("docker-archive:{}", archive.display()));
    let report = run(t, &source, &["--insecure-options=image"], &[]).assert_exit(0).json();
    assert_eq!(bounding(&report).len(), 14);
});

stage_test!(insecure_options_that_do_nothing_are_refused, |t| {
    let idle = [("image", "list"), ("seccomp", "fetch x"), ("all-run", "fetch x"), ("tls", "gc"), ("paths", "check")];
    for (word, command) in idle {
        let option = format!("--insecure-options={word}");
        let outcome = t.cli([option.as_str()].into_iter().chain(command.split(' ')));
        outcome.assert_exit(2).assert_stderr_has(&format!("`--insecure-options={word}` does nothing for this command"));
    }
    t.cli(["--insecure-options=none", "list"]).assert_ok();
});

// A mount point of an image is met by the volume of its name: not if that was given to another app.
stage_test!(an_image_gets_no_volume_that_another_app_was_given, |t| {
    t.probe();
    for name in ["first", "secret"] {
        fs::create_dir(t.path(name)).unwrap();
    }
    fs::write(t.path("secret/key"), "secret").unwrap();
    let mut recipe = probe_recipe(&probe_bytes());
    // Its mount point is called `volume-2`, and so is the second volume that the user gave no name.
    recipe.volumes = vec!["/2".into()];
    let image = t.signed(&recipe, "example.com/curious:1").display().to_string();
    let given = |name: &str, at: &str| format!("--volume={}:{at}", t.path(name).display());
    let pod = t.pod().app("a", "file-exists /given/key").with(&given("first", "/first"));
    let pod = pod.with(&given("secret", "/given")).app_of(&image, "b", "file-exists /2/key");
    let ran = pod.run();
    let mut lines: Vec<&str> = ran.assert_ok().stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["false", "true"], "{}", ran.outcome);
});
