//! Cases of the trust decision from bytes: names, tags, digests, keys and times from alphabets so small that they collide.
//!
//! The property test and the fuzz target take their cases from here. Byte 0 is the simplest choice everywhere, and absent bytes are
//! 0. So shorter and smaller bytes give a simpler case.

use std::sync::OnceLock;

use image_tools::cosign::Claim;
use image_tools::digest::Digest;
use image_tools::key::KeyId;
use image_tools::name::{ImageName, Version};
use image_tools::provenance::{Came, Channel};
use image_tools::statement::{Statement, Subject};
use image_tools::trust::decide::{Case, Evidence, Rules, Spoken};
use image_tools::trust::{Accept, Asked, Flaw, Level, Marks, Prefix, Rule, RuleKey, TrustedKey};
use jiff::{SignedDuration, Timestamp};

/// Some are the same host in another spelling; `h` is one only with a port.
pub(crate) const HOSTS: [&str; 9] = [
    "h.example/",
    "",
    "docker.io/",
    "h.example:443/",
    "h.example:5000/",
    "index.docker.io/",
    "registry-1.docker.io:443/",
    "h:443/",
    "h/",
];
pub(crate) const PATHS: [&str; 8] = ["a", "a/b", "library/a", "b", "library/a/b", "a/library", "b/a", "docker.io"];
const TAGS: [&str; 4] = ["1", "latest", "2", "3"];
/// Manifest, index, id in the store, and that of another image.
const DIGESTS: [&str; 4] = ["manifest", "index", "id", "other"];
/// Seconds from the time of the decision, with both sides of each limit.
const MOMENTS: [i64; 9] = [0, -3600, 3600, -1, 1, 300, 301, -7200, 7200];
/// Three keys. The fourth is the first under another id, the fifth is the second as cosign uses it, and
/// the last is another one under the id of the first.
const KEYS: [&str; 6] = [
    "RWRBQUFBQUFBQd/yTxOrRF8d9Vs7h78R5ju/dGltq1N3Ulg2qu9iV1N7",
    "RWRCQkJCQkJCQruLwdtv92zK6io0EPXSuTLcyKXKYAMjToa3lGTVjkZf",
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE3/Ttiz9HEFbObQIQe4jL+ujfy+Xm\n\
     wgVPq0YcpuwTHik7zJ8vQFUhgGDclEDZ3mzQC2LlCOq2IcUHtlS7u9G7zA==\n-----END PUBLIC KEY-----\n",
    "RWRhYWFhYWFhYd/yTxOrRF8d9Vs7h78R5ju/dGltq1N3Ulg2qu9iV1N7",
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAu4vB22/3bMrqKjQQ9dK5MtzIpcpgAyNOhreUZNWORl8=\n-----END PUBLIC KEY-----\n",
    "RWRBQUFBQUFBQf1buTv1o+FP0KxFmTgWaqpqge7YsHQ+pci/v7FtHFPr",
];

/// All that [`Case`] borrows.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) asked: Option<(ImageName, Option<Version>, Option<Digest>)>,
    pub(crate) image: Subject,
    pub(crate) id: Option<Digest>,
    pub(crate) came: Vec<Came>,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) rules: Rules,
    pub(crate) marks: Marks,
    pub(crate) now: Timestamp,
}

impl Scenario {
    /// Every input is a case.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut choice = Choices(bytes.iter());
        let first = choice.fresh_name();
        let own = if choice.one_in(2) { choice.name(&[&first]) } else { first.clone() };
        let image = Subject {
            name: own.clone(),
            version: choice.version(),
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            manifest: digest(0),
            index: choice.one_in(3).then(|| digest(1)),
        };
        let asked = (!choice.one_in(4)).then(|| {
            let version = choice.version();
            let pin = choice.one_in(5).then(|| digest(choice.of(&[0, 0, 1, 2, 3])));
            (first.clone(), version, pin)
        });
        let names = [&first, &own];
        let id = choice.one_in(3).then(|| digest(2));
        let rules = (0..choice.of(&[1, 2, 3, 4, 2, 3, 0])).map(|_| choice.rule(&names)).collect();
        let came = (0..choice.below(4)).map(|_| choice.came(&names)).collect();
        let wanted = asked.as_ref().and_then(|(_, version, _)| version.clone());
        let evidence = (0..choice.below(5)).map(|_| choice.evidence(&names, &image, &wanted)).collect();
        let mut marks = Marks::new();
        for key in keys() {
            if choice.one_in(3) {
                marks.insert(key.id(), choice.moment());
            }
        }
        Self { asked, image, id, came, evidence, rules, marks, now: at(0) }
    }

    pub(crate) fn case(&self) -> Case<'_> {
        let asked = self.asked.as_ref();
        Case {
            asked: asked.map(|(name, version, pin)| Asked { name, version: version.as_ref(), pin: *pin }),
            image: &self.image,
            id: self.id,
            came: &self.came,
            evidence: &self.evidence,
            rules: &self.rules,
            marks: &self.marks,
            now: self.now,
        }
    }
}

fn keys() -> &'static [TrustedKey] {
    static PARSED: OnceLock<Vec<TrustedKey>> = OnceLock::new();
    PARSED.get_or_init(|| KEYS.iter().map(|text| TrustedKey::parse(text, None).expect("the text is a key")).collect())
}

fn digest(number: usize) -> Digest {
    Digest::of(DIGESTS[number].as_bytes())
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("it is in range") + SignedDuration::from_secs(seconds)
}

fn name_of(text: &str) -> ImageName {
    ImageName::parse(text).expect("the alphabet has names only")
}

struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % limit
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == many - 1
    }

    fn of<T: Clone>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())].clone()
    }

    fn digest(&mut self) -> Digest {
        digest(self.below(DIGESTS.len()))
    }

    fn moment(&mut self) -> Timestamp {
        at(self.of(&MOMENTS))
    }

    fn sometimes(&mut self, many: usize) -> Option<Timestamp> {
        self.one_in(many).then(|| self.moment())
    }

    fn version(&mut self) -> Option<Version> {
        let tag = self.below(TAGS.len() + 1);
        let tag = tag.checked_sub(1)?;
        Some(Version::parse(TAGS[tag]).expect("the alphabet has versions only"))
    }

    fn fresh_name(&mut self) -> ImageName {
        let (host, path) = (self.of(&HOSTS), self.of(&PATHS));
        name_of(&format!("{host}{path}"))
    }

    /// One of `names`, most often; sometimes another host before its last component or two, so that spellings of one name meet.
    fn name(&mut self, names: &[&ImageName]) -> ImageName {
        let known = self.of(names).clone();
        match self.below(8) {
            0..=5 => known,
            6 => {
                // A port stands in a host only.
                let parts: Vec<&str> = known.components().filter(|part| !part.contains(':')).collect();
                let tail = parts[parts.len().saturating_sub(1 + self.below(2))..].join("/");
                name_of(&format!("{}{tail}", self.of(&HOSTS)))
            }
            _ => self.fresh_name(),
        }
    }

    fn prefix(&mut self, names: &[&ImageName]) -> Prefix {
        if self.one_in(5) {
            return Prefix::All;
        }
        let name = self.name(names).to_string();
        let name = if self.one_in(3) { super::reading::full(&name) } else { name };
        let parts: Vec<&str> = name.split('/').collect();
        let length = parts.len() - self.of(&[0, 1, 2]).min(parts.len() - 1);
        Prefix::parse(&parts[..length].join("/")).expect("whole components of a name")
    }

    fn rule(&mut self, names: &[&ImageName]) -> (Prefix, (Level, Rule)) {
        let prefix = self.prefix(names);
        let signed_as = ["h.example", "docker.io", "docker.io/library", "h.example:5000", "h.example/a"];
        let keyless = self.one_in(16);
        let rule = Rule {
            accept: self.of(&[
                Accept::Signed,
                Accept::Signed,
                Accept::Signed,
                Accept::Signed,
                Accept::Anything,
                Accept::Nothing,
            ]),
            threshold: self.of(&[1, 1, 1, 2, 2, 3, 0]),
            inherit: self.one_in(3),
            exact: self.one_in(5),
            audit: self.one_in(8),
            signed_as: self.one_in(4).then(|| self.of(&signed_as).to_owned()),
            tags: self.one_in(4),
            keys: keys().iter().filter(|_| !keyless).filter_map(|key| self.rule_key(key)).collect(),
            ..Rule::signed()
        };
        (prefix, (self.of(&[Level::Local, Level::System]), rule))
    }

    fn rule_key(&mut self, key: &TrustedKey) -> Option<RuleKey> {
        if self.one_in(3) {
            return None;
        }
        let (not_before, not_after) = (self.sometimes(8), self.sometimes(8));
        Some(RuleKey { key: key.clone(), not_before, not_after, comment: None })
    }

    fn came(&mut self, names: &[&ImageName]) -> Came {
        match self.below(8) {
            5 => Came::Web,
            6 => Came::File,
            7 => Came::Archive,
            _ => {
                let name = self.name(names);
                let channel = self.of(&[Channel::Tls, Channel::Tls, Channel::Tls, Channel::Unverified, Channel::Http]);
                Came::Registry { name, version: self.version(), channel }
            }
        }
    }

    /// A signature that counts, or one that misses a thing or two.
    fn evidence(&mut self, names: &[&ImageName], image: &Subject, wanted: &Option<Version>) -> Evidence {
        let key = self.of(keys());
        match self.below(24) {
            13 => return Evidence::Flawed(key, Flaw::Altered("statement".to_owned())),
            14 => return Evidence::Unknown(self.of(&[None, Some(key.id()), Some(KeyId::from_bytes([7; 8]))])),
            15 => return Evidence::Malformed("no document".to_owned()),
            _ => {}
        }
        let own = self.one_in(2);
        let mut about = Subject {
            name: names[usize::from(own)].clone(),
            version: if own { image.version.clone() } else { wanted.clone() },
            index: None,
            ..image.clone()
        };
        let (mut named, mut revoked, mut created, mut expires) = (true, None, at(0), None);
        loop {
            match self.below(20) {
                1 => about.name = self.name(names),
                2 => about.version = self.version(),
                3 => about.manifest = self.digest(),
                4 => about.os = "other".to_owned(),
                5 => about.architecture = "arm64".to_owned(),
                6 | 7 => created = self.moment(),
                8 | 12 => expires = Some(self.moment()),
                9 => revoked = Some("lost".to_owned()),
                10 => named = false,
                11 => about.version = None,
                _ => {}
            }
            if !self.one_in(4) {
                break;
            }
        }
        let spoken = match key {
            TrustedKey::Minisign(_) => Spoken::Statement(Statement { subject: about, created, expires, key: key.id() }),
            TrustedKey::Pem(_) => Spoken::Foreign(Claim {
                digest: about.manifest,
                version: about.version.filter(|_| named),
                name: Some(about.name).filter(|_| named),
            }),
        };
        Evidence::Says { key, revoked, spoken }
    }
}
