//! An older image that was signed once does not come back under its name (security.md A7).

use crate::{World, registry_test};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::{Key, Outcome, Test};

/// Two images of one name, the second signed a second later, which is what a signature can tell apart.
fn two(w: &World<'_>, name: &str, key: &Key) -> [PathBuf; 2] {
    let mut files = ["old", "new"].map(|content| w.t.path(&format!("{content}.pod")));
    for (content, file) in ["old", "new"].into_iter().zip(&mut files) {
        fs::rename(w.image_called(name, content), &*file).unwrap();
        w.t.sign(file, key);
        std::thread::sleep(Duration::from_millis(1100));
    }
    files
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn pod(t: &Test, words: &[&str]) -> Outcome {
    t.cli(words.iter().copied())
}

/// Runs the image that a name means in the store, and returns what is in it.
fn content(w: &World<'_>, image: &str) -> String {
    let words = ["run", "--net=none", "--pull-policy=never", image, "--", "file-read", "/srv/content"];
    pod(w.t, &words).assert_exit(0).stdout.trim().to_owned()
}

const SENTENCE: &str = "was accepted before";

registry_test!(an_older_file_does_not_take_the_name_over, |w| {
    let key = w.t.key("publisher");
    w.t.trust("bar.test", &key);
    let name = "bar.test/roll:1";
    let [old, new] = two(w, name, &key).map(|file| text(&file));
    pod(w.t, &["fetch", &old]).assert_ok();
    pod(w.t, &["fetch", &new]).assert_ok();
    let refused = pod(w.t, &["fetch", &old]);
    refused.assert_refused(125, SENTENCE);
    refused.assert_stderr_has("--allow-downgrade");
    w.run(&old).assert_refused(125, SENTENCE);
    assert!(content(w, name).contains("new"));
    // Neither removing the image nor collecting forgets it.
    pod(w.t, &["image", "rm", name]).assert_ok();
    pod(w.t, &["image", "gc"]).assert_ok();
    pod(w.t, &["fetch", &old]).assert_refused(125, SENTENCE);
    // The user may go back, and stays there.
    let id = pod(w.t, &["fetch", "--allow-downgrade", &old]).assert_ok().stdout.trim().to_owned();
    assert!(content(w, name).contains("old"));
    pod(w.t, &["fetch", &old]).assert_ok();
    // And forward again. An id and a digest mean these bytes, old or not.
    pod(w.t, &["fetch", &new]).assert_ok();
    assert!(content(w, &id).contains("old"));
    assert!(content(w, &format!("bar.test/roll@{id}")).contains("old"));
    assert!(content(w, name).contains("new"));
    // Another version of the same name is as old as it is.
    let other = w.t.path("other.pod");
    fs::rename(w.image_called("bar.test/roll:0.9", "other"), &other).unwrap();
    w.t.sign(&other, &key);
    pod(w.t, &["fetch", &text(&other)]).assert_ok();
});

registry_test!(an_older_image_of_a_registry_is_refused, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let name = w.name("team/app:1");
    let [old, new] = two(w, &name, &key);
    let fetch = |more: &[&str]| pod(w.t, &[&["fetch", &w.place("team/app:1")], more].concat());
    let old_id = w.push(&old, "team/app:1");
    fetch(&[]).assert_ok().assert_stdout(&old_id);
    let new_id = w.push(&new, "team/app:1");
    fetch(&[]).assert_ok().assert_stdout(&new_id);
    // The registry goes back to what it had before.
    w.publisher(&["image", "push", &old_id, &w.place("team/app:1")]).assert_ok();
    fetch(&[]).assert_refused(125, SENTENCE);
    assert!(content(w, &name).contains("new"));
    // Under a tag that nobody asked for yet it may; under its own name it may not, and so does not take it.
    w.publisher(&["image", "push", &old_id, &w.place("team/app:latest")]).assert_ok();
    pod(w.t, &["fetch", &w.place("team/app")]).assert_ok().assert_stdout(&old_id);
    assert!(content(w, &name).contains("new"));
    let pinned = format!("{}@{old_id}", w.place("team/app"));
    pod(w.t, &["fetch", &pinned]).assert_ok();
    assert!(content(w, &name).contains("new"), "a digest is for this once");
    fetch(&["--allow-downgrade"]).assert_ok().assert_stdout(&old_id);
    assert!(content(w, &name).contains("old"));
});

registry_test!(marks_that_cannot_be_read_refuse, |w| {
    let key = w.t.key("publisher");
    w.t.trust("bar.test", &key);
    let [old, new] = two(w, "bar.test/roll:1", &key).map(|file| text(&file));
    pod(w.t, &["fetch", &new]).assert_ok();
    let marks = w.t.data().join("images/marks/bar.test/roll/@1");
    let whole = fs::read_to_string(&marks).unwrap();
    for damaged in ["", "{", &whole.replace("\"version\":1", "\"version\":2"), &whole.replace("2026", "year")] {
        fs::write(&marks, damaged).unwrap();
        pod(w.t, &["fetch", &old]).assert_refused(125, "cannot be read");
        w.run("bar.test/roll:1").assert_refused(125, "cannot be read").assert_stderr_has("--allow-downgrade");
    }
    pod(w.t, &["fetch", "--allow-downgrade", &new]).assert_ok();
    pod(w.t, &["fetch", &old]).assert_refused(125, SENTENCE);
});
