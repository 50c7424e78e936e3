//! Laws of the decision over cases of a tiny alphabet, so that names, tags, keys and rules collide.
//!
//! [`cases`] makes them. Each law is stated without looking at how the decision is made.

use super::*;
use crate::cosign::Claim;
use crate::key::{PublicKey, SecretKey};
use crate::provenance::{Came, Channel};
use crate::reference::NameReference;
use crate::statement::Statement;
use crate::trust::rule::{RuleKey, TrustedKey};
use crate::trust::{Level, Prefix};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Two ordinary keys, and one with the id of the first and other material, as its maker may choose.
static KEYS: LazyLock<[TrustedKey; 4]> = LazyLock::new(|| {
    let key = || SecretKey::generate().expect("entropy").public();
    let (first, second, third) = (key(), key(), key());
    let bytes = |key: &PublicKey| STANDARD.decode(key.to_line()).expect("base64");
    let mut twin = bytes(&third);
    twin[2..10].copy_from_slice(&bytes(&first)[2..10]);
    let twin = PublicKey::parse(&STANDARD.encode(twin)).expect("a key");
    assert_eq!(twin.id(), first.id());
    let pem = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8he7pb0Nki2IJau/VFObjoGOpfR3
I04LsC3eZjo/eb8zPcJ5DbdYMhA5a8QMRSAPazWzgTuJWZWOtFUsys32PQ==
-----END PUBLIC KEY-----
";
    let pem = TrustedKey::parse(pem, None).expect("a key");
    [TrustedKey::Minisign(first), TrustedKey::Minisign(second), TrustedKey::Minisign(twin), pem]
});

const HOSTS: [&str; 6] = ["", "docker.io/", "index.docker.io/", "a.b/", "a.b:443/", "b.c:5000/"];
const PATHS: [&str; 6] = ["x", "library/x", "y", "x/y", "x/y/x", "library/x/y"];
const DIGESTS: [&[u8]; 3] = [b"manifest", b"index", b"other"];

/// A case with all that it borrows.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    asked: Option<NameReference>,
    image: Subject,
    id: Option<Digest>,
    came: Vec<Came>,
    evidence: Vec<Evidence>,
    rules: Rules,
    marks: Marks,
}

impl Owned {
    pub(super) fn with<T>(&self, ask: impl FnOnce(&Case<'_>) -> T) -> T {
        let asked = self.asked.as_ref();
        let asked = asked.map(|asked| Asked { name: &asked.name, version: asked.version.as_ref(), pin: asked.digest });
        let Self { image, id, came, evidence, rules, marks, .. } = self;
        ask(&Case { asked, image, id: *id, came, evidence, rules, marks, now: second(100) })
    }

    fn accepted(&self) -> Option<Acceptance> {
        self.with(|case| decide(case).ok())
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a time")
}

fn name() -> impl Strategy<Value = ImageName> {
    (0..HOSTS.len(), 0..PATHS.len())
        .prop_map(|(host, path)| ImageName::parse(&format!("{}{}", HOSTS[host], PATHS[path])).expect("a name"))
}

fn version() -> impl Strategy<Value = Option<Version>> {
    prop_oneof![Just(None), Just(Some("latest")), Just(Some("1")), Just(Some("2"))]
        .prop_map(|text| text.map(|text| Version::parse(text).expect("a version")))
}

fn digest() -> impl Strategy<Value = Digest> {
    (0..DIGESTS.len()).prop_map(|which| Digest::of(DIGESTS[which]))
}

fn key() -> impl Strategy<Value = TrustedKey> {
    (0..KEYS.len()).prop_map(|which| KEYS[which].clone())
}

fn subject() -> impl Strategy<Value = Subject> {
    (name(), version(), any::<bool>()).prop_map(|(name, version, arm)| Subject {
        name,
        version,
        os: "linux".to_owned(),
        architecture: if arm { "arm64" } else { "amd64" }.to_owned(),
        manifest: Digest::of(b"manifest"),
        index: Some(Digest::of(b"index")),
    })
}

fn came() -> impl Strategy<Value = Came> {
    let channel = prop_oneof![4 => Just(Channel::Tls), 1 => Just(Channel::Unverified), 1 => Just(Channel::Http)];
    let registry = (name(), version(), channel).prop_map(|(name, version, channel)| Came::Registry {
        name: full(&name),
        version,
        channel,
    });
    prop_oneof![5 => registry, 1 => Just(Came::Web), 1 => Just(Came::File), 1 => Just(Came::Archive)]
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let foreign = (digest(), proptest::option::weighted(0.8, name()), version()).prop_map(|(digest, name, version)| {
        Spoken::Foreign(Claim { digest, name: name.map(|name| full(&name)), version })
    });
    let ours = (subject(), digest(), 0_i64..200, proptest::option::weighted(0.3, 50_i64..300)).prop_map(
        |(subject, manifest, created, expires)| {
            let subject = Subject { manifest, index: None, ..subject };
            let expires = expires.map(second);
            Spoken::Statement(Statement { subject, created: second(created), expires, key: KEYS[0].id() })
        },
    );
    let says = (key(), proptest::option::weighted(0.1, Just(String::new())), ours, foreign).prop_map(
        |(key, revoked, ours, foreign)| {
            let spoken = if matches!(key, TrustedKey::Pem(_)) { foreign } else { ours };
            Evidence::Says { key, revoked, spoken }
        },
    );
    prop_oneof![8 => says, 1 => Just(Evidence::Unknown(None)), 1 => Just(Evidence::Malformed("x".to_owned()))]
}

fn rule() -> impl Strategy<Value = Rule> {
    let accept = prop_oneof![4 => Just(Accept::Signed), 2 => Just(Accept::Anything), 1 => Just(Accept::Nothing)];
    let time = || proptest::option::weighted(0.1, (0_i64..200).prop_map(second));
    let key = (key(), time(), time()).prop_map(|(key, not_before, not_after)| RuleKey {
        key,
        not_before,
        not_after,
        comment: None,
    });
    let words = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.1), any::<bool>());
    let signed_as = proptest::option::weighted(0.2, prop_oneof![Just("a.b".to_owned()), Just("a.b/x".to_owned())]);
    (accept, 1_usize..3, words, signed_as, proptest::collection::vec(key, 0..4)).prop_map(
        |(accept, threshold, (inherit, exact, audit, tags), signed_as, keys)| Rule {
            accept,
            threshold,
            inherit,
            exact,
            audit,
            tags,
            signed_as,
            keys,
            ..Rule::signed()
        },
    )
}

