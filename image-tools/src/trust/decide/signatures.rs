//! Which signatures speak for an image under a name, and whether they are enough.

use jiff::{SignedDuration, Timestamp};

use crate::cosign;
use crate::key::KeyId;
use crate::name::{ImageName, Version};
use crate::statement::Statement;

use super::super::refusal::{Flaw, Reason};
use super::super::rule::{RuleKey, TrustedKey};
use super::super::{Prefix, Rule};
use super::names::{full, is_exactly, rest_behind, same_name};
use super::{Case, Effective, Judged, Marks};

/// How far the clock of a signer may be ahead of ours.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What is known of one signature, before anybody asks what it is worth.
#[derive(Debug, Clone)]
pub enum Evidence {
    /// This key verifies it, and this is what it says.
    Says {
        /// The key, which one of the rules names.
        key: TrustedKey,
        /// Why the key is revoked, if it is.
        revoked: Option<String>,
        /// What was signed.
        spoken: Spoken,
    },
    /// It is or claims to be by this key, and does not verify or cannot be read.
    Flawed(TrustedKey, Flaw),
    /// No key of the rules that are about the image verifies it. The id is the signature's own claim.
    Unknown(Option<KeyId>),
    /// It is no signature at all.
    Malformed(String),
}

/// What a verified signature says.
#[derive(Debug, Clone)]
pub enum Spoken {
    /// Our own statement.
    Statement(Statement),
    /// A claim of cosign's, which carries no time.
    Foreign(cosign::Claim),
}

/// The signatures that count.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) keys: Vec<KeyId>,
    pub(super) created: Marks,
}

/// Counts the different keys that signed, or says why they are too few.
pub(super) fn count(case: &Case<'_>, rule: &Effective<'_>, judged: &Judged<'_>) -> Result<Counted, Reason> {
    if rule.keys.is_empty() {
        return Err(Reason::NoKeys(rule.name.clone()));
    }
    let mut good: Vec<&TrustedKey> = Vec::new();
    let (mut counted, mut flaws, mut unknown, mut malformed) = (Counted::default(), Vec::new(), Vec::new(), None);
    for evidence in case.evidence {
        match evidence {
            Evidence::Says { key, revoked, spoken } => match weigh(case, rule, judged, key, revoked.as_deref(), spoken)
            {
                None => unknown.push(Some(key.id())),
                Some(Err(flaw)) => flaws.push((key.id(), flaw)),
                Some(Ok(())) => {
                    if !good.iter().any(|other| other.same_key(key)) {
                        good.push(key);
                        counted.keys.push(key.id());
                    }
                    if let Spoken::Statement(statement) = spoken {
                        let created = counted.created.entry(key.id()).or_insert(statement.created);
                        *created = statement.created.max(*created);
                    }
                }
            },
            Evidence::Flawed(key, flaw) if rule.keys.iter().any(|(_, _, known)| known.key == *key) => {
                flaws.push((key.id(), flaw.clone()));
            }
            Evidence::Flawed(key, _) => unknown.push(Some(key.id())),
            Evidence::Unknown(key) => unknown.push(*key),
            Evidence::Malformed(what) => malformed = malformed.or(Some(what.clone())),
        }
    }
    // The text of a rule cannot say 0. One that was made in another way does not accept what is not signed.
    if good.len() >= rule.rule.threshold.max(1) {
        return Ok(counted);
    }
    if let Some(what) = malformed {
        return Err(Reason::Malformed(what));
    }
    flaws.sort_by_key(|(_, flaw)| flaw.rank());
    let flaw = flaws.into_iter().next();
    let rule_name = rule.name.clone();
    Err(match (good.is_empty(), flaw) {
        (false, flaw) => Reason::Threshold { rule: rule_name, wanted: rule.rule.threshold, good: counted.keys, flaw },
        (true, Some((key, flaw))) => Reason::Flawed { rule: rule_name, key, flaw },
        (true, None) if case.evidence.is_empty() => Reason::Unsigned(rule_name),
        (true, None) => Reason::Untrusted { rule: Some(rule_name), keys: unknown.into_iter().flatten().collect() },
    })
}

/// Why an image whose name no rule covers is refused.
pub(super) fn reason_without_rule(evidence: &[Evidence]) -> Reason {
    let claimed = evidence.iter().filter_map(|evidence| match evidence {
        Evidence::Says { key, .. } | Evidence::Flawed(key, _) => Some(key.id()),
        Evidence::Unknown(key) => *key,
        Evidence::Malformed(_) => None,
    });
    Reason::NoRule { keys: claimed.collect() }
}

