//! Each old hole by its place in the reviews, and the neighbours of each. A property test compares with a second reading.

use super::*;
use crate::cosign::Claim;
use crate::key::{PublicKey, SecretKey};
use crate::provenance::{Came, Channel};
use crate::statement::{Statement, moment};
use crate::trust::refusal::Flaw;
use crate::trust::rule::{RuleKey, TrustedKey};
use crate::trust::{Level, Prefix};
use std::sync::LazyLock;

static CORP: LazyLock<PublicKey> = LazyLock::new(|| SecretKey::generate().expect("entropy").public());
static OTHER: LazyLock<PublicKey> = LazyLock::new(|| SecretKey::generate().expect("entropy").public());

fn name(text: &str) -> ImageName {
    ImageName::parse(text).expect("a name")
}

fn time(text: &str) -> Timestamp {
    moment(text).expect("a time")
}

/// A case that is put together, and then decided.
struct Table {
    asked: Option<crate::reference::NameReference>,
    image: Subject,
    came: Vec<Came>,
    evidence: Vec<Evidence>,
    rules: Rules,
    marks: Marks,
}

/// An image that calls itself so, in a place that has no rules.
fn image(own: &str) -> Table {
    let own = crate::reference::NameReference::parse(own).expect("a name");
    let image = Subject {
        name: own.name,
        version: own.version,
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        manifest: Digest::of(b"manifest"),
        index: Some(Digest::of(b"index")),
    };
    let (came, evidence) = (vec![Came::File], Vec::new());
    Table { asked: None, image, came, evidence, rules: Rules::new(), marks: Marks::new() }
}

impl Table {
    /// Asked for by this name, and given out for it by the registry of the name.
    fn asked(self, asked: &str) -> Self {
        self.asked_by(asked, Channel::Tls)
    }

    fn asked_by(mut self, asked: &str, channel: Channel) -> Self {
        let asked = crate::reference::NameReference::parse(asked).expect("a name");
        let version = asked.digest.is_none().then(|| asked.version.clone().unwrap_or_else(Version::latest));
        self.came = vec![Came::Registry { name: full(&asked.name), version, channel }];
        self.asked = Some(asked);
        self
    }

    fn from(mut self, came: &[Came]) -> Self {
        self.came = came.to_vec();
        self
    }

    fn rule(mut self, prefix: &str, rule: Rule) -> Self {
        self.rules.insert(Prefix::parse(prefix).expect("a prefix"), (Level::Local, rule));
        self
    }

    fn signed(mut self, key: &PublicKey, as_name: &str, created: &str) -> Self {
        let as_name = crate::reference::NameReference::parse(as_name).expect("a name");
        let subject = Subject { name: as_name.name, version: as_name.version, index: None, ..self.image.clone() };
        let statement = Statement { subject, created: time(created), expires: None, key: key.id() };
        let (key, spoken) = (TrustedKey::Minisign(*key), Spoken::Statement(statement));
        self.evidence.push(Evidence::Says { key, revoked: None, spoken });
        self
    }

    fn decide(&self) -> Result<Acceptance, Refusal> {
        let asked = self.asked.as_ref();
        let asked = asked.map(|asked| Asked { name: &asked.name, version: asked.version.as_ref(), pin: asked.digest });
        let Self { image, came, evidence, rules, marks, .. } = self;
        decide(&Case { asked, image, id: None, came, evidence, rules, marks, now: time("2026-11-27T12:00:00Z") })
    }

