//! Key rotation: a publisher replaces the keys of a prefix by a text that enough of the old and of the new keys have signed.
//!
//! Whoever holds only the old keys cannot bring in new ones unknown to their owners, and whoever holds only new ones brings
//! in nothing. The number in the text only ever grows, so an old rotation cannot bring back keys that were rotated away.

use jiff::Timestamp;

use crate::key::{KeyId, PublicKey, SecretKey};
use crate::minisign::{Minisig, MinisignError};
use crate::statement::moment;

use super::edit::{lock, save};
use super::rule::TrustedKey;
use super::{Accept, Entry, Prefix, Rule, RuleKey, TrustDirs, TrustError};

const KEYS_MAX: usize = 64;
const SIGNATURES_MAX: usize = 2 * KEYS_MAX;

/// The new keys of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The prefix of the rule that changes.
    pub prefix: Prefix,
    /// Counts up with each rotation of this prefix.
    pub number: u64,
    /// How many of the new keys must sign an image, and must have signed this.
    pub threshold: usize,
    /// When it was made.
    pub created: Timestamp,
    /// After this moment it is not applied any more.
    pub expires: Option<Timestamp>,
    /// The new keys.
    pub keys: Vec<PublicKey>,
}

/// Why a rotation was refused.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Not a rotation in its one spelling.
    #[error("malformed rotation: {0}")]
    Format(String),
    /// There is nothing to rotate.
    #[error("there is no trust rule with minisign keys for exactly `{0}`")]
    NoRule(Prefix),
    /// An older or the same rotation.
    #[error("rotation {number} of `{prefix}` is refused, because rotation {applied} was applied already")]
    Rollback {
        /// The prefix.
        prefix: Prefix,
        /// The number in the text.
        number: u64,
        /// The number in the rule.
        applied: u64,
    },
    /// It came too late, or from the future.
    #[error("rotation {0} is valid from {1} to {2}")]
    Time(u64, String, String),
    /// Too few signatures.
    #[error("the rotation is signed by {have} of the {want} {which} keys that it needs")]
    Threshold {
        /// `old` or `new`.
        which: &'static str,
        /// How many signed.
        have: usize,
        /// How many must.
        want: usize,
    },
    /// A key signs once.
    #[error("it is signed by key {0} already")]
    Signed(KeyId),
    /// A signature of a key that matters does not verify.
    #[error(transparent)]
    Signature(#[from] MinisignError),
    /// The rules could not be read or written.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Rotation {
    /// The first line of the text, which separates signatures over it from those over images.
    pub const DOMAIN: &'static str = "PODKEYS1";
    /// The longest text, with its signatures, in bytes.
    pub const BYTES_MAX: usize = 256 << 10;

    /// The canonical text, which is what is signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        let expires = self.expires.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let mut text = format!(
            "{}\nprefix: {}\nnumber: {}\nthreshold: {}\ncreated: {}\nexpires: {expires}\nkeys: {}\n",
            Self::DOMAIN,
            self.prefix,
            self.number,
            self.threshold,
            self.created,
            self.keys.len()
        );
        for key in &self.keys {
            text.push_str(&format!("{}\n", key.to_line()));
        }
        text
    }

    /// Reads the text and returns what follows it: the signatures.
    ///
    /// # Errors
    /// Everything that [`Rotation::to_text`] would not have written.
    pub fn parse(text: &str) -> Result<(Self, &str), RotateError> {
        let refused = |what: &str| RotateError::Format(what.to_owned());
        if text.len() > Self::BYTES_MAX {
            return Err(refused("too long"));
        }
        let mut lines = text.split('\n');
        if lines.next() != Some(Self::DOMAIN) {
            return Err(refused("another first line"));
        }
        let mut field = |name: &str| {
            let value = lines.next().and_then(|line| line.strip_prefix(name)).and_then(|rest| rest.strip_prefix(": "));
            value.ok_or_else(|| refused(name))
        };
        let prefix = Prefix::parse(field("prefix")?).map_err(|error| RotateError::Format(error.to_string()))?;
        let number = field("number")?.parse().map_err(|_| refused("number"))?;
        let threshold: usize = field("threshold")?.parse().map_err(|_| refused("threshold"))?;
        let created = moment(field("created")?).ok_or_else(|| refused("created"))?;
        let expires = match field("expires")? {
            "-" => None,
            time => Some(moment(time).ok_or_else(|| refused("expires"))?),
        };
        let count: usize = field("keys")?.parse().map_err(|_| refused("keys"))?;
        if threshold == 0 || threshold > count || count > KEYS_MAX {
            return Err(refused("the threshold does not fit the number of keys"));
        }
        let mut keys: Vec<PublicKey> = Vec::with_capacity(count);
        for line in lines.take(count) {
            let key = PublicKey::parse(line).map_err(|error| RotateError::Format(error.to_string()))?;
            if keys.iter().any(|other| other.id() == key.id() || other.point() == key.point()) {
                return Err(refused("a key is listed twice"));
            }
            keys.push(key);
        }
        let rotation = Self { prefix, number, threshold, created, expires, keys };
        let rest = text.strip_prefix(&rotation.to_text()).ok_or_else(|| refused("another spelling"))?;
        Ok((rotation, rest))
    }

    /// Appends a signature to the text of a rotation, signed or not.
    ///
    /// # Errors
    /// A text that is no rotation, and a key that has signed it already.
    pub fn sign(text: &str, key: &SecretKey) -> Result<String, RotateError> {
        let (rotation, rest) = Self::parse(text)?;
        if signatures(rest)?.iter().any(|signature| signature.key_id() == key.id()) {
            return Err(RotateError::Signed(key.id()));
        }
        let unsigned = rotation.to_text();
        let comment = format!("rotation {} of {}", rotation.number, rotation.prefix);
        let minisig = Minisig::sign(key, unsigned.as_bytes(), &comment)?;
        Ok(format!("{unsigned}{rest}{}", minisig.to_text()))
    }
}

