//! The judgement: an image, its signatures and the moment against the one rule that is about its name.

use jiff::{SignedDuration, Timestamp};

use crate::cosign::{self, Claim, CosignError};
use crate::digest::Digest;
use crate::key::{KeyId, PemKey, PublicKey};
use crate::minisign::{Minisig, MinisignError};
use crate::signature::{SIGNATURES_MAX, Signature};
use crate::statement::{Statement, Subject};

use super::files::{FileState, Found, RuleFile};
use super::refusal::{Flaw, Reason, RuleName};
use super::rule::TrustedKey;
use super::{Accept, Prefix, Refusal, RuleKey, TrustDirs, TrustError};

/// How far the clock of a signer may be ahead of ours.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// The rules of a host. Nothing is read before a judgement needs it.
#[derive(Debug, Clone)]
pub struct Policy {
    dirs: TrustDirs,
}

/// Why an image may run.
#[derive(Debug)]
pub struct Verdict {
    /// Prefix of the rule that decided, if one did.
    pub rule: Option<RuleName>,
    /// The keys whose signatures counted.
    pub keys: Vec<KeyId>,
    /// On what grounds.
    pub basis: Basis,
    /// The manifest that was judged.
    pub manifest: Digest,
}

/// The grounds of a verdict.
#[derive(Debug)]
pub enum Basis {
    /// Enough of the rule's keys signed.
    Signed,
    /// The rule accepts anything.
    Anything,
    /// The user named the image by its digest.
    Pinned,
    /// The rule is in audit mode and would have refused; to be reported.
    Audited(Box<Refusal>),
}

/// A rule with the keys that it inherits.
struct Effective {
    name: RuleName,
    accept: Accept,
    threshold: usize,
    audit: bool,
    keys: Vec<(Prefix, Option<String>, RuleKey)>,
}

