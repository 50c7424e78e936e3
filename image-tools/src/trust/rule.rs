//! The text of a rule: one JSON object, strict, readable and writable by a person.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key::{KeyError, KeyId, PemKey, PublicKey, Scheme};
use crate::name::ImageName;
use crate::statement::moment;

use super::allow::{ALLOW_MAX, Allow};

/// Largest rule file read.
pub(crate) const RULE_BYTES_MAX: u64 = 256 << 10;
const KEYS_MAX: usize = 256;
/// The file that is about every name; no image name starts with an underscore.
const EVERY_NAME: &str = "_all";

/// The names that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prefix {
    /// `*`: every name.
    All,
    /// A name, and every name with more components.
    Under(String),
}

impl Prefix {
    /// `*`, or whole components of an image name; a host may have a port.
    ///
    /// # Errors
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self, super::TrustError> {
        if text == "*" {
            return Ok(Self::All);
        }
        // A host with a port is a name's first component and never a name by itself.
        if ImageName::parse(text).is_ok() || ImageName::parse(&format!("{text}/x")).is_ok() {
            return Ok(Self::Under(text.to_owned()));
        }
        Err(super::TrustError::Prefix(text.chars().take(255).flat_map(char::escape_default).collect()))
    }

    /// The prefixes that cover `name`, the most specific first.
    pub fn covering(name: &ImageName) -> impl Iterator<Item = Self> {
        let text = name.as_str().to_owned();
        let mut end = Some(text.len());
        std::iter::from_fn(move || {
            let at = end?;
            end = text[..at].rfind('/');
            Some(Self::Under(text[..at].to_owned()))
        })
        .chain([Self::All])
    }

    /// Whether this is a prefix of `name`, by whole components.
    #[must_use]
    pub fn covers(&self, name: &ImageName) -> bool {
        match self {
            Self::All => true,
            Self::Under(prefix) => {
                name.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// The name of the rule file, `/` written as `+`, which no image name has.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self {
            Self::All => format!("{EVERY_NAME}.json"),
            Self::Under(prefix) => format!("{}.json", prefix.replace('/', "+")),
        }
    }

    /// The prefix that a file name stands for.
    #[must_use]
    pub fn of_file_name(file_name: &str) -> Option<Self> {
        let stem = file_name.strip_suffix(".json")?;
        let prefix = if stem == EVERY_NAME { Self::All } else { Self::parse(&stem.replace('+', "/")).ok()? };
        (prefix.file_name() == file_name).then_some(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("*"),
            Self::Under(prefix) => formatter.write_str(prefix),
        }
    }
}

/// What a rule asks of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accept {
    /// Signatures by enough of its keys.
    #[default]
    Signed,
    /// Nothing at all: every image is accepted.
    Anything,
    /// No image is accepted.
    Nothing,
}

/// One trusted key with the time in which it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleKey {
    /// The key.
    pub key: TrustedKey,
    /// Signatures made before this moment do not count.
    pub not_before: Option<Timestamp>,
    /// From this moment on, the key does not count.
    pub not_after: Option<Timestamp>,
    /// Whatever the administrator wants to remember.
    pub comment: Option<String>,
}

/// A key of either world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedKey {
    /// For our own statements.
    Minisign(PublicKey),
    /// For cosign's signatures.
    Pem(PemKey),
}

impl TrustedKey {
    /// Reads either form; `scheme` is needed only for Ed25519 keys in PEM that sign in the pure form.
    ///
    /// # Errors
    /// A text that is no key, or not one for `scheme`.
    pub fn parse(text: &str, scheme: Option<Scheme>) -> Result<Self, KeyError> {
        let pem = text.trim_start().starts_with("-----BEGIN");
        match scheme {
            None if pem => PemKey::detect(text).map(Self::Pem),
            None | Some(Scheme::Minisign) => PublicKey::parse(text).map(Self::Minisign),
            Some(scheme) => PemKey::parse(text, scheme).map(Self::Pem),
        }
    }

    /// The name of the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        match self {
            Self::Minisign(key) => key.id(),
            Self::Pem(key) => key.id(),
        }
    }

    /// How the key signs.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Minisign(_) => Scheme::Minisign,
            Self::Pem(key) => key.scheme(),
        }
    }

    /// The hash that people compare.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Minisign(key) => key.fingerprint(),
            Self::Pem(key) => key.fingerprint(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Minisign(key) => key.to_line(),
            Self::Pem(key) => key.to_pem(),
        }
    }

    /// Whether both are the same key, whatever they are called and however they sign: a threshold counts keys, not names.
    #[must_use]
    pub fn same_key(&self, other: &Self) -> bool {
        self.point() == other.point()
    }

    fn point(&self) -> &[u8] {
        match self {
            Self::Minisign(key) => key.point().as_bytes(),
            Self::Pem(key) => key.point_bytes(),
        }
    }
}

