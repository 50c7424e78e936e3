//! The name that was asked for is judged, whatever an image calls itself and wherever it came from.

use crate::{World, registry_test};
use std::fs;
use std::path::{Path, PathBuf};
use tests::{Outcome, probe_bytes, probe_recipe};

/// Imports a policy in podman's words: what every name needs, and what a scope needs.
fn import_policy(w: &World<'_>, default: &str, scopes: &str) {
    let file = w.t.path("policy.json");
    let text = format!(r#"{{"default":[{{"type":"{default}"}}],"transports":{{"docker":{{{scopes}}}}}}}"#);
    fs::write(&file, text).unwrap();
    w.t.cli(["trust", "import-policy", "--root", &text_of(&file)]).assert_ok();
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// An image that calls itself so and is signed by a key.
fn signed(w: &World<'_>, name: &str, key: &tests::Key) -> PathBuf {
    let file = w.image_called(name, name);
    w.t.sign(&file, key);
    file
}

fn sign_as(w: &World<'_>, file: &Path, key: &tests::Key, name: &str) {
    w.t.tools(["sign", "--key", &text_of(&key.secret), "--name", name, &text_of(file)]).assert_ok();
}

fn pod(w: &World<'_>, words: &[&str]) -> Outcome {
    w.t.cli(words.iter().copied())
}

// images.md A1.
registry_test!(an_unsigned_image_cannot_choose_a_laxer_rule, |w| {
    let key = w.t.key("publisher");
    import_policy(w, "insecureAcceptAnything", "");
    w.trust("prod", &key);
    // What its registry gives out under a name of which anything is accepted runs.
    w.push(&w.image("dev/app:1", "dev"), "dev/app:1");
    w.accepted("dev/app:1");
    w.push(&w.image_called("x.example/prod/app:1", "evil"), "prod/app:1");
    w.refused("prod/app:1", "is not signed");
    w.run(&w.name("prod/app:1")).assert_refused(125, "which calls itself `x.example/prod/app:1`, is not signed");
    // Nor when it is in the store, let in for one run.
    pod(w, &["--insecure-options=image", "fetch", &w.place("prod/app:1")]).assert_ok();
    pod(w, &["run", "--pull-policy=never", &w.name("prod/app:1")]).assert_refused(125, "is not signed");
    pod(w, &["image", "verify", &w.name("prod/app:1")]).assert_refused(125, "is not signed");
    w.push(&signed(w, &w.name("prod/app:1"), &key), "prod/app:1");
    w.accepted("prod/app:1");
});

// images.md A2, security.md A2.
registry_test!(another_publishers_key_does_not_stand_in, |w| {
    let (corp, other) = (w.t.key("corp"), w.t.key("other"));
    w.trust("prod", &corp);
    w.t.trust("other.test", &other);
    let file = signed(w, "other.test/prod/app:1", &other);
    let id = w.push(&file, "prod/app:1");
    w.refused("prod/app:1", "is trusted for `other.test` only");
    pod(w, &["--insecure-options=image", "fetch", &w.place("prod/app:1")]).assert_ok();
    pod(w, &["run", "--pull-policy=never", &w.name("prod/app:1")]).assert_refused(125, "trusted for `other.test` only");
    // It is what it says, under that name and by its id.
    w.run(&id).assert_exit(0).assert_stdout("ran");
    // Signed for the name that is asked for by a key of that rule, it runs; the rule of its own name still counts.
    sign_as(w, &file, &corp, &w.name("prod/app:1"));
    w.push(&file, "prod/app:1");
    w.accepted("prod/app:1");
    let prepared = pod(w, &["prepare", "--stage1=namespaces", &w.name("prod/app:1"), "--", "print", "ran"]);
    let uuid = prepared.assert_ok().stdout.trim().to_owned();
    import_policy(w, "reject", &format!(r#""{}":[{{"type":"reject"}}]"#, w.name("prod/app")));
    // A prepared pod is judged again under the name it was made for.
    pod(w, &["run-prepared", &uuid]).assert_refused(125, "accepts no image");
    w.refused("prod/app:1", "accepts no image");
    fs::remove_file(w.t.local_config().join(format!("trust.d/{}.json", w.name("prod/app").replace('/', "+")))).unwrap();
    w.accepted("prod/app:1");
    import_policy(w, "reject", r#""other.test/prod":[{"type":"reject"}]"#);
    w.refused("prod/app:1", "image `other.test/prod/app:1`");
});

// images.md A3.
registry_test!(anything_of_one_registry_is_nothing_of_others, |w| {
    let anything = r#"[{"type":"insecureAcceptAnything"}]"#;
    let hub = "docker.io/library/busybox:1";
    import_policy(
        w,
        "reject",
        &format!(r#""docker.io/library/busybox":{anything},"docker.io/library/test":{anything}"#),
    );
    let evil = w.image_called(hub, "evil");
    w.push(&evil, "library/busybox:1");
    w.refused("library/busybox:1", "accepts no image");
    // A registry's answer does not set the name of another registry.
    pod(w, &["--insecure-options=image", "fetch", &w.place("library/busybox:1")]).assert_ok();
    for name in ["busybox:1", "busybox", hub] {
        pod(w, &["run", "--pull-policy=never", name]).assert_refused(125, "is not in the store");
    }
    let sentence = "accepts that only of a registry of that name over TLS; this came from";
    w.run(&text_of(&evil)).assert_refused(125, &format!("{sentence} a file"));
    let archive = w.t.path("archive.tar");
    probe_recipe(&probe_bytes()).docker_archive(&archive).unwrap();
    w.run(&format!("docker-archive:{}", archive.display())).assert_refused(125, &format!("{sentence} an archive"));
    // Where it came from is remembered.
    pod(w, &["--insecure-options=image", "fetch", &text_of(&evil)]).assert_ok();
    pod(w, &["run", "--pull-policy=never", "busybox:1"]).assert_refused(125, &format!("{sentence} a file"));
    // A certificate that nobody looked at proves no registry.
    w.forget();
    let own = w.image("own/app:1", "own");
    w.push(&own, "own/app:1");
    let scope = w.name("own");
    fs::remove_dir_all(w.t.local_config().join("trust.d")).unwrap();
    import_policy(w, "reject", &format!(r#""{scope}":{anything}"#));
    let place = w.place("own/app:1");
    let blind = pod(w, &["--insecure-options=tls", "fetch", &place]);
    blind.assert_refused(125, "this came from a server whose certificate was not verified");
    w.run(&text_of(&own)).assert_refused(125, &format!("{sentence} a file"));
    w.accepted("own/app:1");
    // The same bytes from a file are still what the registry gave out.
    pod(w, &["--insecure-options=image", "fetch", &text_of(&own)]).assert_ok();
    w.run(&w.name("own/app:1")).assert_exit(0).assert_stdout("ran");
});

// images.md B1: what push, and then the refusal, tell of a name that is not the image's own.
registry_test!(an_image_is_taken_by_the_names_it_is_signed_for, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let file = signed(w, &w.name("team/app:1"), &key);
    let id = w.push(&file, "team/app:1");
    let stable = w.name("team/app:stable");
    let push = |to: &str| w.publisher(&["image", "push", &id, &w.place(to)]).assert_ok().stderr.clone();
    assert_eq!(push("team/app:1"), "");
    assert_eq!(push("team/app:latest"), "");
    let warned = push("team/app:stable");
    assert!(warned.contains(&format!("--name {stable} FILE.pod")), "{warned}");
    assert!(push("team/other:1").contains("takes it there by its digest only"));
    w.accepted("team/app:latest");
    w.accepted("team/app");
    w.refused("team/app:stable", "the signature is for version `1`");
    // Each half of the hint works.
    let refused = w.run_fresh("team/app:stable");
    let pinned = format!("{}@{id}", w.name("team/app"));
    assert!(refused.stderr.contains(&format!("pin it as `{pinned}`")), "{refused}");
    w.run(&pinned).assert_exit(0).assert_stdout("ran");
    sign_as(w, &file, &key, &stable);
    w.push(&file, "team/app:stable");
    assert_eq!(push("team/app:stable"), "");
    w.accepted("team/app:stable");
    // The tag that was asked for means it now, and so does its own, which the signature binds.
    for name in [&stable, &w.name("team/app:1")] {
        pod(w, &["run", "--net=none", "--pull-policy=never", name, "--", "print", "ran"]).assert_exit(0);
    }
    // The same bytes, once more and unsigned, do not lose what was signed of them.
    let bare = w.image("team/app:1", &w.name("team/app:1"));
    pod(w, &["--insecure-options=image", "fetch", &text_of(&bare)]).assert_ok().assert_stdout(&id);
    pod(w, &["run", "--net=none", "--pull-policy=never", &stable, "--", "print", "ran"]).assert_exit(0);
    // A fetch by digest gives no tag a meaning.
    w.forget();
    pod(w, &["fetch", &format!("{}:7@{id}", w.name("team/app"))]).assert_ok();
    pod(w, &["run", "--pull-policy=never", &w.name("team/app:7")]).assert_refused(125, "is not in the store");
});

registry_test!(an_image_without_version_stands_for_no_tag, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let file = signed(w, &w.name("team/app"), &key);
    for tag in ["2", "latest"] {
        w.push(&file, &format!("team/app:{tag}"));
    }
    w.refused("team/app:2", "the signature is for version `-`");
    w.accepted("team/app:latest");
    w.accepted("team/app");
});
