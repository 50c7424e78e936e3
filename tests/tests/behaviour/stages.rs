//! Isolation stages that do not come with `pod`: in images, verified like any.

use std::fs;
use std::path::PathBuf;
use tests::image::{Layer, Recipe};
use tests::{Test, stage_test};

const NAME: &str = "example.com/stage1:1";

/// The programs of the tested stage1 as an image of one layer.
fn image(t: &Test, layers: Vec<Layer>) -> PathBuf {
    t.convert(&Recipe::new(layers), NAME)
}

fn programs(t: &Test) -> Layer {
    let name = format!("stage1-{}", t.stage1());
    let read = |file: &str| fs::read(tests::executables().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let layer = Layer::new().file("stage1.json", 0o644, &read(&format!("{name}.json")));
    layer.file(&name, 0o755, &read(&name)).file("stage2", 0o755, &read("stage2"))
}

stage_test!(a_stage1_comes_in_an_image, |t| {
    let file = image(t, vec![programs(t)]);
    let flag = format!("--stage1={}", file.display());
    let app = t.probe();
    let run = |stage1: &str| t.cli(["run", stage1, "--net=none", app, "--", "print", "ran"]);
    run(&flag).assert_refused(125, "example.com/stage1");
    let key = t.key("publisher");
    t.sign(&file, &key);
    run(&flag).assert_refused(125, "no trust rule");
    let public = key.public.display().to_string();
    let added = t.cli(["trust", "add", "--prefix", "example.com/stage1", &public]);
    let key_id = added.assert_exit(0).stdout.trim();
    run(&flag).assert_exit(0).assert_stdout("ran");
    // The store has it now, so its name is enough.
    run("--stage1=example.com/stage1:1").assert_exit(0).assert_stdout("ran");

    let prepare = || {
        let pod = t.cli(["prepare", "--stage1=example.com/stage1:1", "--net=none", app, "--", "print", "ran"]);
        pod.assert_exit(0).stdout.trim().to_owned()
    };
    let (first, second) = (prepare(), prepare());
    t.cli(["image", "gc", "--grace-period=0s"]).assert_exit(0);
    t.cli(["run-prepared", &first]).assert_exit(0).assert_stdout("ran");
    // Who may publish it is asked again at every run.
    t.cli(["trust", "revoke", key_id]).assert_exit(0);
    t.cli(["run-prepared", &second]).assert_refused(125, "image of the stage1");
    run("--stage1=example.com/stage1:1").assert_refused(125, "revoked");
});

stage_test!(an_image_without_a_stage1_is_refused, |t| {
    let app = t.probe();
    let refused = |layers: Vec<Layer>, text: &str| {
        let flag = format!("--stage1={}", image(t, layers).display());
        let words = ["--insecure-options=image", "run", &flag, "--net=none", app, "--", "true"];
        t.cli(words).assert_refused(125, text);
    };
    refused(vec![Layer::new().file("something", 0o644, b"else")], "stage1.json");
    refused(vec![programs(t), Layer::new().file("more", 0o644, b"")], "one layer");
    refused(vec![Layer::new().file("stage1.json", 0o644, b"{}")], "stage1.json");
    assert!(t.uuids().is_empty(), "a pod was left");
});