fn rules() -> impl Strategy<Value = Rules> {
    let prefix = prop_oneof![
        3 => (name(), 0_usize..4).prop_map(|(name, shorter)| {
            let prefixes: Vec<_> = Prefix::covering(&name).collect();
            prefixes[shorter.min(prefixes.len() - 1)].clone()
        }),
        1 => Just(Prefix::All),
    ];
    proptest::collection::btree_map(prefix, rule().prop_map(|rule| (Level::Local, rule)), 0..5)
}

/// What is asked, signed and given out is often the same, or nearly nothing would ever be accepted.
pub(super) fn cases() -> impl Strategy<Value = Owned> {
    let asked = proptest::option::weighted(0.8, (name(), version(), proptest::option::weighted(0.2, digest())));
    let marks = proptest::collection::btree_map(key().prop_map(|key| key.id()), (0_i64..200).prop_map(second), 0..3);
    let lists = (proptest::collection::vec(came(), 0..3), proptest::collection::vec(evidence(), 0..4));
    let alike = proptest::array::uniform4(proptest::bool::weighted(0.6));
    (asked, subject(), proptest::option::of(digest()), lists, rules(), marks, alike).prop_map(
        |(asked, mut image, id, (mut came, mut evidence), rules, marks, [own, given, signed, tagged])| {
            let asked = asked.map(|(name, version, digest)| NameReference { name, version, digest });
            let wanted = asked.as_ref().map_or((image.name.clone(), image.version.clone()), |asked| {
                (asked.name.clone(), asked.version.clone())
            });
            if own {
                image.name = wanted.0.clone();
            }
            for came in came.iter_mut().filter(|_| given) {
                if let Came::Registry { name, version, .. } = came {
                    (*name, *version) = (full(&wanted.0), if tagged { wanted.1.clone() } else { version.clone() });
                }
            }
            for evidence in evidence.iter_mut().filter(|_| signed) {
                match evidence {
                    Evidence::Says { spoken: Spoken::Statement(statement), .. } => {
                        let version = if tagged { wanted.1.clone() } else { image.version.clone() };
                        statement.subject = Subject { name: wanted.0.clone(), version, index: None, ..image.clone() };
                    }
                    Evidence::Says { spoken: Spoken::Foreign(claim), .. } => {
                        (claim.digest, claim.name) = (image.manifest, Some(full(&wanted.0)));
                    }
                    _ => {}
                }
            }
            Owned { asked, image, id, came, evidence, rules, marks }
        },
    )
}