    #[track_caller]
    fn accepted(&self) -> Acceptance {
        self.decide().unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    #[track_caller]
    fn refused(&self, sentence: &str) {
        let refusal = self.decide().expect_err("refused").to_string();
        assert!(refusal.contains(sentence), "`{sentence}` in: {refusal}");
    }
}

const NEW: &str = "2026-11-20T00:00:00Z";
const OLD: &str = "2026-11-10T00:00:00Z";

fn anything() -> Rule {
    Rule { accept: Accept::Anything, ..Rule::signed() }
}

fn nothing() -> Rule {
    Rule { accept: Accept::Nothing, ..Rule::signed() }
}

fn keys(keys: &[&PublicKey]) -> Rule {
    let key = |public: &&PublicKey| RuleKey {
        key: TrustedKey::Minisign(**public),
        not_before: None,
        not_after: None,
        comment: None,
    };
    Rule { keys: keys.iter().map(key).collect(), ..Rule::signed() }
}

// images.md A1: an unsigned image chose a laxer rule by the name that it gave itself.
#[test]
fn the_rule_of_the_asked_name_must_accept() {
    let asked = "localhost:5080/prod/app:1";
    let hole =
        image("x.example/prod/app:1").asked(asked).rule("*", anything()).rule("localhost:5080/prod", keys(&[&CORP]));
    hole.refused("is not signed");
    hole.rule("localhost:5080/prod", nothing()).refused("accepts no image");
}

// images.md A2, security.md A2: another publisher's signature stood in for the one that the asked name wants.
#[test]
fn keys_count_under_the_rule_of_the_asked_name() {
    let hole =
        || image("other.test/prod/app:1").asked("localhost:5917/prod/app:1").rule("localhost:5917", keys(&[&CORP]));
    hole().rule("other.test", keys(&[&OTHER])).signed(&OTHER, "other.test/prod/app:1", NEW).refused("is not trusted");
    // The right key, and it signed another name.
    let named = hole().rule("other.test", keys(&[&CORP])).signed(&CORP, "other.test/prod/app:1", NEW);
    named.refused("the signature is for the image `other.test/prod/app`");
    // Signed for both names, each by a key of its rule.
    let both = named.signed(&CORP, "localhost:5917/prod/app:1", NEW);
    assert!(both.accepted().own.is_some());
    // The own name narrows: without its rule, or against it, the image is refused.
    both.rule("other.test", keys(&[&OTHER])).refused("other.test/prod/app:1");
}

// images.md A3: accepting anything of one registry let in files, archives and other hosts under its name.
#[test]
fn anything_is_what_the_registry_of_the_name_gave_out() {
    let registry = |registry: &str, tag: &str, channel| Came::Registry {
        name: name(registry),
        version: Version::parse(tag).ok(),
        channel,
    };
    let hub = "docker.io/library/busybox";
    let as_file = |own: &str, came: Came| image(own).rule(hub, anything()).from(&[came]);
    for came in [
        Came::File,
        Came::Archive,
        Came::Web,
        registry(hub, "1", Channel::Http),
        registry(hub, "1", Channel::Unverified),
        registry("localhost:5080/library/busybox", "1", Channel::Tls),
        registry("docker.io/library/busy", "1", Channel::Tls),
    ] {
        as_file("docker.io/library/busybox:1", came.clone()).refused("accepts that only of a registry of that name");
        // The short spelling is the same name.
        as_file("busybox:1", came).refused("accepts that only of a registry of that name");
    }
    as_file("docker.io/library/busybox:1", registry(hub, "1", Channel::Tls)).accepted();
    let other = image("docker.io/library/busybox:1").asked("localhost:5080/library/busybox:1").rule(hub, anything());
    other.refused("no trust rule");
    // Both accept anything, and the bytes came from one of them only.
    other.rule("localhost:5080", anything()).refused("image `docker.io/library/busybox:1`");
}

#[test]
fn a_tag_is_what_the_registry_said_of_it() {
    let came = |version: Option<&str>| Came::Registry {
        name: name("a.b/c"),
        version: version.map(|version| Version::parse(version).expect("a version")),
        channel: Channel::Tls,
    };
    let case = |asked: &str, came: Came| image("a.b/c:1").asked(asked).rule("*", anything()).from(&[came]);
    case("a.b/c:1", came(Some("1"))).accepted();
    case("a.b/c", came(Some("1"))).accepted();
    case("a.b/c:latest", came(Some("1"))).accepted();
    case("a.b/c:2", came(Some("1"))).refused("this came as `a.b/c:1`");
    case("a.b/c:1", came(None)).refused("this came as `a.b/c`");
    case("a.b/c", came(None)).refused("this came as `a.b/c`");
}

#[test]
fn a_version_is_bound_and_no_version_is_none() {
    let case = |asked: &str, signed: &str| {
        image("a.b/c:1").asked(asked).rule("a.b", keys(&[&CORP])).signed(&CORP, signed, NEW)
    };
    case("a.b/c:1", "a.b/c:1").accepted();
    case("a.b/c", "a.b/c:1").accepted();
    case("a.b/c:latest", "a.b/c:1").accepted();
    case("a.b/c:latest", "a.b/c").accepted();
    case("a.b/c:stable", "a.b/c:stable").accepted();
    case("a.b/c:stable", "a.b/c:1").refused("is for version `1`");
    case("a.b/c:2", "a.b/c").refused("is for version `-`");
    // A file answers for its own version.
    let file = |signed: &str| image("a.b/c:1").rule("a.b", keys(&[&CORP])).signed(&CORP, signed, NEW);
    file("a.b/c:1").accepted();
    file("a.b/c:2").refused("is for version `2`");
    file("a.b/c").refused("is for version `-`");
}

#[test]
fn a_digest_is_the_users_word() {
    let manifest = Digest::of(b"manifest");
    let pinned = |digest: Digest| image("x.y/z:1").asked(&format!("a.b/c:7@{digest}"));
    assert!(matches!(pinned(manifest).accepted().asked.basis, Basis::Pinned));
    assert!(matches!(pinned(Digest::of(b"index")).accepted().asked.basis, Basis::Pinned));
    pinned(Digest::of(b"other")).refused("which was asked for");
    pinned(manifest).rule("a.b", nothing()).refused("accepts no image");
    // The own name narrows here, too.
    pinned(manifest).rule("x.y", nothing()).refused("image `x.y/z:1`");
    // A digest beside a tag: the digest says which one, the signature who.
    let signed = image("a.b/c:1").asked(&format!("a.b/c:7@{manifest}")).rule("a.b", keys(&[&CORP]));
    assert!(matches!(signed.signed(&CORP, "a.b/c:1", OLD).accepted().asked.basis, Basis::Signed));
}

// security.md A7.
#[test]
fn an_older_signature_does_not_come_back() {
    let case = |asked: &str, created: &str| {
        let mut case =
            image("a.b/c:1").asked(asked).rule("a.b", keys(&[&CORP, &OTHER])).signed(&CORP, "a.b/c:1", created);
        case.marks.insert(CORP.id(), time(NEW));
        case
    };
    case("a.b/c:1", NEW).accepted();
    case("a.b/c:1", OLD).refused("one of 2026-11-20T00:00:00Z was accepted before");
    case(&format!("a.b/c:1@{}", Digest::of(b"manifest")), OLD).accepted();
    // Each key has its own clock.
    case("a.b/c:1", OLD).signed(&OTHER, "a.b/c:1", OLD).accepted();
    let accepted = case("a.b/c:1", "2026-11-21T00:00:00Z").accepted();
    assert_eq!(accepted.asked.created, Marks::from([(CORP.id(), time("2026-11-21T00:00:00Z"))]));
    let mut file = image("a.b/c:1").rule("a.b", keys(&[&CORP])).signed(&CORP, "a.b/c:1", OLD);
    file.marks.insert(CORP.id(), time(NEW));
    file.refused("was accepted before");
}

#[test]
fn names_have_other_spellings() {
    let case = |asked: &str| image(asked).asked(asked).rule("*", anything());
    // One registry under two names: a rule of the one is about the other.
    for (asked, prefix) in [
        ("bar.test:443/x:1", "bar.test"),
        ("index.docker.io/library/redis:1", "docker.io"),
        ("registry-1.docker.io/library/redis:1", "docker.io/library/redis"),
        ("redis:1", "docker.io"),
        ("team/app:1", "docker.io/team"),
    ] {
        case(asked).accepted();
        case(asked).rule(prefix, nothing()).refused("accepts no image");
    }
    // These are other names.
    for (asked, prefix) in [
        ("bar.test.evil.com/x:1", "bar.test"),
        ("bar.testx/x:1", "bar.test"),
        ("bar.test:5000/x:1", "bar.test"),
        ("bar.test/xy:1", "bar.test/x"),
        ("docker.io/library/redis:1", "redis"),
    ] {
        case(asked).rule(prefix, nothing()).accepted();
    }
    // And these are none.
    for text in ["Bar.test/x", "bar.test./x", "bar.test/X", "bar.test:0443/x", "bar.test:/x", "bar.test/x."] {
        assert!(ImageName::parse(text).is_err(), "{text}");
    }
}

#[test]
fn foreign_signatures_bind_the_tag_where_the_rule_says_so() {
    let pem = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8he7pb0Nki2IJau/VFObjoGOpfR3
I04LsC3eZjo/eb8zPcJ5DbdYMhA5a8QMRSAPazWzgTuJWZWOtFUsys32PQ==
-----END PUBLIC KEY-----
";
    let key = TrustedKey::parse(pem, None).expect("a key");
    let rule = |tags| {
        let key = RuleKey { key: key.clone(), not_before: None, not_after: None, comment: None };
        Rule { keys: vec![key], tags, ..Rule::signed() }
    };
    let case = |asked: &str, tag: Option<&str>, tags| {
        let mut case = image("a.b/c:1").asked(asked).rule("a.b", rule(tags));
        let version = tag.map(|tag| Version::parse(tag).expect("a version"));
        let claim = Claim { digest: Digest::of(b"manifest"), name: Some(name("a.b/c")), version };
        let (key, spoken) = (key.clone(), Spoken::Foreign(claim));
        case.evidence.push(Evidence::Says { key, revoked: None, spoken });
        case
    };
    for (asked, tag, without, with) in [
        ("a.b/c:1", Some("1"), true, true),
        ("a.b/c:1", None, true, false),
        ("a.b/c:1", Some("2"), false, false),
        ("a.b/c", Some("latest"), false, true),
        ("a.b/c", None, true, false),
        ("a.b/c", Some("1"), true, false),
    ] {
        assert_eq!(case(asked, tag, false).decide().is_ok(), without, "{asked} {tag:?}");
        assert_eq!(case(asked, tag, true).decide().is_ok(), with, "{asked} {tag:?} with tags");
    }
    let pinned = format!("a.b/c@{}", Digest::of(b"manifest"));
    assert!(matches!(case(&pinned, None, true).accepted().asked.basis, Basis::Signed));
}

#[test]
fn an_audit_reports_what_it_would_refuse() {
    let audit = |rule: Rule| Rule { audit: true, ..rule };
    let case = image("a.b/c:1").asked("a.b/c:2").rule("a.b", audit(keys(&[&CORP]))).signed(&CORP, "a.b/c:1", NEW);
    let Basis::Audited(refusal) = case.accepted().asked.basis else { panic!("audited") };
    assert!(matches!(refusal.reason, Reason::Flawed { flaw: Flaw::Version(_), .. }));
    // A rule that audits speaks for its own name only.
    image("x.y/z").asked("a.b/c").rule("a.b", audit(nothing())).rule("x.y", nothing()).refused("image `x.y/z`");
}
