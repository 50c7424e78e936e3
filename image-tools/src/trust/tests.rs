//! The table of judgements: every way in which a signature can fail to speak for an image.

// One signature as a list reads best as `[signature.clone()]` beside lists of two.
#![allow(clippy::cloned_ref_to_slice_refs)]

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::digest::Digest;
use crate::key::{PublicKey, SecretKey};
use crate::minisign::Minisig;
use crate::name::{ImageName, Version};
use crate::provenance::{Came, Channel};
use crate::signature::Signature;
use crate::statement::{Statement, Subject, moment};

struct Bench {
    root: tempfile::TempDir,
    dirs: TrustDirs,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("temporary directory");
        let dirs = TrustDirs::new(&root.path().join("usr"), &root.path().join("etc"));
        Self { root, dirs, now: moment("2026-11-21T20:00:00Z").expect("time") }
    }

    fn trust(&self, prefix: &str, key: &SecretKey) {
        self.trust_with(prefix, key, &AddOptions { root: true, ..AddOptions::default() });
    }

    fn trust_with(&self, prefix: &str, key: &SecretKey, options: &AddOptions) {
        let prefix = Prefix::parse(prefix).expect("prefix");
        add(&self.dirs, &prefix, &key.public().to_line(), options).expect("add");
    }

    /// The image answers for its own name; where the bytes came from is not known.
    fn judge(&self, subject: &Subject, signatures: &[Signature]) -> Result<Grant, Refusal> {
        self.judge_from(&[], subject, signatures)
    }

    fn judge_from(&self, came: &[Came], subject: &Subject, signatures: &[Signature]) -> Result<Grant, Refusal> {
        let question = Question { asked: None, subject, id: None, came, signatures, marks: NO_MARKS, now: self.now };
        Policy::load(&self.dirs).judge(&question).map(|acceptance| acceptance.asked)
    }

    fn refusal(&self, subject: &Subject, signatures: &[Signature]) -> String {
        let refusal = self.judge(subject, signatures).expect_err("refused");
        assert!(!refusal.hint().is_empty());
        refusal.to_string()
    }

    fn vendor(&self, file: &str, text: &str) {
        let directory = self.root.path().join("usr/trust.d");
        std::fs::create_dir_all(&directory).expect("directory");
        std::fs::write(directory.join(file), text).expect("file");
    }

    fn local(&self, file: &str) -> std::path::PathBuf {
        self.root.path().join("etc/trust.d").join(file)
    }

    fn sign(&self, key: &SecretKey, subject: &Subject) -> Signature {
        self.sign_between(key, subject, self.now, None)
    }

    fn sign_between(
        &self,
        key: &SecretKey,
        subject: &Subject,
        created: Timestamp,
        expires: Option<Timestamp>,
    ) -> Signature {
        let statement = Statement::new(subject.clone(), created, expires, key.id()).expect("sound");
        signed(key, &statement.to_text())
    }

    fn later(&self, hours: i64) -> Timestamp {
        self.now + SignedDuration::from_hours(hours)
    }
}

fn key() -> SecretKey {
    SecretKey::generate().expect("entropy")
}

fn signed(key: &SecretKey, statement: &str) -> Signature {
    let minisig = Minisig::sign(key, statement.as_bytes(), "test").expect("clean").to_text();
    Signature::Pod { statement: statement.to_owned(), minisig }
}

fn subject(name: &str) -> Subject {
    Subject {
        name: ImageName::parse(name).expect("name"),
        version: Some(Version::parse("1.0").expect("version")),
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        manifest: Digest::of(b"manifest"),
        index: None,
    }
}

