//! The decision whether an image may run under the name that it was asked for. README.md beside this file says the same in
//! words; a second reading of those words is compared with this file by a property test.
//!
//! A pure function: no files, no clock, no cryptography. Signatures were verified before ([`Evidence`]), the rules were
//! read before ([`Rules`]), and where the bytes came from was recorded when they came ([`Came`]).

mod names;
mod rules;
mod signatures;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::digest::Digest;
use crate::key::KeyId;
use crate::name::{ImageName, Version};
use crate::provenance::{Came, Channel};
use crate::statement::Subject;

use super::refusal::{JudgedImage, Reason, RuleName};
use super::{Accept, Refusal, Rule};

pub use names::{full, prefixes, same_name};
pub(crate) use rules::holds;
pub use rules::{Effective, Rules};
pub use signatures::{Evidence, Spoken};

/// All that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The name that the user asked for. Absent for a file, an archive, a URL and a store id: then the image answers for
    /// the name that it gives itself.
    pub asked: Option<Asked<'a>>,
    /// What the image says of itself, and its digests.
    pub image: &'a Subject,
    /// The id in the store, which may be another digest than that of the manifest at the source.
    pub id: Option<Digest>,
    /// The ways in which exactly these bytes came here.
    pub came: &'a [Came],
    /// What is known of each signature.
    pub evidence: &'a [Evidence],
    /// The trust rules; at least those whose prefix covers one of the names.
    pub rules: &'a Rules,
    /// For the name and tag that are asked for: the time of the last accepted signature of each key. Empty where the
    /// downgrade rule does not apply.
    pub marks: &'a Marks,
    /// The time of the decision.
    pub now: Timestamp,
}

/// The name that was asked for, as it was typed.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The name.
    pub name: &'a ImageName,
    /// The tag. Absent or `latest`: no particular version was asked for.
    pub version: Option<&'a Version>,
    /// The digest, if one was typed.
    pub pin: Option<Digest>,
}

/// By key: when the last accepted statement was made.
pub type Marks = BTreeMap<KeyId, Timestamp>;

/// Why an image may run.
#[derive(Debug)]
pub struct Acceptance {
    /// By the rule of the name that was asked for, or of the image's own name where none was.
    pub asked: Grant,
    /// By the rule of the name that the image gives itself, where that is another one.
    pub own: Option<Grant>,
}

/// One rule's consent.
#[derive(Debug)]
pub struct Grant {
    /// The name that was judged.
    pub name: ImageName,
    /// The version that was judged.
    pub version: Option<Version>,
    /// The rule that decided; absent only for a pinned image whose name no rule covers.
    pub rule: Option<(RuleName, Rule)>,
    /// On what grounds.
    pub basis: Basis,
    /// The keys whose signatures counted, in the order of the signatures.
    pub keys: Vec<KeyId>,
    /// By key, when the newest of our own statements that counted was made.
    pub created: Marks,
}

/// The grounds of a consent.
#[derive(Debug)]
pub enum Basis {
    /// Enough of the rule's keys signed.
    Signed,
    /// The rule accepts anything that the registry of the name gives out.
    Anything,
    /// The user named the image by its digest.
    Pinned,
    /// The rule is in audit mode and would have refused; to be reported.
    Audited(Box<Refusal>),
}

/// The name and version under which an image is judged.
#[derive(Debug, Clone, Copy)]
struct Judged<'a> {
    name: &'a ImageName,
    version: Option<&'a Version>,
    /// It is the name that was asked for.
    is_asked: bool,
    pinned: bool,
    /// The marks hold for the first name only.
    marks: &'a Marks,
}