/// A rule as it is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// What is asked.
    pub accept: Accept,
    /// How many different keys must have signed.
    pub threshold: usize,
    /// Whether the keys of the next less specific rule count too.
    pub inherit: bool,
    /// Whether the rule is about the name itself only, and not about names below it.
    pub exact: bool,
    /// Whether images that it refuses are run all the same, with a report.
    pub audit: bool,
    /// The name prefix that foreign signatures carry in place of this rule's own, for images signed before they were mirrored.
    pub signed_as: Option<String>,
    /// Whether foreign signatures must carry the tag that is asked for. Those of cosign mostly carry none.
    pub tags: bool,
    /// The version of the last rotation statement applied; older ones are refused.
    pub rotation: u64,
    /// What images that it accepts by signature may have beyond the defaults.
    pub allow: Vec<Allow>,
    /// The keys.
    pub keys: Vec<RuleKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    version: u32,
    #[serde(default)]
    accept: Accept,
    #[serde(default = "one")]
    threshold: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    inherit: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    exact: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    audit: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed_as: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    tags: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    rotation: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    allow: Vec<Allow>,
    #[serde(default)]
    keys: Vec<KeyText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    id: String,
    #[serde(default = "minisign", skip_serializing_if = "is_minisign")]
    scheme: String,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

fn one() -> usize {
    1
}

fn minisign() -> String {
    Scheme::Minisign.as_str().to_owned()
}

fn is_minisign(scheme: &str) -> bool {
    scheme == Scheme::Minisign.as_str()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Rule {
    /// A rule that wants one signature and has no key yet, so it accepts nothing.
    #[must_use]
    pub fn signed() -> Self {
        Self { threshold: 1, ..Self::default() }
    }

    /// Reads the text of a rule file. The error is a clause about what is wrong.
    ///
    /// # Errors
    /// Unknown or repeated fields, another version, keys that are none or do not have the id given for them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text: RuleText = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if text.version != 1 {
            return Err(format!("version {} is not known, only 1", text.version));
        }
        if text.threshold == 0 {
            return Err("a threshold of 0 would accept every image; write `\"accept\": \"anything\"` if that is meant"
                .to_owned());
        }
        if text.keys.len() > KEYS_MAX {
            return Err(format!("more than {KEYS_MAX} keys"));
        }
        if text.allow.len() > ALLOW_MAX {
            return Err(format!("more than {ALLOW_MAX} words in `allow`"));
        }
        if let Some(name) = &text.signed_as {
            Prefix::parse(name).map_err(|error| error.to_string())?;
        }
        let mut keys: Vec<RuleKey> = Vec::with_capacity(text.keys.len());
        for key in text.keys {
            let key = key.parse()?;
            if keys.iter().any(|other| other.key.id() == key.key.id() && other.key.scheme() == key.key.scheme()) {
                return Err(format!("key {} is listed twice", key.key.id()));
            }
            keys.push(key);
        }
        Ok(Self {
            accept: text.accept,
            threshold: text.threshold,
            inherit: text.inherit,
            exact: text.exact,
            audit: text.audit,
            signed_as: text.signed_as,
            tags: text.tags,
            rotation: text.rotation,
            allow: text.allow,
            keys,
        })
    }

    /// The text of the rule file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = RuleText {
            version: 1,
            accept: self.accept,
            threshold: self.threshold,
            inherit: self.inherit,
            exact: self.exact,
            audit: self.audit,
            signed_as: self.signed_as.clone(),
            tags: self.tags,
            rotation: self.rotation,
            allow: self.allow.clone(),
            keys: self.keys.iter().map(KeyText::of).collect(),
        };
        let mut text = serde_json::to_string_pretty(&text).expect("plain data has a JSON form");
        text.push('\n');
        text
    }
}

impl KeyText {
    fn parse(self) -> Result<RuleKey, String> {
        let id = KeyId::parse(&self.id).map_err(|error| error.to_string())?;
        let clause = |error: KeyError| format!("key {id}: {error}");
        let scheme = Scheme::parse(&self.scheme).map_err(clause)?;
        let key = TrustedKey::parse(&self.key, Some(scheme)).map_err(clause)?;
        if key.id() != id {
            return Err(format!("the key given as {id} is {}", key.id()));
        }
        let time = |text: Option<String>| {
            text.map(|text| {
                moment(&text).ok_or(format!("key {id}: `{text}` is not a time such as 2026-01-31T00:00:00Z"))
            })
            .transpose()
        };
        Ok(RuleKey { key, not_before: time(self.not_before)?, not_after: time(self.not_after)?, comment: self.comment })
    }

