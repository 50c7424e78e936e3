//! The image that is built into `pod`: the first thing that a newcomer runs.

use std::fs;
use tests::{probe_bytes, probe_recipe, stage_test};

stage_test!(the_built_in_image_needs_nothing, |t| {
    let stage1 = format!("--stage1={}", t.stage1());
    let demo = t.cli(["run", &stage1, "--net=none", "demo"]);
    demo.assert_exit(0);
    for line in ["This app runs in a pod", "uid 1000, gid 1000", "0 in use, at most 14", "descriptors    0 1 2"] {
        assert!(demo.stdout.contains(line), "`{line}`: {demo}");
    }
    let images = t.cli(["image", "list", "--format=json"]).assert_exit(0).json();
    assert_eq!(images[0]["source"], "built in", "{images}");
    // Its key counts for this one name, not for what lies below it.
    let rules = t.cli(["trust", "show", "demo"]);
    assert!(rules.stdout.starts_with("demo  built-in, 1 of 1 keys, this name only\n"), "{rules}");
    t.cli(["trust", "show", "demo/other"]).assert_refused(125, "demo/other");
});

stage_test!(the_image_of_an_older_pod_makes_room, |t| {
    // What the store holds after an upgrade: signed by a key that this build does not have.
    let file = t.convert(&probe_recipe(&probe_bytes()), "demo:0.0.1");
    t.sign(&file, &t.key("older"));
    let fetched = t.cli(["--insecure-options=image", "fetch", &file.display().to_string()]);
    let id = fetched.assert_exit(0).stdout.trim().to_owned();
    let run = || t.cli(["run", &format!("--stage1={}", t.stage1()), "--net=none", "demo"]);
    run().assert_refused(125, "is signed by key");
    let record = t.data().join("images/images").join(id.trim_start_matches("sha256:"));
    let text = fs::read_to_string(&record).unwrap();
    let older = text.replace(&format!("{:?}", file.display().to_string()), "\"built in\"");
    assert_ne!(older, text);
    // The record's last line is the digest of the one before.
    let (line, _) = older.split_once('\n').unwrap();
    fs::write(&record, format!("{line}\n{}\n", tests::image::digest(line.as_bytes()))).unwrap();
    let ran = run();
    ran.assert_exit(0);
    assert!(ran.stdout.contains("This app runs in a pod"), "{ran}");
});