/// Applies a signed rotation to the rule of its prefix.
///
/// # Errors
/// Every reason not to: rollback, too few old or new keys, times, a changed byte.
pub fn rotate(dirs: &TrustDirs, text: &str, now: Timestamp) -> Result<Entry, RotateError> {
    let (rotation, rest) = Rotation::parse(text)?;
    let signatures = signatures(rest)?;
    let _lock = lock(dirs)?;
    let no_rule = || RotateError::NoRule(rotation.prefix.clone());
    let old = dirs.rule(&rotation.prefix)?.map(|found| found.rule).ok_or_else(no_rule)?;
    let minisign_only = old.keys.iter().all(|key| matches!(key.key, TrustedKey::Minisign(_)));
    if old.accept != Accept::Signed || old.keys.is_empty() || !minisign_only {
        return Err(no_rule());
    }
    if rotation.number <= old.rotation {
        return Err(RotateError::Rollback { prefix: rotation.prefix, number: rotation.number, applied: old.rotation });
    }
    let late = rotation.expires.is_some_and(|expires| expires <= now);
    if late || rotation.created > now {
        let until = rotation.expires.map_or_else(|| "ever".to_owned(), |time| time.to_string());
        return Err(RotateError::Time(rotation.number, rotation.created.to_string(), until));
    }
    let unsigned = rotation.to_text();
    let in_force =
        |key: &&RuleKey| key.not_before.is_none_or(|from| from <= now) && key.not_after.is_none_or(|until| now < until);
    let old_keys: Vec<PublicKey> = old.keys.iter().filter(in_force).filter_map(public).collect();
    enough(dirs, "old", &old_keys, old.threshold, &signatures, &unsigned)?;
    enough(dirs, "new", &rotation.keys, rotation.threshold, &signatures, &unsigned)?;
    let keys = rotation.keys.iter().map(|key| RuleKey {
        key: TrustedKey::Minisign(*key),
        not_before: None,
        not_after: None,
        comment: Some(format!("by rotation {}", rotation.number)),
    });
    let rule = Rule { threshold: rotation.threshold, rotation: rotation.number, keys: keys.collect(), ..old };
    Ok(save(dirs, &rotation.prefix, &rule)?)
}

fn public(key: &RuleKey) -> Option<PublicKey> {
    match &key.key {
        TrustedKey::Minisign(public) => Some(*public),
        TrustedKey::Pem(_) => None,
    }
}

fn signatures(text: &str) -> Result<Vec<Minisig>, RotateError> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (groups, rest) = lines.as_chunks::<4>();
    if !rest.is_empty() || groups.len() > SIGNATURES_MAX {
        return Err(RotateError::Format("four lines are expected for each signature".to_owned()));
    }
    groups.iter().map(|lines| Ok(Minisig::parse(&lines.concat())?)).collect()
}

/// Whether enough different keys of a set signed. A revoked key never counts.
fn enough(
    dirs: &TrustDirs,
    which: &'static str,
    keys: &[PublicKey],
    want: usize,
    signatures: &[Minisig],
    text: &str,
) -> Result<(), RotateError> {
    let mut have = 0;
    for key in keys {
        if dirs.revoked(key.id())?.is_some() {
            continue;
        }
        if let Some(signature) = signatures.iter().find(|signature| signature.key_id() == key.id()) {
            signature.verify(key, text.as_bytes())?;
            have += 1;
        }
    }
    if have < want { Err(RotateError::Threshold { which, have, want }) } else { Ok(()) }
}
