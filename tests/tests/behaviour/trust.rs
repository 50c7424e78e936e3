//! Who may publish what: spine, show 3. Each refusal has a sentence of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tests::image::Layer;
use tests::{Outcome, Test, probe_bytes, probe_recipe, stage_test};

fn unsigned(t: &Test, name: &str) -> PathBuf {
    t.convert(&probe_recipe(&probe_bytes()), name)
}

fn run(t: &Test, image: &Path) -> Outcome {
    let stage1 = format!("--stage1={}", t.stage1());
    t.cli(["run", &stage1, "--net=none", &image.display().to_string(), "--", "print", "ran"])
}

#[track_caller]
fn assert_refused(outcome: &Outcome) -> String {
    outcome.assert_exit(125);
    assert!(!outcome.stdout.contains("ran"), "{outcome}");
    let line = outcome.stderr.lines().next().unwrap_or_default().to_owned();
    assert!(line.starts_with("pod: run: "), "{outcome}");
    line
}

stage_test!(an_unsigned_image_is_refused_with_a_hint, |t| {
    let image = unsigned(t, "example.com/plain:1");
    let outcome = run(t, &image);
    assert_refused(&outcome);
    outcome.assert_stderr_has("hint: ");
    assert!(t.uuids().is_empty(), "a pod was made for a refused image");
});

stage_test!(a_signed_and_trusted_image_runs_until_the_trust_ends, |t| {
    let image = unsigned(t, "example.com/app:1");
    let key = t.key("publisher");
    t.sign(&image, &key);
    assert_refused(&run(t, &image));
    t.trust("example.com/app", &key);
    run(t, &image).assert_exit(0).assert_stdout("ran");
    let rules = t.cli(["trust", "list", "--format=json"]);
    let rules = rules.assert_exit(0).json();
    let text = rules.to_string();
    assert!(text.contains("example.com/app"), "{text}");
    let id = key_id(&rules).expect("a key id in the list");
    t.cli(["trust", "rm", "--prefix", "example.com/app", &id]).assert_exit(0);
    assert_refused(&run(t, &image));
    // What is in the store already is held to the same rule.
    assert_refused(&run(t, Path::new("example.com/app:1")));
});

/// The first thing in the document that looks like a minisign key id.
fn key_id(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => {
            let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            hex.then(|| text.clone())
        }
        serde_json::Value::Array(items) => items.iter().find_map(key_id),
        serde_json::Value::Object(fields) => fields.values().find_map(key_id),
        _ => None,
    }
}

stage_test!(a_key_counts_for_its_prefix_only, |t| {
    let image = unsigned(t, "example.com/etcd:1");
    let key = t.key("publisher");
    t.sign(&image, &key);
    for prefix in ["example.com/et", "example.com/etcd/x", "example.org", "example.com/other"] {
        t.trust(prefix, &key);
        assert_refused(&run(t, &image));
    }
    t.trust("example.com", &key);
    run(t, &image).assert_exit(0);
});

stage_test!(the_most_specific_rule_decides, |t| {
    let image = unsigned(t, "example.com/app:1");
    let (narrow, wide) = (t.key("narrow"), t.key("wide"));
    t.sign(&image, &wide);
    t.trust("example.com", &wide);
    run(t, &image).assert_exit(0);
    // A rule for the image's own name takes its place, and that one wants another key.
    t.trust("example.com/app", &narrow);
    assert_refused(&run(t, &image));
    t.sign(&image, &narrow);
    run(t, &image).assert_exit(0);
});

stage_test!(another_images_signature_does_not_count, |t| {
    // The same content under two names: the statement names one of them.
    let key = t.key("publisher");
    t.trust("example.com", &key);
    let good = unsigned(t, "example.com/good:1");
    t.sign(&good, &key);
    let other = unsigned(t, "example.com/other:1");
    let good_entries = entries(&good);
    let other_entries = entries(&other);
    // The signature's blobs of the good image, put into the other one with the good one's index entries.
    let mut layer = Layer::new();
    for (name, content) in other_entries.iter().filter(|(name, _)| name != "index.json") {
        layer = layer.file(name, 0o644, content);
    }
    for (name, content) in good_entries.iter().filter(|(name, _)| !other_entries.iter().any(|(own, _)| own == name)) {
        layer = layer.file(name, 0o644, content);
    }
    let index = |entries: &[(String, Vec<u8>)]| -> serde_json::Value {
        let text = &entries.iter().find(|(name, _)| name == "index.json").expect("an index").1;
        serde_json::from_slice(text).unwrap()
    };
    let mut mixed = index(&other_entries);
    let first = mixed["manifests"][0].clone();
    let signatures = index(&good_entries)["manifests"].as_array().unwrap().iter().skip(1).cloned().collect::<Vec<_>>();
    assert!(!signatures.is_empty());
    mixed["manifests"] = std::iter::once(first).chain(signatures).collect();
    layer = layer.file("index.json", 0o644, mixed.to_string().as_bytes());
    fs::write(&other, layer.tar()).unwrap();
    assert_refused(&run(t, &other));
});

/// Name and content of each entry of a native image.
fn entries(image: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(image).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().display().to_string();
        if entry.header().entry_type().is_file() {
            found.push((name, content));
        }
    }
    found
}

