//! appc images that are put on top of others: what rkt called dependency rendering, with its whitelist of paths.

use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use std::fs;
use std::path::{Path, PathBuf};
use tests::image::Layer;
use tests::{Outcome, Test, probe_bytes, stage_test};

/// Nothing listens there, so that a dependency that is not in the store is found nowhere.
const HOST: &str = "localhost:1";

fn manifest(name: &str, more: &Value) -> Value {
    let arch = if cfg!(target_arch = "aarch64") { "aarch64" } else { "amd64" };
    let labels = json!([{ "name": "version", "value": "1" }, { "name": "os", "value": "linux" },
                        { "name": "arch", "value": arch }, { "name": "colour", "value": "green" }]);
    let mut manifest = json!({ "acKind": "ImageManifest", "acVersion": "0.8.11", "name": format!("{HOST}/{name}"),
                               "labels": labels, "app": { "exec": ["/probe"], "user": "0", "group": "0" } });
    for (key, value) in more.as_object().expect("an object") {
        manifest[key] = value.clone();
    }
    manifest
}

/// An `.aci` of these files below its root.
fn aci(t: &Test, name: &str, more: &Value, files: &[(&str, &[u8])]) -> PathBuf {
    let mut archive = Layer::new().file("manifest", 0o644, manifest(name, more).to_string().as_bytes());
    archive = archive.directory("rootfs", 0o755);
    for (path, content) in files {
        archive = archive.file(&format!("rootfs/{path}"), 0o755, content);
    }
    let file = t.path(&format!("{name}.aci"));
    fs::write(&file, archive.tar()).unwrap();
    file
}

fn below(names: &[&str]) -> Value {
    let dependencies: Vec<Value> = names.iter().map(|name| json!({ "imageName": format!("{HOST}/{name}") })).collect();
    json!({ "dependencies": dependencies })
}

fn fetch(t: &Test, file: &Path) -> Outcome {
    t.cli(["--insecure-options=image", "fetch", "--pull-policy=never", &file.display().to_string()])
}

fn read(t: &Test, image: &str, path: &str) -> Outcome {
    let stage1 = format!("--stage1={}", t.stage1());
    t.cli(["--insecure-options=image", "run", &stage1, "--net=none", image, "--", "file-read", path])
}

fn base(t: &Test) -> PathBuf {
    let probe = probe_bytes();
    aci(t, "base", &json!({}), &[("probe", &probe), ("base", b"of base"), ("both", b"of base")])
}

stage_test!(an_aci_lies_on_top_of_its_dependencies, |t| {
    let app = aci(t, "app", &below(&["middle"]), &[("both", b"of app"), ("app", b"of app")]);
    fetch(t, &app).assert_refused(125, "is made on top of the image `localhost:1/middle`");
    fetch(t, &app).assert_stderr_has("hint: bring it into the store first");
    fetch(t, &base(t)).assert_ok();
    // The order of the list is the order of the layers, and each dependency brings its own.
    let side = aci(t, "side", &json!({}), &[("side", b"of side"), ("middle", b"of side")]);
    fetch(t, &side).assert_ok();
    let middle = aci(t, "middle", &below(&["base", "side"]), &[("middle", b"of middle"), ("both", b"of middle")]);
    fetch(t, &middle).assert_ok();
    let id = fetch(t, &app).assert_ok().stdout.trim().to_owned();
    for (path, content) in
        [("/base", "of base"), ("/both", "of app"), ("/app", "of app"), ("/side", "of side"), ("/middle", "of middle")]
    {
        read(t, &id, path).assert_exit(0).assert_stdout(content);
    }
    // Layers are shared: five of four images.
    assert_eq!(fs::read_dir(t.data().join("images/layers")).unwrap().count(), 4);
});

