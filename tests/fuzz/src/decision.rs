//! The trust decision and the import of other tools' policies: what no input may bring about.

use image_tools::digest::Digest;
use image_tools::key::{KeyId, SecretKey};
use image_tools::name::{ImageName, Version};
use image_tools::provenance::{Came, Channel};
use image_tools::statement::{Statement, Subject};
use image_tools::trust::decide::{Asked, Case, Evidence, Marks, Rules, Spoken, decide, full, same_name};
use image_tools::trust::{Accept, Basis, Level, Prefix, Rule, RuleKey, TrustedKey, policy_rules};
use jiff::Timestamp;
use std::sync::LazyLock;

static KEYS: LazyLock<[TrustedKey; 2]> =
    LazyLock::new(|| [(); 2].map(|()| TrustedKey::Minisign(SecretKey::generate().expect("entropy").public())));
const HOSTS: [&str; 6] = ["", "docker.io/", "index.docker.io/", "a.b/", "a.b:443/", "b.c:5000/"];
const PATHS: [&str; 4] = ["x", "library/x", "x/y", "x/y/x"];

/// A script: each byte makes one choice, and the end of the script chooses the first of everything.
struct Script<'a>(std::slice::Iter<'a, u8>);

impl Script<'_> {
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    fn name(&mut self) -> ImageName {
        let text = format!("{}{}", HOSTS[self.below(HOSTS.len())], PATHS[self.below(PATHS.len())]);
        ImageName::parse(&text).expect("a name")
    }

    fn version(&mut self) -> Option<Version> {
        let text = [None, Some("latest"), Some("1"), Some("2")][self.below(4)];
        text.map(|text| Version::parse(text).expect("a version"))
    }

    fn time(&mut self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.below(200) as i64).expect("a time")
    }

    fn key(&mut self) -> TrustedKey {
        KEYS[self.below(KEYS.len())].clone()
    }

    fn subject(&mut self) -> Subject {
        let (os, architecture) = ("linux".to_owned(), ["amd64", "arm64"][self.below(2)].to_owned());
        let manifest = Digest::of(&[self.below(2) as u8]);
        Subject { name: self.name(), version: self.version(), os, architecture, manifest, index: None }
    }

    fn came(&mut self) -> Came {
        match self.below(6) {
            0 => Came::File,
            1 => Came::Archive,
            2 => Came::Web,
            _ => {
                let channel = [Channel::Tls, Channel::Unverified, Channel::Http][self.below(3)];
                Came::Registry { name: full(&self.name()), version: self.version(), channel }
            }
        }
    }

    fn rule(&mut self) -> Rule {
        let accept = [Accept::Signed, Accept::Anything, Accept::Nothing][self.below(3)];
        let (inherit, exact, threshold) = (self.is(), self.is(), 1 + self.below(2));
        let keys =
            (0..self.below(3)).map(|_| RuleKey { key: self.key(), not_before: None, not_after: None, comment: None });
        Rule { accept, inherit, exact, threshold, keys: keys.collect(), ..Rule::signed() }
    }

    fn evidence(&mut self) -> Evidence {
        let key = self.key();
        let statement = Statement { subject: self.subject(), created: self.time(), expires: None, key: key.id() };
        let revoked = (self.below(8) == 7).then(String::new);
        Evidence::Says { key, revoked, spoken: Spoken::Statement(statement) }
    }
}