stage_test!(one_changed_byte_anywhere_is_refused, |t| {
    let image = unsigned(t, "example.com/app:1");
    let key = t.key("publisher");
    t.sign(&image, &key);
    t.trust("example.com", &key);
    let whole = fs::read(&image).unwrap();
    let blobs: Vec<(String, Vec<u8>)> =
        entries(&image).into_iter().filter(|(name, _)| name.starts_with("blobs/")).collect();
    assert!(blobs.len() >= 5, "manifest, configuration, layer, and a signature: {}", blobs.len());
    let file = t.path("changed.pod");
    // The empty configuration of a signature's manifest says nothing, and nobody reads it.
    for (name, content) in blobs.iter().filter(|(_, content)| content != b"{}") {
        let start = find(&whole, content);
        for position in [0, content.len() / 2, content.len() - 1] {
            let mut changed = whole.clone();
            changed[start + position] ^= 1;
            fs::write(&file, &changed).unwrap();
            let outcome = run(t, &file);
            assert_eq!(outcome.code, 125, "{name} byte {position}: {outcome}");
        }
    }
    assert!(t.uuids().is_empty(), "a pod was made for a refused image");
    fs::write(&file, &whole).unwrap();
    run(t, &file).assert_exit(0);
});

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    // Entries of a tar start at whole blocks.
    let starts = (0..haystack.len()).step_by(512);
    starts.into_iter().find(|start| haystack[*start..].starts_with(needle)).expect("the blob is in the file")
}

stage_test!(each_refusal_has_its_own_sentence, |t| {
    let key = t.key("publisher");
    let stranger = t.key("stranger");
    let mut sentences = BTreeSet::new();
    let mut count = 0;
    let mut refuse = |outcome: &Outcome| {
        // Names differ between the cases; the rest of the sentence must, too.
        let line = assert_refused(outcome).replace("example.com/", "");
        count += 1;
        sentences.insert(line.split('`').step_by(2).collect::<String>());
    };
    let no_rule = unsigned(t, "example.org/no-rule:1");
    t.sign(&no_rule, &key);
    refuse(&run(t, &no_rule));
    t.trust("example.com", &key);
    refuse(&run(t, &unsigned(t, "example.com/unsigned:1")));
    let foreign = unsigned(t, "example.com/foreign:1");
    t.sign(&foreign, &stranger);
    refuse(&run(t, &foreign));
    let expired = unsigned(t, "example.com/expired:1");
    // Nobody can sign what has expired already, so this one expires while we look.
    let soon = SystemTime::now() + Duration::from_secs(2);
    let seconds = soon.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let time =
        Outcome::of(std::process::Command::new("date").args(["--utc", &format!("--date=@{seconds}"), "+%FT%TZ"]));
    let secret = key.secret.display().to_string();
    let file = expired.display().to_string();
    t.tools(["sign", "--key", &secret, "--expires", time.assert_exit(0).stdout.trim(), &file]).assert_exit(0);
    while SystemTime::now() <= soon + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
    }
    refuse(&run(t, &expired));
    let revoked = unsigned(t, "example.com/revoked:1");
    t.sign(&revoked, &key);
    run(t, &revoked).assert_exit(0);
    let id = key_id(&t.cli(["trust", "list", "--format=json"]).assert_exit(0).json()).expect("a key id in the list");
    t.cli(["trust", "revoke", &id]).assert_exit(0);
    refuse(&run(t, &revoked));
    assert_eq!(sentences.len(), count, "{sentences:#?}");
});

stage_test!(a_digest_is_an_identity, |t| {
    let image = unsigned(t, "example.com/plain:1");
    let described = t.tools(["inspect", "--format=json", &image.display().to_string()]);
    let text = described.assert_exit(0).json().to_string();
    let index = serde_json::from_slice::<serde_json::Value>(
        &entries(&image).iter().find(|(name, _)| name == "index.json").unwrap().1,
    );
    let digest = index.unwrap()["manifests"][0]["digest"].as_str().unwrap().to_owned();
    assert!(text.contains(&digest), "inspect does not show the digest: {text}");
    t.cli(["--insecure-options=image", "fetch", &image.display().to_string()]).assert_exit(0).assert_stdout(&digest);
    // By name it is refused still, by its digest it is what the user asked for.
    assert_refused(&run(t, Path::new("example.com/plain:1")));
    run(t, Path::new(&format!("example.com/plain@{digest}"))).assert_exit(0).assert_stdout("ran");
});

stage_test!(insecure_is_for_one_run_and_shows, |t| {
    let image = unsigned(t, "example.com/plain:1");
    let stage1 = format!("--stage1={}", t.stage1());
    let words =
        ["--insecure-options=image", "run", &stage1, "--net=none", &image.display().to_string(), "--", "print", "ran"];
    t.cli(words).assert_exit(0).assert_stdout("ran");
    assert_refused(&run(t, &image));
    let pods = t.cli(["list", "--format=json"]).json().to_string();
    assert!(pods.contains("insecure"), "{pods}");
    let images = t.cli(["image", "list", "--format=json"]).json().to_string();
    assert!(images.contains("insecure"), "{images}");
});

stage_test!(minisign_itself_accepts_our_signature, |t| {
    let image = unsigned(t, "example.com/app:1");
    let key = t.key("publisher");
    t.sign(&image, &key);
    let blobs = entries(&image);
    let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
    let signature =
        blobs.iter().find(|(_, content)| text(content).starts_with("untrusted comment:")).expect("a signature");
    let statement = blobs.iter().find(|(_, content)| {
        let text = text(content);
        text.contains("example.com/app") && !text.starts_with('{') && !text.starts_with("untrusted")
    });
    let statement = statement.expect("a statement");
    let file = t.path("statement");
    fs::write(&file, &statement.1).unwrap();
    fs::write(t.path("statement.minisig"), &signature.1).unwrap();
    let mut minisign = std::process::Command::new("minisign");
    let public = fs::read_to_string(&key.public).unwrap();
    Outcome::of(minisign.args(["-V", "-P", public.trim(), "-m"]).arg(&file)).assert_exit(0);
});