stage_test!(a_whitelist_holds_for_what_lies_below, |t| {
    fetch(t, &base(t)).assert_ok();
    let mut more = below(&["base"]);
    more["pathWhitelist"] = json!(["/probe", "/both", "/app"]);
    let app = aci(t, "app", &more, &[("app", b"of app"), ("hidden", b"of app")]);
    let id = fetch(t, &app).assert_ok().stdout.trim().to_owned();
    for (path, content) in [("/both", "of base"), ("/app", "of app")] {
        read(t, &id, path).assert_exit(0).assert_stdout(content);
    }
    for path in ["/base", "/hidden"] {
        assert_ne!(read(t, &id, path).code, 0, "{path} is not on the list");
    }
});

stage_test!(a_dependency_is_the_one_that_is_meant, |t| {
    let file = base(t);
    fetch(t, &file).assert_ok();
    let digits: String = Sha512::digest(fs::read(&file).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let depend = |more: Value| {
        let mut dependency = json!({ "imageName": format!("{HOST}/base") });
        dependency.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fetch(t, &aci(t, "app", &json!({ "dependencies": [dependency] }), &[("app", b"of app")]))
    };
    let label = |name: &str, value: &str| json!({ "labels": [{ "name": name, "value": value }] });
    depend(label("colour", "green")).assert_ok();
    depend(label("colour", "red")).assert_refused(125, "its label colour is `green`, not `red`");
    depend(label("size", "large")).assert_refused(125, "its label size is not said, not `large`");
    depend(label("os", "freebsd")).assert_refused(125, "its label os is `linux`, not `freebsd`");
    depend(label("version", "2")).assert_refused(125, "is not in the store");
    depend(json!({ "imageID": format!("sha512-{digits}") })).assert_ok();
    // rkt wrote the first half.
    depend(json!({ "imageID": format!("sha512-{}", &digits[..64]) })).assert_ok();
    for id in [format!("sha512-{}", "0".repeat(128)), format!("sha512-{}", &digits[..8]), "sha512-".into(), "x".into()]
    {
        depend(json!({ "imageID": id })).assert_refused(125, "its appc image id is");
    }
    // An older one of the same name and version is found by its id.
    fetch(t, &aci(t, "base", &json!({}), &[("newer", b"base")])).assert_ok();
    depend(json!({ "imageID": format!("sha512-{digits}") })).assert_ok();
});

stage_test!(a_dependency_is_held_to_the_trust_rules, |t| {
    fetch(t, &base(t)).assert_ok();
    let app = aci(t, "app", &below(&["base"]), &[("app", b"of app")]);
    let outcome = t.cli(["fetch", "--pull-policy=never", &app.display().to_string()]);
    outcome.assert_refused(125, "made on top of the image `localhost:1/base`");
    outcome.assert_stderr_has("covered by no trust rule");
    // Without a store there is nothing to put it on.
    let (app, out) = (app.display().to_string(), t.path("out.pod").display().to_string());
    t.tools(["convert", &app, &out]).assert_refused(125, "made on top of the image `localhost:1/base`");
    assert!(!t.path("out.pod").exists());
});

stage_test!(dependencies_in_circles_and_without_end_are_refused, |t| {
    fetch(t, &aci(t, "own", &below(&["own"]), &[])).assert_refused(125, "is made on top of the image");
    let one = aci(t, "one", &below(&["two"]), &[]);
    let two = aci(t, "two", &below(&["one"]), &[]);
    for file in [&one, &two, &one] {
        fetch(t, file).assert_refused(125, "is made on top of the image");
    }
    fetch(t, &base(t)).assert_ok();
    fetch(t, &aci(t, "wide", &below(&["base"; 65]), &[])).assert_refused(125, "more than 64 dependencies");
    let wide = aci(t, "wide", &below(&["base"; 20]), &[("wide", b"of wide")]);
    fetch(t, &wide).assert_ok();
    // 21 layers each.
    fetch(t, &aci(t, "high", &below(&["wide"; 20]), &[])).assert_refused(125, "is made of more than 400 layers");
    let bad = [json!({ "dependencies": [{}] }), json!({ "dependencies": [{ "imageName": "../../etc" }] })];
    for more in bad {
        let outcome = fetch(t, &aci(t, "bad", &more, &[]));
        assert_eq!(outcome.code, 125, "{outcome}");
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    }
});
