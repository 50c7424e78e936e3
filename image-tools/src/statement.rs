//! The statement: the few lines that a publisher signs to say what an image is.
//!
//! A signature never covers bytes that somebody else shaped. It covers this text, whose first line says what kind of text
//! it is, so that a signature made for any other purpose with the same key cannot be passed off as one. Every field has one
//! spelling and one place: a statement is accepted only if writing it again gives the same bytes.

use std::fmt;
use std::str::FromStr as _;

use jiff::Timestamp;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::key::KeyId;
use crate::name::{ImageName, Version};

/// The first line of every statement, which separates these signatures from all others by the same key.
pub const DOMAIN: &str = "PODSIG1";
/// Longest statement read. Real ones have some 300 bytes.
pub const BYTES_MAX: usize = 4096;
/// How a field without value is written.
const NONE: &str = "-";

/// Why a text is not a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Another first line.
    #[error("the first line is not `{DOMAIN}`")]
    Domain,
    /// A missing, unknown, repeated or misplaced line.
    #[error("line {line} is not `{field}: …`")]
    Field {
        /// Counted from one.
        line: usize,
        /// What is expected there.
        field: &'static str,
    },
    /// A value that cannot be read, or not in its one spelling.
    #[error("bad value in field `{0}`")]
    Value(&'static str),
    /// The text has more lines, or is too long.
    #[error("there is more than a statement")]
    Trailing,
    /// A value that would be read back as something else.
    #[error("os and architecture must be short words")]
    Unwritable,
    /// The dates contradict each other.
    #[error("it expires before it was made")]
    Times,
}

/// What a statement is about, and what an image is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The image's name, the thing that trust rules are about.
    pub name: ImageName,
    /// The version, if the image has one.
    pub version: Option<Version>,
    /// Operating system, in OCI's words.
    pub os: String,
    /// Processor architecture, in OCI's words.
    pub architecture: String,
    /// Digest of the image manifest, and through it of every byte of the image.
    pub manifest: Digest,
    /// Digest of the index through which a registry led to the manifest. No statement of ours is about an index, but cosign
    /// signs what a tag points to.
    pub index: Option<Digest>,
}

impl Subject {
    /// What a native image says of itself.
    #[must_use]
    pub fn of(config: ImageConfig, manifest: Digest) -> Self {
        let ImageConfig { name, version, os, architecture, .. } = config;
        Self { name, version, os, architecture, manifest, index: None }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.name)?;
        if let Some(version) = &self.version {
            write!(formatter, ":{version}")?;
        }
        Ok(())
    }
}

/// One signed claim about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The image.
    pub subject: Subject,
    /// When the signer says it was made; signatures from the future are refused.
    pub created: Timestamp,
    /// After this moment it counts no more.
    pub expires: Option<Timestamp>,
    /// The key that signs it.
    pub key: KeyId,
}

/// Lines of a statement.
pub(crate) const LINES: usize = FIELDS.len() + 1;
const FIELDS: [&str; 8] = ["name", "version", "os", "architecture", "manifest", "created", "expires", "key"];

impl Statement {
    /// A statement with whole seconds, ready to be written.
    ///
    /// # Errors
    /// Values that could not be read back, or an expiry before the creation.
    pub fn new(
        subject: Subject,
        created: Timestamp,
        expires: Option<Timestamp>,
        key: KeyId,
    ) -> Result<Self, StatementError> {
        let whole =
            |time: Timestamp, field| Timestamp::from_second(time.as_second()).map_err(|_| StatementError::Value(field));
        let statement = Self {
            subject: Subject { index: None, ..subject },
            created: whole(created, "created")?,
            expires: expires.map(|time| whole(time, "expires")).transpose()?,
            key,
        };
        if statement.expires.is_some_and(|expires| expires <= statement.created) {
            return Err(StatementError::Times);
        }
        let text = statement.to_text();
        match Self::parse(text.as_bytes()) {
            Ok(back) if back == statement => Ok(statement),
            _ => Err(StatementError::Unwritable),
        }
    }

    /// Reads a statement; its bytes must be exactly those that [`Statement::to_text`] writes.
    ///
    /// # Errors
    /// Everything else: unknown, missing, repeated or reordered fields, other spellings, more text.
    pub fn parse(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() > BYTES_MAX {
            return Err(StatementError::Trailing);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| StatementError::Domain)?;
        let mut lines = text.split('\n');
        if lines.next() != Some(DOMAIN) {
            return Err(StatementError::Domain);
        }
        let mut values = [""; FIELDS.len()];
        for (number, (field, value)) in FIELDS.into_iter().zip(&mut values).enumerate() {
            let line = lines.next().and_then(|line| line.strip_prefix(field)).and_then(|rest| rest.strip_prefix(": "));
            *value = line.ok_or(StatementError::Field { line: number + 2, field })?;
            if !is_word(value) {
                return Err(StatementError::Value(field));
            }
        }
        if lines.next() != Some("") || lines.next().is_some() {
            return Err(StatementError::Trailing);
        }
        let [name, version, os, architecture, manifest, created, expires, key] = values;
        let subject = Subject {
            name: ImageName::parse(name).map_err(|_| StatementError::Value("name"))?,
            version: match version {
                NONE => None,
                version => Some(Version::parse(version).map_err(|_| StatementError::Value("version"))?),
            },
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            manifest: Digest::parse(manifest).map_err(|_| StatementError::Value("manifest"))?,
            index: None,
        };
        let statement = Self {
            subject,
            created: moment(created).ok_or(StatementError::Value("created"))?,
            expires: match expires {
                NONE => None,
                time => Some(moment(time).ok_or(StatementError::Value("expires"))?),
            },
            key: KeyId::parse(key).map_err(|_| StatementError::Value("key"))?,
        };
        if statement.to_text() == text { Ok(statement) } else { Err(StatementError::Value("name")) }
    }

