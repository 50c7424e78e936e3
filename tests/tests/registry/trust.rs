//! The trust cases of an image in a file, for images at a registry: each refusal has a sentence of its own.

use crate::registry_test;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};
use tests::{Outcome, stage_test};

stage_test!(a_signed_image_of_a_registry_runs, |t| {
    let Some(w) = crate::World::new(t) else { return };
    let key = t.key("publisher");
    let file = w.image("team/app:1", "signed");
    t.sign(&file, &key);
    w.push(&file, "team/app:1");
    w.trust("team/app", &key);
    let stage1 = format!("--stage1={}", t.stage1());
    let place = w.place("team/app:1");
    let words = ["run", &stage1, "--net=none", &place, "--", "print", "ran"];
    t.cli(words).assert_exit(0).assert_stdout("ran");
    // From the store, without the registry, by its name; and not when the trust has ended.
    let (name, prefix) = (w.name("team/app:1"), w.name("team/app"));
    drop(w);
    let words = ["run", &stage1, "--net=none", &name, "--", "print", "ran"];
    t.cli(words).assert_exit(0).assert_stdout("ran");
    let id = key_id(t);
    t.cli(["trust", "rm", "--prefix", &prefix, &id]).assert_exit(0);
    t.cli(words).assert_refused(125, "covered by no trust rule");
});

/// Id of the first key of the first rule.
fn key_id(t: &tests::Test) -> String {
    let rules = t.cli(["trust", "list", "--format=json"]).assert_ok().json();
    let rules = rules.as_array().expect("rules").clone();
    let local = rules.iter().find(|rule| rule["level"] == "local").expect("an administrator's rule");
    local["keys"][0]["id"].as_str().expect("an id").to_owned()
}

registry_test!(each_refusal_of_a_registry_image_has_its_own_sentence, |w| {
    let (key, stranger) = (w.t.key("publisher"), w.t.key("stranger"));
    let publish = |name: &str, key: Option<&tests::Key>| {
        let file = w.image(name, name);
        if let Some(key) = key {
            w.t.sign(&file, key);
        }
        w.push(&file, name);
    };
    let mut sentences = BTreeSet::new();
    let mut refuse = |rest: &str, text: &str| {
        let line = w.refused(rest, text);
        // Names and digests differ between the cases; the rest of the sentence must, too.
        let plain: String = line.split('`').step_by(2).collect();
        assert!(sentences.insert(plain), "another case has this sentence, too: {line}");
    };
    publish("stranger/no-rule:1", Some(&key));
    refuse("stranger/no-rule:1", "covered by no trust rule");
    w.trust("team", &key);
    publish("team/unsigned:1", None);
    refuse("team/unsigned:1", "is not signed");
    publish("team/foreign:1", Some(&stranger));
    refuse("team/foreign:1", "signed by");
    let soon = SystemTime::now() + Duration::from_secs(3);
    let file = w.image("team/expired:1", "expired");
    sign_until(w, &file, &key, soon);
    w.push(&file, "team/expired:1");
    // Nobody can sign what has expired already, so the moment is waited for.
    std::thread::sleep(soon.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(1));
    refuse("team/expired:1", "expired");
    publish("team/revoked:1", Some(&key));
    w.accepted("team/revoked:1");
    w.t.cli(["trust", "revoke", &key_id(w.t), "--reason", "stolen"]).assert_exit(0);
    refuse("team/revoked:1", "revoked");
    // What was let in before is stopped at its next start, from the store.
    w.forget();
    let place = w.place("team/revoked:1");
    w.t.cli(["--insecure-options=image", "fetch", &place]).assert_ok();
    w.run(&w.name("team/revoked:1")).assert_refused(125, "revoked");
});

fn sign_until(w: &crate::World<'_>, file: &std::path::Path, key: &tests::Key, time: SystemTime) {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let date =
        Outcome::of(std::process::Command::new("date").args(["--utc", &format!("--date=@{seconds}"), "+%FT%TZ"]));
    let (secret, file) = (key.secret.display().to_string(), file.display().to_string());
    let time = date.assert_ok().stdout.trim();
    w.t.tools(["sign", "--key", &secret, "--expires", time, &file]).assert_ok();
}

registry_test!(a_key_counts_for_its_own_prefix_at_a_registry, |w| {
    let key = w.t.key("publisher");
    let file = w.image("team/etcd:1", "etcd");
    w.t.sign(&file, &key);
    w.push(&file, "team/etcd:1");
    // Whole components count.
    for prefix in ["team/et", "team/etcd/x", "teams", "other"] {
        w.trust(prefix, &key);
        w.refused("team/etcd:1", "is signed by key");
    }
    w.t.trust("example.com", &key);
    w.refused("team/etcd:1", "is signed by key");
    w.trust("team", &key);
    w.accepted("team/etcd:1");
});

registry_test!(as_many_keys_as_the_threshold_says_must_have_signed, |w| {
    let keys = ["one", "two", "three"].map(|name| w.t.key(name));
    let stranger = w.t.key("stranger");
    for key in &keys {
        w.trust("team", key);
    }
    let public = keys[2].public.display().to_string();
    w.t.cli(["trust", "add", "--prefix", &w.name("team"), "--threshold=2", &public]).assert_ok();
    let file = w.image("team/app:1", "app");
    w.t.sign(&file, &keys[0]);
    w.push(&file, "team/app:1");
    w.refused("team/app:1", "1 of the 2");
    // The same key again, and a key of nobody, count nothing.
    w.t.sign(&file, &keys[0]);
    w.t.sign(&file, &stranger);
    w.push(&file, "team/app:1");
    w.refused("team/app:1", "1 of the 2");
    w.t.sign(&file, &keys[1]);
    w.push(&file, "team/app:1");
    w.accepted("team/app:1");
    let verified = w.t.cli(["image", "verify", &w.name("team/app:1")]);
    verified.assert_ok();
    assert_eq!(verified.stdout.matches("/team").count(), 2, "the image and the rule are named: {verified}");
});