    fn of(key: &RuleKey) -> Self {
        Self {
            id: key.key.id().to_string(),
            scheme: key.key.scheme().as_str().to_owned(),
            key: key.key.text(),
            not_before: key.not_before.map(|time| time.to_string()),
            not_after: key.not_after.map(|time| time.to_string()),
            comment: key.comment.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    #[test]
    fn prefixes_end_at_components() {
        let name = |text| ImageName::parse(text).expect("name");
        let cases = [
            ("example.com/et", "example.com/etcd", false),
            ("example.com/et", "example.com/et", true),
            ("example.com/et", "example.com/et/cd", true),
            ("example.com", "example.com/et", true),
            ("example.com", "example.com.evil.org/et", false),
            ("localhost:5000", "localhost:5000/a", true),
            ("localhost:500", "localhost:5000/a", false),
            ("*", "anything", true),
        ];
        for (prefix, image, covers) in cases {
            let prefix = Prefix::parse(prefix).expect("prefix");
            assert_eq!(prefix.covers(&name(image)), covers, "{prefix} {image}");
            assert_eq!(Prefix::covering(&name(image)).any(|one| one == prefix), covers, "{prefix} {image}");
        }
        let covering: Vec<_> = Prefix::covering(&name("a.b/c/d")).map(|prefix| prefix.to_string()).collect();
        assert_eq!(covering, ["a.b/c/d", "a.b/c", "a.b", "*"]);
        for bad in ["", "/", "a/", "/a", "A", "a b", "..", "a/../b", "*/a", "a*", "_all", "a+b"] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }

    /// Every name of up to four components out of a few that are each other's beginnings, against every prefix: a prefix covers
    /// a name if and only if its components are the name's first ones, and `covering` finds the same ones, the longest first.
    #[test]
    fn coverage_is_by_component_for_every_small_name() {
        let parts = ["a", "ab", "a.b", "a-b"];
        let mut texts = vec![Vec::new()];
        for length in 0..4_usize {
            for at in (0..texts.len()).filter(|at| texts[*at].len() == length).collect::<Vec<_>>() {
                texts.extend(parts.map(|part| [texts[at].clone(), vec![part]].concat()));
            }
        }
        texts.remove(0);
        let names: Vec<_> = texts.iter().map(|parts| ImageName::parse(&parts.join("/")).expect("a name")).collect();
        for (prefix_parts, prefix) in texts.iter().zip(&names) {
            let prefix = Prefix::parse(prefix.as_str()).expect("a prefix");
            for (name_parts, name) in texts.iter().zip(&names) {
                assert_eq!(prefix.covers(name), name_parts.starts_with(prefix_parts), "{prefix} {name}");
            }
        }
        for (parts, name) in texts.iter().zip(&names) {
            let covering: Vec<_> = Prefix::covering(name).collect();
            let expected = (1..=parts.len()).rev().map(|count| Prefix::Under(parts[..count].join("/")));
            assert_eq!(covering, expected.chain([Prefix::All]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn file_names_stand_for_one_prefix() {
        for (prefix, file) in [("*", "_all.json"), ("a.b/c", "a.b+c.json"), ("localhost:5000", "localhost:5000.json")] {
            let prefix = Prefix::parse(prefix).expect("prefix");
            assert_eq!(prefix.file_name(), file);
            assert_eq!(Prefix::of_file_name(file), Some(prefix));
        }
        for bad in ["a", "a.JSON", "+a.json", "a+.json", ".json", "*.json", "a++b.json"] {
            assert_eq!(Prefix::of_file_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn rules_are_strict() {
        let key = SecretKey::generate().expect("entropy").public();
        let good = format!(r#"{{"version":1,"keys":[{{"id":"{}","key":"{}"}}]}}"#, key.id(), key.to_line());
        let rule = Rule::parse(&good).expect("good");
        assert_eq!((rule.threshold, rule.keys.len(), rule.inherit, rule.audit), (1, 1, false, false));
        assert_eq!(Rule::parse(&rule.to_text()).as_ref(), Ok(&rule));
        let bad = [
            good.replace("\"version\":1", "\"version\":2"),
            good.replace("\"version\":1,", ""),
            good.replace("\"version\":1", "\"version\":1,\"version\":1"),
            good.replace("\"version\":1", "\"version\":1,\"thresold\":2"),
            good.replace("\"version\":1", "\"version\":1,\"threshold\":0"),
            good.replace("\"version\":1", "\"version\":1,\"threshold\":-1"),
            good.replace("\"version\":1", "\"version\":1,\"accept\":\"all\""),
            good.replace("\"version\":1", "\"version\":1,\"allow\":[\"devices\"]"),
            good.replace("\"id\"", "\"not_after\":\"tomorrow\",\"id\""),
            good.replace("\"id\"", "\"scheme\":\"rsa\",\"id\""),
            good.replace("\"id\"", "\"scheme\":\"ed25519\",\"id\""),
            good.replace(&key.id().to_string(), "0123456789ABCDEF"),
            format!("{good}x"),
            good.replace("[{", "[{},{"),
            String::new(),
        ];
        for text in bad {
            assert!(Rule::parse(&text).is_err(), "{text}");
        }
    }
}