/// The accept word and the audit flag of the rule that decides about a name.
fn deciding(rules: &Rules, name: &ImageName) -> Option<(Accept, bool)> {
    Effective::of(rules, name).map(|rule| (rule.rule.accept, rule.rule.audit))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, ..ProptestConfig::default() })]

    // images.md A1 and A2: by the name that it gives itself, an image could only ever lose.
    #[test]
    fn the_own_name_only_narrows(case in cases()) {
        let (Some(asked), Some(_)) = (case.asked.clone(), case.accepted()) else { return Ok(()) };
        let mut same = case.clone();
        same.image.name = asked.name;
        prop_assert!(same.accepted().is_some(), "accepted only because it is called otherwise");
        let mut barred = case;
        let nothing = Rule { accept: Accept::Nothing, ..Rule::signed() };
        let own = Prefix::Under(barred.image.name.as_str().to_owned());
        barred.rules.insert(own, (Level::Local, nothing));
        prop_assert!(barred.accepted().is_none(), "the rule of its own name accepts no image");
    }

    #[test]
    fn the_rule_of_the_asked_name_decides(case in cases()) {
        let name = case.asked.as_ref().map_or(&case.image.name, |asked| &asked.name);
        let pinned = case.asked.as_ref().is_some_and(|asked| asked.digest.is_some());
        match deciding(&case.rules, name) {
            Some((Accept::Nothing, false)) => prop_assert!(case.accepted().is_none()),
            None if !pinned => prop_assert!(case.accepted().is_none()),
            _ => {}
        }
    }

    // images.md A3.
    #[test]
    fn anything_came_from_the_registry_of_the_name(case in cases()) {
        let Some(acceptance) = case.accepted() else { return Ok(()) };
        for grant in std::iter::once(&acceptance.asked).chain(&acceptance.own) {
            if matches!(grant.basis, Basis::Anything) {
                let from_there = case.came.iter().any(|came| {
                    matches!(came, Came::Registry { name, channel: Channel::Tls, .. } if same_name(name, &grant.name))
                });
                prop_assert!(from_there);
            }
        }
        let mut elsewhere = case;
        elsewhere.came = vec![Came::File, Came::Archive, Came::Web];
        elsewhere.evidence.clear();
        if let Some(acceptance) = elsewhere.accepted() {
            let grants = std::iter::once(acceptance.asked).chain(acceptance.own);
            let by_nothing = |grant: Grant| matches!(grant.basis, Basis::Signed | Basis::Anything);
            prop_assert!(!grants.into_iter().any(by_nothing), "neither signed nor from a registry");
        }
    }

    // What is signed names the image as it was asked for, by a key of the rule of that name.
    #[test]
    fn signatures_name_what_was_asked_for(case in cases()) {
        let Some(acceptance) = case.accepted() else { return Ok(()) };
        let grant = &acceptance.asked;
        if !matches!(grant.basis, Basis::Signed) || grant.created.is_empty() {
            return Ok(());
        }
        let tag = grant.version.as_ref().filter(|version| **version != Version::latest());
        let pinned = case.asked.as_ref().is_some_and(|asked| asked.digest.is_some());
        let named = case.evidence.iter().any(|evidence| match evidence {
            Evidence::Says { spoken: Spoken::Statement(statement), .. } => {
                let tagged = pinned || tag.is_none() || statement.subject.version.as_ref() == tag;
                same_name(&statement.subject.name, &grant.name) && tagged
            }
            _ => false,
        });
        prop_assert!(named);
    }

    // security.md A7.
    #[test]
    fn nothing_older_than_its_mark_counts(case in cases()) {
        let Some(acceptance) = case.accepted() else { return Ok(()) };
        if case.asked.as_ref().is_some_and(|asked| asked.digest.is_some()) {
            return Ok(());
        }
        for (key, created) in &acceptance.asked.created {
            prop_assert!(case.marks.get(key).is_none_or(|mark| mark <= created));
        }
    }

    #[test]
    fn a_digest_is_one_of_the_images(case in cases()) {
        let Some(pin) = case.asked.as_ref().and_then(|asked| asked.digest) else { return Ok(()) };
        let digests = [Some(case.image.manifest), case.image.index, case.id];
        prop_assert!(case.accepted().is_none() || digests.contains(&Some(pin)));
    }
}

/// The alphabet is small enough: every basis and many refusals are met.
#[test]
fn the_cases_meet_every_outcome() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut met, mut accepted) = (std::collections::BTreeSet::new(), 0);
    for _ in 0..5000 {
        let case = cases().new_tree(&mut runner).expect("a case").current();
        let outcome = case.with(|case| match decide(case) {
            Ok(acceptance) => {
                accepted += 1;
                format!("{:?} {}", std::mem::discriminant(&acceptance.asked.basis), acceptance.own.is_some())
            }
            Err(refusal) => format!("{:?}", std::mem::discriminant(&refusal.reason)),
        });
        met.insert(outcome);
    }
    assert!(accepted > 500 && met.len() >= 16, "{accepted} accepted, {}: {met:#?}", met.len());
}
