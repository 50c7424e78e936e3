//! The image that is built into `pod`: the first thing that a newcomer runs.

use tests::stage_test;

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
