//! New keys for a prefix, by a text that holders of old and of new keys have signed.

use crate::{World, registry_test};
use std::fs;
use std::path::{Path, PathBuf};
use tests::{Key, Outcome, Test};

fn rotation(w: &World<'_>, number: u32, keys: &[&Key]) -> PathBuf {
    let t = w.t;
    let file = t.path(&format!("rotation-{number}-{}", keys.len()));
    let mut words =
        vec!["rotation".to_owned(), format!("--prefix={}", w.name("team")), format!("--number={number}"), text(&file)];
    words.extend(keys.iter().map(|key| text(&key.public)));
    t.tools(words).assert_ok().assert_stdout("");
    file
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn sign(t: &Test, key: &Key, file: &Path) -> Outcome {
    t.tools(["sign", "--key", &text(&key.secret), &text(file)])
}

fn rotate(t: &Test, file: &Path) -> Outcome {
    t.cli(["trust", "rotate", &text(file)])
}

registry_test!(keys_are_rotated_by_both_and_never_back, |w| {
    let (old, new, newest) = (w.t.key("old"), w.t.key("new"), w.t.key("newest"));
    w.trust("team", &old);
    for (name, key) in [("team/before:1", &old), ("team/after:1", &new)] {
        let file = w.image(name, name);
        w.t.sign(&file, key);
        w.push(&file, name);
    }
    w.accepted("team/before:1");
    w.refused("team/after:1", "signed by");
    let first = rotation(w, 1, &[&new]);
    rotate(w.t, &first).assert_refused(125, "signed by 0 of the 1 old keys");
    sign(w.t, &new, &first).assert_ok();
    rotate(w.t, &first).assert_refused(125, "signed by 0 of the 1 old keys");
    let without_new = rotation(w, 1, &[&new, &newest]);
    sign(w.t, &old, &without_new).assert_ok();
    rotate(w.t, &without_new).assert_refused(125, "signed by 0 of the 1 new keys");
    sign(w.t, &old, &first).assert_ok();
    sign(w.t, &old, &first).assert_refused(125, "signed by key");
    // One changed byte of what was signed, and the same one of a signature.
    let signed = fs::read_to_string(&first).unwrap();
    for (from, to) in [("number: 1", "number: 2"), ("threshold: 1\n", "threshold: 2\n"), ("/team\n", "/term\n")] {
        fs::write(w.t.path("changed"), signed.replacen(from, to, 1)).unwrap();
        assert_eq!(rotate(w.t, &w.t.path("changed")).code, 125, "{from}");
    }
    w.refused("team/after:1", "signed by");
    rotate(w.t, &first).assert_ok().assert_stdout(&w.name("team"));
    w.accepted("team/after:1");
    w.refused("team/before:1", "signed by");
    // Once more, and then the first again: who kept the old text cannot bring the old keys back.
    let second = rotation(w, 2, &[&newest]);
    for key in [&new, &newest] {
        sign(w.t, key, &second).assert_ok();
    }
    rotate(w.t, &second).assert_ok();
    rotate(w.t, &first).assert_refused(125, "rotation 2 was applied already");
    rotate(w.t, &second).assert_refused(125, "rotation 2 was applied already");
    w.refused("team/after:1", "signed by");
});

registry_test!(rotations_that_make_no_sense_are_refused, |w| {
    let key = w.t.key("key");
    w.t.trust("example.com", &key);
    let (public, file) = (text(&key.public), text(&w.t.path("r")));
    let tools = |words: &[&str]| w.t.tools(words.iter().copied());
    tools(&["rotation", "--prefix=Example", "--number=1", &file, &public]).assert_refused(2, "prefix");
    tools(&["rotation", "--prefix=example.com", "--number=0", &file, &public]).assert_refused(2, "number");
    tools(&["rotation", "--prefix=example.com", "--number=1", &file]).assert_refused(2, "KEY.pub");
    let two = ["rotation", "--prefix=example.com", "--number=1", "--threshold=2", &file, &public];
    tools(&two).assert_refused(125, "threshold");
    tools(&["rotation", "--prefix=example.com", "--number=1", &file, &public, &public]).assert_refused(125, "twice");
    assert!(!w.t.path("r").exists());
    tools(&["rotation", "--prefix=example.com", "--number=1", &file, &public]).assert_ok();
    tools(&["rotation", "--prefix=example.com", "--number=2", &file, &public]).assert_refused(125, "exists");
    let sign = ["sign", "--key", &text(&key.secret), "--expires=1d", &file];
    tools(&sign).assert_refused(2, "a rotation says itself when it expires");
    fs::write(w.t.path("long"), format!("PODKEYS1\n{}", "x".repeat(1 << 20))).unwrap();
    rotate(w.t, &w.t.path("long")).assert_refused(125, "malformed rotation");
});