fn rule_text(key: &PublicKey, more: &str) -> String {
    format!(r#"{{"version":1,{more}"keys":[{{"id":"{}","key":"{}"}}]}}"#, key.id(), key.to_line())
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
}

#[test]
fn a_trusted_signature_is_accepted_until_trust_is_withdrawn() {
    let (bench, key) = (Bench::new(), key());
    let image = subject("example.com/app");
    let signature = bench.sign(&key, &image);
    says(&bench.refusal(&image, &[signature.clone()]), &["example.com/app:1.0", "covered by no trust rule"]);
    bench.trust("example.com", &key);
    let verdict = bench.judge(&image, &[signature.clone()]).expect("trusted");
    assert_eq!(verdict.keys, [key.id()]);
    remove(&bench.dirs, &Prefix::parse("example.com").expect("prefix"), key.id()).expect("remove");
    says(&bench.refusal(&image, &[signature]), &["no trust rule"]);
    assert!(!bench.local("example.com.json").exists());
}

#[test]
fn each_refusal_has_its_sentence() {
    let (bench, trusted, other, elsewhere) = (Bench::new(), key(), key(), key());
    bench.trust("example.com/et", &trusted);
    bench.trust("example.org", &elsewhere);
    let image = subject("example.com/et");
    let rule = "local rule `example.com/et`";
    says(&bench.refusal(&image, &[]), &["is not signed", rule]);
    let other_id = other.id().to_string();
    says(&bench.refusal(&image, &[bench.sign(&other, &image)]), &["is not trusted", &other_id, rule]);
    let text = bench.refusal(&image, &[bench.sign(&elsewhere, &image)]);
    says(&text, &["trusted for `example.org` only", &elsewhere.id().to_string()]);
    // A prefix ends at a component.
    says(
        &bench.refusal(&subject("example.com/etcd"), &[bench.sign(&trusted, &subject("example.com/etcd"))]),
        &["trusted for `example.com/et` only"],
    );
    let cases: [(Subject, &str); 5] = [
        (subject("example.com/et/a"), "for the image `example.com/et/a`"),
        (Subject { version: Version::parse("2").ok(), ..image.clone() }, "for version `2`"),
        (Subject { version: None, ..image.clone() }, "for version `-`"),
        (Subject { architecture: "arm64".to_owned(), ..image.clone() }, "for platform `linux/arm64`"),
        (Subject { manifest: Digest::of(b"manifesto"), ..image.clone() }, "for the manifest sha256:"),
    ];
    for (signed_for, sentence) in cases {
        let text = bench.refusal(&image, &[bench.sign(&trusted, &signed_for)]);
        says(&text, &[sentence, rule, &trusted.id().to_string(), "sha256:"]);
    }
}

#[test]
fn times_are_held() {
    let (bench, key) = (Bench::new(), key());
    bench.trust("a", &key);
    let image = subject("a");
    let expired = bench.sign_between(&key, &image, bench.later(-3), Some(bench.later(-1)));
    says(&bench.refusal(&image, &[expired]), &["expired at 2026-11-21T19:00:00Z"]);
    let ends_now = bench.sign_between(&key, &image, bench.later(-3), Some(bench.now));
    says(&bench.refusal(&image, &[ends_now]), &["expired"]);
    let future = bench.sign_between(&key, &image, bench.later(1), None);
    says(&bench.refusal(&image, &[future]), &["not valid before 2026-11-21T21:00:00Z"]);
    let skewed = bench.sign_between(&key, &image, bench.now + SignedDuration::from_mins(4), None);
    assert!(bench.judge(&image, &[skewed]).is_ok());
    let good = bench.sign(&key, &image);
    let window = |not_before, not_after| AddOptions { not_before, not_after, ..AddOptions::default() };
    bench.trust_with("a", &key, &window(Some(bench.later(1)), None));
    says(&bench.refusal(&image, &[good.clone()]), &["trusts the key only for signatures made from"]);
    bench.trust_with("a", &key, &window(None, Some(bench.later(-1))));
    says(&bench.refusal(&image, &[good.clone()]), &["trusts the key only until"]);
    bench.trust_with("a", &key, &window(Some(bench.later(-1)), Some(bench.later(1))));
    assert!(bench.judge(&image, &[good]).is_ok());
}

#[test]
fn revoked_keys_do_not_count() {
    let (bench, key) = (Bench::new(), key());
    bench.trust("a", &key);
    let image = subject("a");
    let signature = bench.sign(&key, &image);
    revoke(&bench.dirs, key.id(), "laptop stolen").expect("revoke");
    says(&bench.refusal(&image, &[signature]), &["the key is revoked (laptop stolen)", &key.id().to_string()]);
    let error = add(&bench.dirs, &Prefix::parse("b").expect("prefix"), &key.public().to_line(), &AddOptions::default());
    says(&error.expect_err("revoked").to_string(), &["is revoked"]);
}

#[test]
fn thresholds_count_different_keys() {
    let (bench, one, two, three) = (Bench::new(), key(), key(), key());
    let image = subject("a");
    bench.trust("a", &one);
    bench.trust_with("a", &two, &AddOptions { threshold: Some(2), ..AddOptions::default() });
    let first = bench.sign(&one, &image);
    let text =
        bench.refusal(&image, &[first.clone(), first.clone(), bench.sign(&one, &image), bench.sign(&three, &image)]);
    says(&text, &["signed by 1 of the 2 different keys", &one.id().to_string()]);
    let flawed = bench.sign(&two, &subject("b"));
    says(&bench.refusal(&image, &[first.clone(), flawed]), &["1 of the 2", "for the image `b`"]);
    let verdict = bench.judge(&image, &[bench.sign(&three, &image), first, bench.sign(&two, &image)]).expect("both");
    assert_eq!(verdict.keys, [one.id(), two.id()]);
    let error = add(
        &bench.dirs,
        &Prefix::parse("a").expect("prefix"),
        &one.public().to_line(),
        &AddOptions { threshold: Some(3), ..AddOptions::default() },
    );
    says(&error.expect_err("too high").to_string(), &["would ask for 3 keys and have 2"]);
}

#[test]
fn one_key_under_two_ids_counts_once() {
    let (bench, one) = (Bench::new(), key());
    let file = one.to_file(None).expect("file");
    // The same secret with another id: minisign lets its owner choose it.
    let other = SecretKey::parse(&renamed(&file), None).expect("renamed");
    assert_ne!(one.id(), other.id());
    let image = subject("a");
    let text = format!(
        r#"{{"version":1,"threshold":2,"keys":[{{"id":"{}","key":"{}"}},{{"id":"{}","key":"{}"}}]}}"#,
        one.id(),
        one.public().to_line(),
        other.id(),
        other.public().to_line()
    );
    bench.vendor("a.json", &text);
    let text = bench.refusal(&image, &[bench.sign(&one, &image), bench.sign(&other, &image)]);
    says(&text, &["signed by 1 of the 2 different keys"]);
}

/// Changes the key id in a secret key file, checksum included.
fn renamed(file: &str) -> String {
    use base64::Engine as _;
    use blake2::Digest as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let mut bytes = base64.decode(file.lines().nth(1).expect("line")).expect("base64");
    bytes[54] ^= 1;
    let mut hash = blake2::Blake2b::<blake2::digest::consts::U32>::new();
    hash.update(&bytes[..2]);
    hash.update(&bytes[54..126]);
    bytes[126..].copy_from_slice(&hash.finalize());
    format!("untrusted comment: x\n{}\n", base64.encode(bytes))
}

#[test]
fn the_most_specific_rule_decides_alone_unless_it_inherits() {
    let (bench, broad, narrow, root) = (Bench::new(), key(), key(), key());
    bench.trust("*", &root);
    bench.trust("a.b", &broad);
    bench.trust("a.b/c", &narrow);
    let image = subject("a.b/c");
    for key in [&broad, &root] {
        says(&bench.refusal(&image, &[bench.sign(key, &image)]), &["only"]);
    }
    assert!(bench.judge(&image, &[bench.sign(&narrow, &image)]).is_ok());
    bench.trust_with("a.b/c", &narrow, &AddOptions { inherit: Some(true), ..AddOptions::default() });
    assert!(bench.judge(&image, &[bench.sign(&broad, &image)]).is_ok());
    // `a.b` does not inherit, so the chain ends there.
    assert!(bench.judge(&image, &[bench.sign(&root, &image)]).is_err());
    assert!(bench.judge(&subject("other"), &[bench.sign(&root, &subject("other"))]).is_ok());
}

#[test]
fn the_administrator_masks_the_vendor() {
    let (bench, vendor, local) = (Bench::new(), key(), key());
    bench.vendor("a.json", &rule_text(&vendor.public(), ""));
    let image = subject("a");
    let signature = bench.sign(&vendor, &image);
    assert!(bench.judge(&image, &[signature.clone()]).is_ok());
    std::fs::create_dir_all(bench.local("")).expect("directory");
    std::fs::write(bench.local("a.json"), "").expect("mask");
    says(&bench.refusal(&image, &[signature.clone()]), &["only"]);
    std::fs::write(bench.local("a.json"), rule_text(&local.public(), "")).expect("rule");
    says(&bench.refusal(&image, &[signature]), &["is signed by key", &vendor.id().to_string()]);
    assert!(bench.judge(&image, &[bench.sign(&local, &image)]).is_ok());
    let masked: Vec<bool> = list(&bench.dirs).expect("list").iter().map(|entry| entry.masked).collect();
    assert_eq!(masked, [false, true]);
    // Removing the last key must not bring the vendor's rule back.
    remove(&bench.dirs, &Prefix::parse("a").expect("prefix"), local.id()).expect("remove");
    assert!(bench.judge(&image, &[bench.sign(&vendor, &image)]).is_err());
}

#[test]
fn the_built_in_key_is_for_one_name() {
    let (bench, key) = (Bench::new(), key());
    let dirs = bench.dirs.clone().with_built_in("demo", key.public()).expect("name");
    let bench = Bench { dirs, ..bench };
    let demo = subject("demo");
    assert!(bench.judge(&demo, &[bench.sign(&key, &demo)]).is_ok());
    let below = subject("demo/x");
    assert!(bench.judge(&below, &[bench.sign(&key, &below)]).is_err());
    remove(&bench.dirs, &Prefix::parse("demo").expect("prefix"), key.id()).expect("masked");
    assert!(bench.judge(&demo, &[bench.sign(&key, &demo)]).is_err());
}

#[test]
fn broken_rules_refuse_instead_of_being_skipped() {
    let (bench, key) = (Bench::new(), key());
    let image = subject("a/b");
    bench.vendor("a.json", &rule_text(&key.public(), ""));
    let signature = bench.sign(&key, &image);
    assert!(bench.judge(&image, &[signature.clone()]).is_ok());
    for (text, sentence) in [
        ("{".to_owned(), "cannot be judged"),
        (rule_text(&key.public(), "\"unknown\":1,"), "unknown field `unknown`"),
        ("{\"version\":1,\"keys\":[]}".to_owned(), "has no key"),
        ("{\"version\":1,\"accept\":\"nothing\"}".to_owned(), "accepts no image"),
        (rule_text(&key.public(), "\"threshold\":2,"), "1 of the 2"),
    ] {
        bench.vendor("a+b.json", &text);
        says(&bench.refusal(&image, &[signature.clone()]), &[sentence]);
    }
    bench.vendor("a+b.json", "{\"version\":1,\"accept\":\"anything\"}");
    says(&bench.refusal(&image, &[]), &["is not signed", "this came from a place that is not recorded"]);
    let came = [Came::Registry { name: image.name.clone(), version: None, channel: Channel::Tls }];
    let grant = bench.judge_from(&came, &image, &[]);
    assert!(matches!(grant.map(|grant| grant.basis), Ok(Basis::Anything)));
    bench.vendor("a+b.json", "{\"version\":1,\"accept\":\"nothing\",\"audit\":true}");
    assert!(matches!(bench.judge(&image, &[]).map(|verdict| verdict.basis), Ok(Basis::Audited(_))));
}

#[test]
fn a_pin_is_an_identity_that_only_a_prohibition_overrules() {
    let bench = Bench::new();
    let policy = Policy::load(&bench.dirs);
    let image = subject("a");
    let pinned = |pin: Digest| {
        let asked = Some(Asked { name: &image.name, version: None, pin: Some(pin) });
        let subject = &image;
        let question =
            Question { asked, subject, id: None, came: &[], signatures: &[], marks: NO_MARKS, now: bench.now };
        policy.judge(&question).map(|acceptance| acceptance.asked.basis)
    };
    assert!(matches!(pinned(image.manifest), Ok(Basis::Pinned)));
    says(&pinned(Digest::of(b"other")).expect_err("another").to_string(), &["is not sha256:", "asked for"]);
    bench.vendor("a.json", "{\"version\":1,\"accept\":\"nothing\"}");
    assert!(pinned(image.manifest).is_err());
}

#[test]
fn changed_and_foreign_documents_do_not_count() {
    let (bench, key) = (Bench::new(), key());
    bench.trust("a", &key);
    let image = subject("a");
    let Signature::Pod { statement, minisig } = bench.sign(&key, &image) else { panic!("ours") };
    let changed = statement.replace("1.0", "1.1");
    says(&bench.refusal(&image, &[Signature::Pod { statement: changed, minisig: minisig.clone() }]), &["was changed"]);
    let cut = minisig[..minisig.len() - 9].to_owned();
    says(
        &bench.refusal(&image, &[Signature::Pod { statement: statement.clone(), minisig: cut }]),
        &["malformed signature"],
    );
    // Signed by the right key, and not a statement: another spelling, another domain, another key's name.
    for (from, to) in [("os: linux", "os:  linux"), ("PODSIG1", "PODSIG9"), ("version: 1.0\n", "")] {
        let text = statement.replacen(from, to, 1);
        says(&bench.refusal(&image, &[signed(&key, &text)]), &["malformed"]);
    }
    let text = statement.replace(&key.id().to_string(), "0123456789ABCDEF");
    says(&bench.refusal(&image, &[signed(&key, &text)]), &["says that key 0123456789ABCDEF"]);
}

#[test]
fn writable_and_odd_rule_files_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (bench, key) = (Bench::new(), key());
    bench.trust("a", &key);
    let path = bench.local("a.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    says(&bench.refusal(&subject("a"), &[]), &["trust rules are open to others"]);
    std::fs::remove_file(&path).expect("remove");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("fifo");
    says(&bench.refusal(&subject("a"), &[]), &["not a regular file"]);
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(bench.local("Not A Prefix.json"), "{}").expect("file");
    says(&list(&bench.dirs).expect_err("named").to_string(), &["Not A Prefix.json", "no prefix"]);
}

#[test]
fn every_name_needs_the_word_for_it() {
    let (bench, key) = (Bench::new(), key());
    let error = add(&bench.dirs, &Prefix::All, &key.public().to_line(), &AddOptions::default()).expect_err("unbounded");
    says(&error.to_string(), &["unbounded trust"]);
}

#[test]
fn rotations_need_old_and_new_keys_and_never_go_back() {
    let (bench, old, new, newer) = (Bench::new(), key(), key(), key());
    bench.trust("a", &old);
    let rotation = |number, keys: &[&SecretKey], signers: &[&SecretKey]| {
        let rotation = Rotation {
            prefix: Prefix::parse("a").expect("prefix"),
            number,
            threshold: 1,
            created: bench.now,
            expires: Some(bench.later(1)),
            keys: keys.iter().map(|key| key.public()).collect(),
        };
        signers.iter().fold(rotation.to_text(), |text, key| Rotation::sign(&text, key).expect("sign"))
    };
    let apply = |text: &str| rotate(&bench.dirs, text, bench.now);
    let error = |text: &str| apply(text).expect_err("refused").to_string();
    says(&error(&rotation(1, &[&new], &[&new])), &["0 of the 1 old keys"]);
    says(&error(&rotation(1, &[&new], &[&old])), &["0 of the 1 new keys"]);
    says(&error(&rotation(1, &[&new], &[])), &["0 of the 1 old keys"]);
    let good = rotation(1, &[&new], &[&old, &new]);
    says(&error(&good.replace("number: 1", "number: 2")), &["does not match what it signs"]);
    says(&error(&good.replace("number: 1", "number: 01")), &["another spelling"]);
    let late = rotate(&bench.dirs, &good, bench.later(2)).expect_err("late").to_string();
    says(&late, &["is valid from"]);
    apply(&good).expect("rotated");
    let image = subject("a");
    assert!(bench.judge(&image, &[bench.sign(&old, &image)]).is_err());
    assert!(bench.judge(&image, &[bench.sign(&new, &image)]).is_ok());
    apply(&rotation(2, &[&newer], &[&new, &newer])).expect("rotated again");
    says(&error(&good), &["rotation 1 of `a` is refused, because rotation 2 was applied already"]);
    says(&error(&rotation(2, &[&new], &[&newer, &new])), &["refused, because rotation 2"]);
    revoke(&bench.dirs, newer.id(), "").expect("revoke");
    says(&error(&rotation(3, &[&new], &[&newer, &new])), &["0 of the 1 old keys"]);
}

#[test]
fn policies_are_imported_whole_or_not_at_all() {
    let pem = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8he7pb0Nki2IJau/VFObjoGOpfR3
I04LsC3eZjo/eb8zPcJ5DbdYMhA5a8QMRSAPazWzgTuJWZWOtFUsys32PQ==
-----END PUBLIC KEY-----
";
    let wrap = |default: &str, docker: &str| {
        format!(
            r#"{{"default":[{{"type":"{default}"}}],"transports":{{"docker-daemon":{{"":[{{"type":"insecureAcceptAnything"}}]}},"docker":{{{docker}}}}}}}"#
        )
    };
    let bad = [
        ("insecureAcceptAnything", String::new(), "--root"),
        ("reject", r#""a.b":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]"#.to_owned(), "signedBy"),
        ("reject", r#""a.b:tag/x":[{"type":"reject"}]"#.to_owned(), "no prefix"),
        ("reject", r#""*.b":[{"type":"reject"}]"#.to_owned(), "no prefix"),
        ("reject", r#""a.b":[]"#.to_owned(), "no requirement"),
        ("reject", r#""a.b":[{"type":"reject"}],"a.b":[{"type":"insecureAcceptAnything"}]"#.to_owned(), "twice"),
        ("reject", r#""a.b":[{"type":"sigstoreSigned"}]"#.to_owned(), "exactly one key"),
        ("reject", r#""a.b":[{"type":"sigstoreSigned","fulcio":{}}]"#.to_owned(), "certificates"),
        ("reject", r#""a.b":[{"type":"sigstoreSigned","keyPath":"/nowhere"}]"#.to_owned(), "/nowhere"),
        ("reject", r#""a.b":[{"type":"sigstoreSigned","keyData":"AAAA"}]"#.to_owned(), "neither"),
        (
            "reject",
            r#""a.b":[{"type":"sigstoreSigned","keyData":"x","signedIdentity":{"type":"matchExact"}}]"#.to_owned(),
            "matchExact",
        ),
        ("reject", r#""a.b":[{"type":"reject","extra":1}]"#.to_owned(), "extra"),
    ];
    let bench = Bench::new();
    for (default, docker, sentence) in bad {
        let error = import_policy(&bench.dirs, &wrap(default, &docker), false).expect_err(&docker);
        says(&error.to_string(), &["cannot be imported", sentence]);
        assert!(list(&bench.dirs).expect("list").is_empty(), "nothing is written");
    }
    let path = bench.root.path().join("key.pem");
    std::fs::write(&path, pem).expect("key");
    let docker = format!(
        r#""a.b":[{{"type":"sigstoreSigned","keyPath":"{}","signedIdentity":{{"type":"remapIdentity","prefix":"a.b","signedPrefix":"c.d"}}}}],"e.f/g":[{{"type":"insecureAcceptAnything"}}]"#,
        Path::display(&path)
    );
    let text = wrap("reject", &docker);
    let entries = import_policy(&bench.dirs, &text, false).expect("imported");
    let rules: Vec<_> = entries.iter().map(|entry| (entry.prefix.as_str(), entry.accept, entry.keys.len())).collect();
    assert_eq!(rules, [("a.b", Accept::Signed, 1), ("e.f/g", Accept::Anything, 0), ("*", Accept::Nothing, 0)]);
    assert_eq!(entries[0].signed_as.as_deref(), Some("c.d"));
    assert!(import_policy(&bench.dirs, &text, false).is_ok(), "the same again changes nothing");
    says(&bench.refusal(&subject("x"), &[]), &["accepts no image"]);
}

/// A key and a cosign payload by it for a name and a digest.
fn cosign(name: &str, digest: &Digest) -> (String, Signature) {
    use base64::Engine as _;
    use p256::ecdsa::signature::Signer as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let key = p256::ecdsa::SigningKey::from_bytes(&[7; 32].into()).expect("in range");
    let der = [&crate::key::P256_HEAD[..], key.verifying_key().to_sec1_point(false).as_bytes()].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64.encode(der));
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{name}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    let signature: p256::ecdsa::Signature = key.sign(payload.as_bytes());
    (pem, Signature::CosignPayload { payload, signature: base64.encode(signature.to_der().as_bytes()) })
}

#[test]
fn cosign_signatures_bind_digest_and_name() {
    let bench = Bench::new();
    let image = subject("registry.example.com/team/app");
    let (pem, good) = cosign("registry.example.com/team/app", &image.manifest);
    says(&bench.refusal(&image, &[good.clone()]), &["no trust rule"]);
    let prefix = Prefix::parse("registry.example.com/team").expect("prefix");
    add(&bench.dirs, &prefix, &pem, &AddOptions::default()).expect("add");
    let verdict = bench.judge(&image, &[good.clone()]).expect("trusted");
    let id = verdict.keys[0];
    let other = subject("registry.example.com/team/other");
    says(&bench.refusal(&other, &[good.clone()]), &["for the image `registry.example.com/team/app`", &id.to_string()]);
    let (_, elsewhere) = cosign("registry.example.com/team/app", &Digest::of(b"another"));
    says(&bench.refusal(&image, &[elsewhere.clone()]), &["for the manifest sha256:"]);
    // The signature of an index speaks for the manifests that it lists.
    let listed = Subject { index: Some(Digest::of(b"another")), ..image.clone() };
    assert!(bench.judge(&listed, &[elsewhere]).is_ok());
    let (_, tagged) = cosign("registry.example.com/team/app:2.0", &image.manifest);
    says(&bench.refusal(&image, &[tagged]), &["for version `2.0`"]);
    let Signature::CosignPayload { payload, signature } = good.clone() else { panic!("cosign") };
    let changed = Signature::CosignPayload { payload: payload.replace("team/app", "team/apq"), signature };
    says(&bench.refusal(&image, &[changed]), &["unknown key, or its signature was changed"]);
    revoke(&bench.dirs, id, "").expect("revoke");
    says(&bench.refusal(&image, &[good]), &["the key is revoked"]);
}

#[test]
fn a_mirrored_image_may_keep_the_name_it_was_signed_under() {
    let bench = Bench::new();
    let image = subject("mirror.example.com/hub/app");
    let (pem, signature) = cosign("origin.example.com/app", &image.manifest);
    let key = TrustedKey::parse(&pem, None).expect("key");
    let key = RuleKey { key, not_before: None, not_after: None, comment: None };
    let rule = Rule { signed_as: Some("origin.example.com".to_owned()), keys: vec![key], ..Rule::signed() };
    bench.vendor("mirror.example.com+hub.json", &rule.to_text());
    assert!(bench.judge(&image, &[signature.clone()]).is_ok());
    bench.vendor("mirror.example.com+hub.json", &Rule { signed_as: None, ..rule }.to_text());
    says(&bench.refusal(&image, &[signature]), &["for the image `origin.example.com/app`"]);
}