/// Whatever the table says: the own name only narrows, "anything" came from its registry over TLS, and what is signed is
/// signed for the name that was asked for, by a key that is not revoked, and is no older than its mark.
pub fn decision(bytes: &[u8]) {
    let mut script = Script(bytes.iter());
    let image = script.subject();
    let asked = script.is().then(|| (script.name(), script.version(), script.below(4) == 3));
    let came: Vec<Came> = (0..script.below(3)).map(|_| script.came()).collect();
    let evidence: Vec<Evidence> = (0..script.below(4)).map(|_| script.evidence()).collect();
    let marks: Marks = (0..script.below(3)).map(|_| (script.key().id(), script.time())).collect();
    let mut rules = Rules::new();
    for _ in 0..script.below(5) {
        let name = script.name();
        let prefixes: Vec<Prefix> = Prefix::covering(&name).collect();
        rules.insert(prefixes[script.below(prefixes.len())].clone(), (Level::Local, script.rule()));
    }
    let now = Timestamp::from_second(1_800_000_100).expect("a time");
    let pin = |pinned: bool| pinned.then_some(image.manifest);
    let ask =
        asked.as_ref().map(|(name, version, pinned)| Asked { name, version: version.as_ref(), pin: pin(*pinned) });
    let case = Case {
        asked: ask,
        image: &image,
        id: None,
        came: &came,
        evidence: &evidence,
        rules: &rules,
        marks: &marks,
        now,
    };
    let Ok(acceptance) = decide(&case) else { return };
    if let Some(asked) = ask {
        let renamed = Subject { name: asked.name.clone(), ..image.clone() };
        decide(&Case { image: &renamed, ..case }).expect("an image is accepted only because of what it calls itself");
    }
    let pinned = ask.is_some_and(|asked| asked.pin.is_some());
    for grant in std::iter::once(&acceptance.asked).chain(&acceptance.own) {
        match grant.basis {
            Basis::Anything => assert!(came.iter().any(|came| {
                matches!(came, Came::Registry { name, channel: Channel::Tls, .. } if same_name(name, &grant.name))
            })),
            Basis::Signed => assert!(grant.keys.iter().all(|key| signs(&evidence, *key, &grant.name))),
            Basis::Pinned => assert!(pinned),
            Basis::Audited(_) => panic!("no rule audits"),
        }
    }
    let newer = |(key, time): (&KeyId, &Timestamp)| marks.get(key).is_none_or(|mark| mark <= time);
    assert!(pinned || acceptance.asked.created.iter().all(newer), "older than its mark");
}

fn signs(evidence: &[Evidence], wanted: KeyId, name: &ImageName) -> bool {
    evidence.iter().any(|evidence| match evidence {
        Evidence::Says { key, revoked: None, spoken: Spoken::Statement(statement) } => {
            key.id() == wanted && same_name(&statement.subject.name, name)
        }
        _ => false,
    })
}

/// A rule made from a policy is never wider than what was read, which is looked up in the JSON as it stands.
pub fn import(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Key files of the machine are none of the fuzzer's business.
    if text.contains("keyPath") {
        return;
    }
    let Ok(rules) = policy_rules(text, true) else { return };
    let policy: serde_json::Value = serde_json::from_str(text).expect("what was imported is JSON");
    for (prefix, rule) in rules {
        let scopes = &policy["transports"]["docker"];
        let found = match prefix {
            Prefix::All if scopes.get("").is_some() => &scopes[""],
            Prefix::All => &policy["default"],
            Prefix::Under(_) => &scopes[prefix.to_string()],
        };
        let found = found.as_array().expect("a list of requirements");
        let all = |kind: &str| found.iter().all(|requirement| requirement["type"] == kind);
        assert!(!rule.audit && !rule.inherit && !rule.exact && !found.is_empty());
        match rule.accept {
            Accept::Anything => assert!(all("insecureAcceptAnything")),
            Accept::Nothing => assert!(all("reject")),
            Accept::Signed => {
                let by_tag = |requirement: &serde_json::Value| {
                    requirement["signedIdentity"]["type"].as_str().unwrap_or("matchRepoDigestOrExact")
                        != "matchRepository"
                };
                assert!(all("sigstoreSigned") && rule.threshold == found.len() && !rule.keys.is_empty());
                assert!(rule.tags || !found.iter().any(by_tag), "a tag that must be signed need not be");
            }
        }
    }
}