/// What became of one signature.
enum Outcome {
    Good(TrustedKey),
    Flawed(KeyId, Flaw),
    UnknownKey(Option<KeyId>),
}

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

    /// Whether the image may run, by what its signatures say.
    ///
    /// # Errors
    /// Every reason not to run it. In audit mode the refusal is inside of the verdict instead.
    pub fn judge(&self, subject: &Subject, signatures: &[Signature], now: Timestamp) -> Result<Verdict, Refusal> {
        let refuse = |reason| Refusal { subject: Box::new(subject.clone()), reason };
        let Some(rule) = self.effective(subject).map_err(|error| refuse(Reason::Rules(error)))? else {
            return Err(refuse(self.reason_without_rule(signatures)));
        };
        let verdict = |basis, keys| Verdict { rule: Some(rule.name.clone()), keys, basis, manifest: subject.manifest };
        let reason = match rule.accept {
            Accept::Anything => return Ok(verdict(Basis::Anything, Vec::new())),
            Accept::Nothing => Reason::Forbidden(rule.name.clone()),
            Accept::Signed => match self.count(&rule, subject, signatures, now) {
                Ok(keys) => return Ok(verdict(Basis::Signed, keys)),
                Err(reason) => reason,
            },
        };
        if rule.audit {
            return Ok(verdict(Basis::Audited(Box::new(refuse(reason))), Vec::new()));
        }
        Err(refuse(reason))
    }

    /// Whether an image may run that the user named by the digest of its manifest: an identity the user gave, which only a
    /// rule that accepts no image overrules.
    ///
    /// # Errors
    /// Such a rule, and rules that cannot be read.
    pub fn judge_pinned(&self, subject: &Subject) -> Result<Verdict, Refusal> {
        let refuse = |reason| Refusal { subject: Box::new(subject.clone()), reason };
        let rule = self.effective(subject).map_err(|error| refuse(Reason::Rules(error)))?;
        if let Some(rule) = &rule
            && rule.accept == Accept::Nothing
            && !rule.audit
        {
            return Err(refuse(Reason::Forbidden(rule.name.clone())));
        }
        let rule = rule.map(|rule| rule.name);
        Ok(Verdict { rule, keys: Vec::new(), basis: Basis::Pinned, manifest: subject.manifest })
    }

    /// Whether signatures of other tools can count for this image: if not, nobody needs to look for them.
    #[must_use]
    pub fn takes_foreign(&self, subject: &Subject) -> bool {
        let rule = self.effective(subject).ok().flatten();
        rule.is_some_and(|rule| rule.keys.iter().any(|(_, _, key)| matches!(key.key, TrustedKey::Pem(_))))
    }

    /// The rule that decides about a name, with the keys of the rules it inherits from.
    fn effective(&self, subject: &Subject) -> Result<Option<Effective>, TrustError> {
        let mut effective: Option<Effective> = None;
        for prefix in Prefix::covering(&subject.name) {
            let Some(found) = self.dirs.rule(&prefix)? else { continue };
            let exact = matches!(&prefix, Prefix::Under(name) if name == subject.name.as_str());
            if found.rule.exact && !exact {
                continue;
            }
            let name = RuleName::of(&found);
            let Found { prefix, rule, .. } = found;
            let inherit = rule.inherit;
            let signed_as = rule.signed_as;
            // A key of a rule that trusts without signatures, or trusts nobody, says nothing about whom to believe.
            let lends = effective.is_none() || rule.accept == Accept::Signed;
            let keys = rule.keys.into_iter().filter(|_| lends).map(|key| (prefix.clone(), signed_as.clone(), key));
            match &mut effective {
                Some(effective) => effective.keys.extend(keys),
                None => {
                    effective = Some(Effective {
                        name,
                        accept: rule.accept,
                        threshold: rule.threshold,
                        audit: rule.audit,
                        keys: keys.collect(),
                    });
                }
            }
            if !inherit {
                break;
            }
        }
        Ok(effective)
    }

    /// Counts the different keys that signed, or says why they are too few.
    fn count(
        &self,
        rule: &Effective,
        subject: &Subject,
        signatures: &[Signature],
        now: Timestamp,
    ) -> Result<Vec<KeyId>, Reason> {
        if rule.keys.is_empty() {
            return Err(Reason::NoKeys(rule.name.clone()));
        }
        if signatures.len() > SIGNATURES_MAX {
            return Err(Reason::Malformed(format!("more than {SIGNATURES_MAX} signatures")));
        }
        let mut good: Vec<TrustedKey> = Vec::new();
        let mut flaws = Vec::new();
        let mut unknown = Vec::new();
        for signature in signatures {
            match self.weigh(rule, subject, signature, now)? {
                Outcome::Good(key) if good.iter().any(|other| other.same_key(&key)) => {}
                Outcome::Good(key) => good.push(key),
                Outcome::Flawed(key, flaw) => flaws.push((key, flaw)),
                Outcome::UnknownKey(key) => unknown.push(key),
            }
            if good.len() >= rule.threshold {
                return Ok(good.iter().map(TrustedKey::id).collect());
            }
        }
        flaws.sort_by_key(|(_, flaw)| flaw.rank());
        let flaw = flaws.into_iter().next();
        Err(match (good.is_empty(), flaw) {
            (false, flaw) => Reason::Threshold {
                rule: rule.name.clone(),
                wanted: rule.threshold,
                good: good.iter().map(TrustedKey::id).collect(),
                flaw,
            },
            (true, Some((key, flaw))) => Reason::Flawed { rule: rule.name.clone(), key, flaw },
            (true, None) if signatures.is_empty() => Reason::Unsigned(rule.name.clone()),
            (true, None) => self.reason_for_unknown(Some(rule.name.clone()), &unknown),
        })
    }

    fn weigh(
        &self,
        rule: &Effective,
        subject: &Subject,
        signature: &Signature,
        now: Timestamp,
    ) -> Result<Outcome, Reason> {
        match signature {
            Signature::Pod { statement, minisig } => {
                let minisig = Minisig::parse(minisig).map_err(|error| Reason::Malformed(error.to_string()))?;
                let id = minisig.key_id();
                let known = rule.keys.iter().find_map(|(_, _, key)| match &key.key {
                    TrustedKey::Minisign(public) if public.id() == id => Some((key, public)),
                    _ => None,
                });
                let Some((key, public)) = known else { return Ok(Outcome::UnknownKey(Some(id))) };
                if let Some(reason) = self.revoked(id)? {
                    return Ok(Outcome::Flawed(id, Flaw::Revoked(reason)));
                }
                Ok(match weigh_statement(subject, key, public, statement, &minisig, now) {
                    Ok(()) => Outcome::Good(key.key.clone()),
                    Err(flaw) => Outcome::Flawed(id, flaw),
                })
            }
            Signature::CosignPayload { payload, signature } => {
                self.weigh_foreign(rule, subject, now, |key| cosign::verify_payload(key, payload, signature))
            }
            Signature::CosignBundle { bundle, signed } => {
                self.weigh_foreign(rule, subject, now, |key| cosign::verify_bundle(key, bundle, signed.as_deref()))
            }
        }
    }

    /// Tries the rule's keys: cosign's documents do not say by which key they are.
    fn weigh_foreign(
        &self,
        rule: &Effective,
        subject: &Subject,
        now: Timestamp,
        verify: impl Fn(&PemKey) -> Result<Claim, CosignError>,
    ) -> Result<Outcome, Reason> {
        let mut outcome = Outcome::UnknownKey(None);
        for (prefix, signed_as, key) in &rule.keys {
            let TrustedKey::Pem(pem) = &key.key else { continue };
            let id = pem.id();
            let claim = match verify(pem) {
                Ok(claim) => claim,
                Err(CosignError::Unverified) => continue,
                Err(error) => {
                    // A document of another tool beside the image is no reason to refuse what is properly signed.
                    outcome = Outcome::Flawed(id, Flaw::Malformed(error.to_string()));
                    continue;
                }
            };
            if let Some(reason) = self.revoked(id)? {
                return Ok(Outcome::Flawed(id, Flaw::Revoked(reason)));
            }
            let flaw = weigh_claim(subject, prefix, signed_as.as_deref(), &claim).and_then(|()| key_in_force(key, now));
            return Ok(match flaw {
                Ok(()) => Outcome::Good(key.key.clone()),
                Err(flaw) => Outcome::Flawed(id, flaw),
            });
        }
        Ok(outcome)
    }

    fn revoked(&self, key: KeyId) -> Result<Option<String>, Reason> {
        self.dirs.revoked(key).map_err(Reason::Rules)
    }

    fn reason_without_rule(&self, signatures: &[Signature]) -> Reason {
        let keys: Vec<Option<KeyId>> = signatures.iter().map(claimed_key).collect();
        match self.reason_for_unknown(None, &keys) {
            reason @ (Reason::OtherPrefix { .. } | Reason::Rules(_)) => reason,
            _ => Reason::NoRule,
        }
    }

    /// Looks whether an unknown key is known elsewhere. This reads all rules, and is done only to word a refusal.
    fn reason_for_unknown(&self, rule: Option<RuleName>, keys: &[Option<KeyId>]) -> Reason {
        let keys: Vec<KeyId> = keys.iter().copied().flatten().collect();
        let all = match self.dirs.all() {
            Ok(all) => all,
            Err(error) => return Reason::Rules(error),
        };
        for RuleFile { prefix, state, .. } in all {
            let FileState::Rule(other) = state else { continue };
            if let Some(key) = keys.iter().find(|id| other.keys.iter().any(|key| key.key.id() == **id)) {
                return Reason::OtherPrefix { key: *key, trusted_for: prefix };
            }
        }
        Reason::Untrusted { rule, keys }
    }
}