    /// The canonical text, which is what is signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Subject { name, version, os, architecture, manifest, index: _ } = &self.subject;
        let version = version.as_ref().map_or(NONE, Version::as_str);
        let created = self.created;
        let expires = self.expires.map_or_else(|| NONE.to_owned(), |time| time.to_string());
        format!(
            "{DOMAIN}\nname: {name}\nversion: {version}\nos: {os}\narchitecture: {architecture}\nmanifest: {manifest}\n\
             created: {created}\nexpires: {expires}\nkey: {}\n",
            self.key
        )
    }
}

/// A moment in its one spelling: UTC, whole seconds, `Z`.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    let time = Timestamp::from_str(text).ok()?;
    (time.subsec_nanosecond() == 0 && time.to_string() == text).then_some(time)
}

/// Printable ASCII without spaces: what all fields of a statement are made of.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement() -> Statement {
        let subject = Subject {
            name: ImageName::parse("example.com/app").expect("name"),
            version: Some(Version::parse("1.2").expect("version")),
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            manifest: Digest::parse(&format!("sha256:{}", "ab".repeat(32))).expect("digest"),
            index: None,
        };
        let key = KeyId::parse("0123456789ABCDEF").expect("id");
        let created = moment("2026-11-21T20:00:00Z").expect("time");
        Statement::new(subject, created, moment("2027-01-01T00:00:00Z"), key).expect("sound")
    }

    #[test]
    fn the_text_is_stable() {
        let text = format!(
            "PODSIG1\nname: example.com/app\nversion: 1.2\nos: linux\narchitecture: amd64\nmanifest: sha256:{}\n\
             created: 2026-11-21T20:00:00Z\nexpires: 2027-01-01T00:00:00Z\nkey: 0123456789ABCDEF\n",
            "ab".repeat(32)
        );
        assert_eq!(statement().to_text(), text);
        assert_eq!(Statement::parse(text.as_bytes()), Ok(statement()));
    }

    #[test]
    fn one_spelling_only() {
        let text = statement().to_text();
        let changes = [
            ("PODSIG1", "PODSIG2"),
            ("PODSIG1", "podsig1"),
            ("name: ", "name:"),
            ("name: ", "name:  "),
            ("name: ", "title: "),
            ("version: 1.2\n", ""),
            ("version: 1.2\n", "version: 1.2\nversion: 1.2\n"),
            ("version: 1.2\nos: linux\n", "os: linux\nversion: 1.2\n"),
            ("version: 1.2", "version: "),
            ("sha256:ab", "sha256:AB"),
            ("sha256:ab", "sha256:a"),
            ("20:00:00Z", "20:00:00+00:00"),
            ("20:00:00Z", "20:00:00.5Z"),
            ("20:00:00Z", "20:00:00z"),
            ("2026-11-21T", "2026-11-21 "),
            ("0123456789ABCDEF", "0123456789abcdef"),
            ("ABCDEF\n", "ABCDEF"),
            ("ABCDEF\n", "ABCDEF\n\n"),
            ("ABCDEF\n", "ABCDEF\nextra: 1\n"),
            ("linux\n", "linux\r\n"),
        ];
        for (from, to) in changes {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert!(Statement::parse(changed.as_bytes()).is_err(), "{from} → {to}");
        }
        assert!(Statement::parse(&[text.as_bytes(), &[0xff]].concat()).is_err());
        assert!(Statement::parse(b"").is_err());
    }

    #[test]
    fn values_that_would_forge_a_line_cannot_be_signed() {
        let good = statement();
        for bad in ["a\nversion: 2", "", "a b", "a\u{e9}", "a\0"] {
            let subject = Subject { os: bad.to_owned(), ..good.subject.clone() };
            assert!(Statement::new(subject, good.created, None, good.key).is_err(), "{bad:?}");
            let subject = Subject { architecture: bad.to_owned(), ..good.subject.clone() };
            assert!(Statement::new(subject, good.created, None, good.key).is_err(), "{bad:?}");
        }
        assert_eq!(
            Statement::new(good.subject.clone(), good.created, Some(good.created), good.key),
            Err(StatementError::Times)
        );
    }

    proptest! {
        #[test]
        fn whatever_parses_is_written_back_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(statement) = Statement::parse(&bytes) {
                let text = statement.to_text();
                prop_assert_eq!(text.as_bytes(), &bytes[..]);
            }
        }

        #[test]
        fn a_changed_byte_changes_the_claim_or_is_refused(at in 0_usize..300, to in any::<u8>()) {
            let good = statement();
            let mut bytes = good.to_text().into_bytes();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert!(Statement::parse(&bytes) != Ok(good));
        }
    }
}