/// Whether a signature counts under a rule; nothing if it is by none of the rule's keys.
fn weigh(
    case: &Case<'_>,
    rule: &Effective<'_>,
    judged: &Judged<'_>,
    key: &TrustedKey,
    revoked: Option<&str>,
    spoken: &Spoken,
) -> Option<Result<(), Flaw>> {
    let entries: Vec<_> = rule.keys.iter().filter(|(_, _, known)| known.key == *key).collect();
    let (first, more) = entries.split_first()?;
    if let Some(reason) = revoked {
        return Some(Err(Flaw::Revoked(reason.to_owned())));
    }
    let one = |(prefix, rule, known): &(&Prefix, &Rule, &RuleKey)| match spoken {
        Spoken::Statement(statement) => weigh_statement(case, judged, known, statement),
        Spoken::Foreign(claim) => weigh_foreign(case, judged, prefix, rule, known, claim),
    };
    // A key that two rules name counts if it does for one of them; the more specific one words the refusal.
    let result = one(first);
    Some(if result.is_err() && more.iter().any(|entry| one(entry).is_ok()) { Ok(()) } else { result })
}

/// Whether a statement is about this image under the judged name.
fn weigh_statement(case: &Case<'_>, judged: &Judged<'_>, key: &RuleKey, statement: &Statement) -> Result<(), Flaw> {
    let (signed, image) = (&statement.subject, case.image);
    if !same_name(&signed.name, judged.name) {
        return Err(Flaw::Name(signed.name.to_string()));
    }
    // Without a tag, or with `latest`, no particular version is asked for. A digest says itself which image is meant.
    let any = judged.pinned || judged.is_asked && judged.version.is_none_or(|asked| *asked == Version::latest());
    if !any && signed.version.as_ref() != judged.version {
        return Err(Flaw::Version(signed.version.as_ref().map_or("-".to_owned(), ToString::to_string)));
    }
    if (&signed.os, &signed.architecture) != (&image.os, &image.architecture) {
        return Err(Flaw::Platform(format!("{}/{}", signed.os, signed.architecture)));
    }
    if signed.manifest != image.manifest {
        return Err(Flaw::Manifest(signed.manifest.to_string()));
    }
    if statement.created > case.now.saturating_add(SKEW).unwrap_or(case.now) {
        return Err(Flaw::Future(statement.created));
    }
    if let Some(expires) = statement.expires.filter(|expires| *expires <= case.now) {
        return Err(Flaw::Expired(expires));
    }
    if let Some(from) = key.not_before.filter(|from| statement.created < *from) {
        return Err(Flaw::KeyNotYet(from));
    }
    key_in_force(key, case.now)?;
    match judged.marks.get(&key.key.id()).filter(|mark| !judged.pinned && statement.created < **mark) {
        Some(mark) => Err(Flaw::Older { created: statement.created, accepted: *mark }),
        None => Ok(()),
    }
}

fn key_in_force(key: &RuleKey, now: Timestamp) -> Result<(), Flaw> {
    if let Some(from) = key.not_before.filter(|from| now < *from) {
        return Err(Flaw::KeyNotYet(from));
    }
    match key.not_after.filter(|until| *until <= now) {
        Some(until) => Err(Flaw::KeyOver(until)),
        None => Ok(()),
    }
}

/// Whether a claim of cosign's is about this image under the judged name: its digest, and its name as the rule expects it.
fn weigh_foreign(
    case: &Case<'_>,
    judged: &Judged<'_>,
    prefix: &Prefix,
    rule: &Rule,
    key: &RuleKey,
    claim: &cosign::Claim,
) -> Result<(), Flaw> {
    if claim.digest != case.image.manifest && Some(claim.digest) != case.image.index {
        return Err(Flaw::Manifest(claim.digest.to_string()));
    }
    match &claim.name {
        // The digest alone says what it is, not what it is called: fine where the key may name only one thing.
        None if is_exactly(prefix, judged.name) => {}
        None => return Err(Flaw::Nameless),
        Some(name) => {
            if !is_expected(name, judged.name, prefix, rule.signed_as.as_deref()) {
                return Err(Flaw::Name(name.to_string()));
            }
        }
    }
    if !judged.pinned && !is_tagged_as_wanted(case, judged, rule, claim) {
        return Err(Flaw::Version(claim.version.as_ref().map_or("-".to_owned(), ToString::to_string)));
    }
    key_in_force(key, case.now)
}

/// Whether the tag in a claim of cosign's, which mostly has none, is the one that is wanted.
fn is_tagged_as_wanted(case: &Case<'_>, judged: &Judged<'_>, rule: &Rule, claim: &cosign::Claim) -> bool {
    let latest = Version::latest();
    if rule.tags {
        // A registry is asked for `latest` where no tag was typed.
        let wanted = judged.version.or_else(|| judged.is_asked.then_some(&latest));
        // No tag is never the wanted one: `containers-policy.json` refuses such a claim.
        return claim.version.is_some() && claim.version.as_ref() == wanted;
    }
    // Where no tag was typed, the image has the version of the tag that was fetched.
    match (&claim.version, judged.version.or(case.image.version.as_ref())) {
        (Some(signed), Some(wanted)) => signed == wanted,
        _ => true,
    }
}

fn is_expected(signed: &ImageName, judged: &ImageName, prefix: &Prefix, signed_as: Option<&str>) -> bool {
    match signed_as {
        None => same_name(signed, judged),
        Some(signed_as) => rest_behind(prefix, judged)
            .and_then(|rest| ImageName::parse(&format!("{signed_as}{rest}")).ok())
            .is_some_and(|expected| full(&expected) == full(signed)),
    }
}