/// The key that a signature says it is by, unverified: for messages only.
fn claimed_key(signature: &Signature) -> Option<KeyId> {
    match signature {
        Signature::Pod { minisig, .. } => Minisig::parse(minisig).ok().map(|minisig| minisig.key_id()),
        Signature::CosignPayload { .. } | Signature::CosignBundle { .. } => None,
    }
}

fn weigh_statement(
    subject: &Subject,
    key: &RuleKey,
    public: &PublicKey,
    statement: &str,
    minisig: &Minisig,
    now: Timestamp,
) -> Result<(), Flaw> {
    minisig.verify(public, statement.as_bytes()).map_err(|error: MinisignError| Flaw::Altered(error.to_string()))?;
    // Only bytes that a trusted key has signed are parsed.
    let statement = Statement::parse(statement.as_bytes()).map_err(|error| Flaw::Malformed(error.to_string()))?;
    if statement.key != public.id() {
        return Err(Flaw::KeyName(statement.key));
    }
    let signed = &statement.subject;
    if signed.name != subject.name {
        return Err(Flaw::Name(signed.name.to_string()));
    }
    if signed.version != subject.version {
        return Err(Flaw::Version(signed.version.as_ref().map_or("-".to_owned(), ToString::to_string)));
    }
    if (&signed.os, &signed.architecture) != (&subject.os, &subject.architecture) {
        return Err(Flaw::Platform(format!("{}/{}", signed.os, signed.architecture)));
    }
    if signed.manifest != subject.manifest {
        return Err(Flaw::Manifest(signed.manifest.to_string()));
    }
    if statement.created > now.saturating_add(SKEW).unwrap_or(now) {
        return Err(Flaw::Future(statement.created));
    }
    if let Some(expires) = statement.expires.filter(|expires| *expires <= now) {
        return Err(Flaw::Expired(expires));
    }
    if let Some(from) = key.not_before.filter(|from| statement.created < *from) {
        return Err(Flaw::KeyNotYet(from));
    }
    key_in_force(key, now)
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

/// Whether a claim of a foreign signature is about this image: its digest, and its name as the rule expects it.
fn weigh_claim(subject: &Subject, prefix: &Prefix, signed_as: Option<&str>, claim: &Claim) -> Result<(), Flaw> {
    if claim.digest != subject.manifest && Some(claim.digest) != subject.index {
        return Err(Flaw::Manifest(claim.digest.to_string()));
    }
    let asked = cosign::canonical_name(&subject.name);
    let Some(name) = &claim.name else {
        // The digest alone says what it is, not what it is called: fine where the key may name only one thing.
        let only = matches!(prefix, Prefix::Under(prefix) if prefix == subject.name.as_str());
        return if only { Ok(()) } else { Err(Flaw::Nameless) };
    };
    let expected = match (signed_as, prefix) {
        (Some(signed_as), Prefix::Under(prefix)) => {
            format!("{signed_as}{}", subject.name.as_str().strip_prefix(prefix.as_str()).unwrap_or_default())
        }
        (Some(signed_as), Prefix::All) => format!("{signed_as}/{}", subject.name),
        (None, _) => asked.as_str().to_owned(),
    };
    if name.as_str() != expected {
        return Err(Flaw::Name(name.to_string()));
    }
    match (&claim.version, &subject.version) {
        (Some(signed), Some(asked)) if signed != asked => Err(Flaw::Version(signed.to_string())),
        _ => Ok(()),
    }
}
