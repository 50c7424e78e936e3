//! The judgement of an image: the rules that are about its names are read, its signatures verified, and [`decide`] decides.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::digest::Digest;
use crate::key::KeyId;
use crate::name::ImageName;
use crate::provenance::Came;
use crate::signature::{SIGNATURES_MAX, Signature};
use crate::statement::Subject;

use super::decide::{Acceptance, Asked, Case, Effective, Marks, Rules, decide, holds, prefixes};
use super::evidence::gather;
use super::files::{FileState, RuleFile};
use super::refusal::{JudgedImage, Reason};
use super::rule::TrustedKey;
use super::{Prefix, Refusal, TrustDirs, TrustError};

/// The rules of a host. Nothing is read before a judgement needs it.
#[derive(Debug, Clone)]
pub struct Policy {
    dirs: TrustDirs,
}

/// An image that somebody wants to run.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name that was asked for; see [`Case::asked`].
    pub asked: Option<Asked<'a>>,
    /// What the image says of itself.
    pub subject: &'a Subject,
    /// The id in the store.
    pub id: Option<Digest>,
    /// Where it came from.
    pub came: &'a [Came],
    /// What came with it.
    pub signatures: &'a [Signature],
    /// See [`Case::marks`].
    pub marks: &'a Marks,
    /// The time.
    pub now: Timestamp,
}

/// For images that nobody marked before.
pub const NO_MARKS: &Marks = &BTreeMap::new();

impl Policy {
    /// The policy of these directories.
    #[must_use]
    pub fn load(dirs: &TrustDirs) -> Self {
        Self { dirs: dirs.clone() }
    }

    /// The directories that the policy reads.
    #[must_use]
    pub fn dirs(&self) -> &TrustDirs {
        &self.dirs
    }

    /// Whether the image may run.
    ///
    /// # Errors
    /// Every reason not to run it. In audit mode the refusal is inside of the acceptance instead.
    pub fn judge(&self, question: &Question<'_>) -> Result<Acceptance, Refusal> {
        let Question { asked, subject, id, came, signatures, marks, now } = *question;
        let name = asked.map_or(&subject.name, |asked| asked.name);
        let refuse = |reason| {
            let version = asked.map_or(subject.version.as_ref(), |asked| asked.version).cloned();
            let image = JudgedImage { name: name.clone(), version, asked: None, subject: subject.clone() };
            Refusal { image: Box::new(image), reason }
        };
        if signatures.len() > SIGNATURES_MAX {
            return Err(refuse(Reason::Malformed(format!("more than {SIGNATURES_MAX} signatures"))));
        }
        let rules = self.rules(&[name, &subject.name]).map_err(|error| refuse(Reason::Rules(error)))?;
        let keys = keys(&rules, &[name, &subject.name]);
        let evidence = gather(&self.dirs, &keys, signatures).map_err(|error| refuse(Reason::Rules(error)))?;
        let case = Case { asked, image: subject, id, came, evidence: &evidence, rules: &rules, marks, now };
        decide(&case).map_err(|refusal| self.worded(refusal))
    }

    /// Whether signatures of other tools can count for an image of this name: if not, nobody needs to look for them.
    #[must_use]
    pub fn takes_foreign(&self, name: &ImageName) -> bool {
        let Ok(rules) = self.rules(&[name]) else { return false };
        keys(&rules, &[name]).iter().any(|key| matches!(key, TrustedKey::Pem(_)))
    }

    /// The rules that decide about these names. A rule that cannot matter is not read.
    fn rules(&self, names: &[&ImageName]) -> Result<Rules, TrustError> {
        let mut rules = Rules::new();
        for name in names {
            for prefix in prefixes(name) {
                if !rules.contains_key(&prefix) {
                    let Some(found) = self.dirs.rule(&prefix)? else { continue };
                    rules.insert(found.prefix, (found.level, found.rule));
                }
                // The chain ends with the first rule that is about the name and does not inherit.
                let rule = &rules[&prefix].1;
                if holds(&prefix, rule, name) && !rule.inherit {
                    break;
                }
            }
        }
        Ok(rules)
    }

    /// Looks whether an unknown key is known elsewhere. This reads all rules, and is done only to word a refusal.
    fn worded(&self, refusal: Refusal) -> Refusal {
        let (Reason::NoRule { keys } | Reason::Untrusted { keys, .. }) = &refusal.reason else { return refusal };
        let reason = match self.trusted_for(keys) {
            Ok(Some((key, trusted_for))) => Reason::OtherPrefix { key, trusted_for },
            Ok(None) => return refusal,
            Err(error) => Reason::Rules(error),
        };
        Refusal { reason, ..refusal }
    }

    fn trusted_for(&self, keys: &[KeyId]) -> Result<Option<(KeyId, Prefix)>, TrustError> {
        for RuleFile { prefix, state, .. } in self.dirs.all()? {
            let FileState::Rule(other) = state else { continue };
            if let Some(key) = keys.iter().find(|id| other.keys.iter().any(|key| key.key.id() == **id)) {
                return Ok(Some((*key, prefix)));
            }
        }
        Ok(None)
    }
}

/// The keys of the rules that decide about these names, each once.
fn keys<'a>(rules: &'a Rules, names: &[&ImageName]) -> Vec<&'a TrustedKey> {
    let mut keys: Vec<&TrustedKey> = Vec::new();
    for (_, _, key) in names.iter().filter_map(|name| Effective::of(rules, name)).flat_map(|rule| rule.keys) {
        if !keys.contains(&&key.key) {
            keys.push(&key.key);
        }
    }
    keys
}