/// Whether the image may run.
///
/// # Errors
/// The reason why not, about the name whose rule refuses.
pub fn decide(case: &Case<'_>) -> Result<Acceptance, Refusal> {
    let no_marks = Marks::new();
    let pinned = case.asked.is_some_and(|asked| asked.pin.is_some());
    let own = Judged {
        name: &case.image.name,
        version: case.image.version.as_ref(),
        is_asked: false,
        pinned,
        marks: if case.asked.is_some() { &no_marks } else { case.marks },
    };
    let Some(asked) = case.asked else {
        return Ok(Acceptance { asked: consent(case, &own)?, own: None });
    };
    let first = Judged { name: asked.name, version: asked.version, is_asked: true, pinned, marks: case.marks };
    let digests = [Some(case.image.manifest), case.image.index, case.id];
    if let Some(pin) = asked.pin
        && !digests.contains(&Some(pin))
    {
        return Err(refusal(case, &first, Reason::OtherDigest(pin)));
    }
    let consent_asked = consent(case, &first)?;
    // The name that the image gives itself can only narrow: its rule must accept, too.
    let other = asked.name != &case.image.name;
    let consent_own = other.then(|| consent(case, &own)).transpose()?;
    Ok(Acceptance { asked: consent_asked, own: consent_own })
}

/// The consent of the one rule that is about a name.
fn consent(case: &Case<'_>, judged: &Judged<'_>) -> Result<Grant, Refusal> {
    let grant = |rule: Option<&Effective<'_>>, basis, counted: signatures::Counted| Grant {
        name: judged.name.clone(),
        version: judged.version.cloned(),
        rule: rule.map(|rule| (rule.name.clone(), rule.rule.clone())),
        basis,
        keys: counted.keys,
        created: counted.created,
    };
    let Some(rule) = Effective::of(case.rules, judged.name) else {
        return match judged.pinned {
            true => Ok(grant(None, Basis::Pinned, signatures::Counted::default())),
            false => Err(refusal(case, judged, signatures::reason_without_rule(case.evidence))),
        };
    };
    let reason = match rule.rule.accept {
        Accept::Nothing => Reason::Forbidden(rule.name.clone()),
        Accept::Anything if came_from_its_registry(case.came, judged) => {
            return Ok(grant(Some(&rule), Basis::Anything, signatures::Counted::default()));
        }
        Accept::Anything => Reason::Elsewhere { rule: rule.name.clone(), came: case.came.to_vec() },
        Accept::Signed => match signatures::count(case, &rule, judged) {
            Ok(counted) => return Ok(grant(Some(&rule), Basis::Signed, counted)),
            Err(reason) => reason,
        },
    };
    // A digest is an identity that the user gave. Only a rule that accepts no image is stronger.
    if judged.pinned && rule.rule.accept != Accept::Nothing {
        return Ok(grant(Some(&rule), Basis::Pinned, signatures::Counted::default()));
    }
    let refused = refusal(case, judged, reason);
    if rule.rule.audit {
        return Ok(grant(Some(&rule), Basis::Audited(Box::new(refused)), signatures::Counted::default()));
    }
    Err(refused)
}

/// Whether the registry of the name gave out these bytes, over verified TLS, as what was asked for.
fn came_from_its_registry(came: &[Came], judged: &Judged<'_>) -> bool {
    came.iter().any(|came| {
        let Came::Registry { name, version, channel: Channel::Tls } = came else { return false };
        let same_tag = match judged.version {
            _ if judged.pinned || !judged.is_asked => true,
            Some(asked) if *asked != Version::latest() => version.as_ref() == Some(asked),
            // The registry's answer about a digest says nothing of what it has under a tag.
            _ => version.is_some(),
        };
        same_tag && same_name(name, judged.name)
    })
}

fn refusal(case: &Case<'_>, judged: &Judged<'_>, reason: Reason) -> Refusal {
    let image = JudgedImage {
        name: judged.name.clone(),
        version: judged.version.cloned(),
        asked: case.asked.map(|asked| asked.name.clone()).filter(|asked| asked != judged.name),
        subject: case.image.clone(),
    };
    Refusal { image: Box::new(image), reason }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
