//! One case by both readings.

use std::collections::BTreeSet;

use image_tools::trust::decide::decide;
use image_tools::trust::{Acceptance, Basis as Grounds, Flaw, Grant, Reason, Refusal};

use super::cases::Scenario;
use super::reading::{Basis, Ground, Reading, Role, Verdict, Why, read};

/// The classes that the case belongs to.
///
/// # Errors
/// The two disagree, or a refusal says of a signature what is not so.
pub(crate) fn compare(scenario: &Scenario) -> Result<BTreeSet<String>, String> {
    let case = scenario.case();
    let reading = read(&case);
    let decided = decide(&case);
    let mut classes = BTreeSet::new();
    let verdict = match &decided {
        Ok(acceptance) => accepted(acceptance),
        Err(refusal) => {
            classes.extend(reasons(refusal));
            honest(refusal, &reading)?;
            Verdict::Refused(role(scenario, refusal)?, why(&refusal.reason))
        }
    };
    match (&verdict, &reading.verdict) {
        (decided, read) if decided == read => {}
        (Verdict::Accepted(_), Verdict::Refused(..)) => {
            return Err(format!("accepted what the second reading refuses: {verdict:?}, not {:?}", reading.verdict));
        }
        _ => return Err(format!("decided {decided:?}, which is {verdict:?}, not {:?}", reading.verdict)),
    }
    match verdict {
        Verdict::Refused(role, why) => _ = classes.insert(format!("refused {role:?} {why:?}")),
        Verdict::Accepted(grounds) => {
            let roles = if scenario.asked.is_some() { [Role::Asked, Role::Own] } else { [Role::Own; 2] };
            classes.extend(
                roles.iter().zip(grounds).map(|(role, ground)| format!("accepted {role:?} {:?}", ground.basis)),
            );
        }
    }
    classes.extend(
        reading
            .lacks
            .iter()
            .filter(|(_, lacks)| lacks.len() == 1)
            .flat_map(|(_, lacks)| lacks)
            .map(|what| format!("only {what}")),
    );
    Ok(classes)
}

fn accepted(acceptance: &Acceptance) -> Verdict {
    let ground = |grant: &Grant| {
        let (basis, signed) = match grant.basis {
            Grounds::Signed => (Basis::Signed, true),
            Grounds::Anything => (Basis::Anything, false),
            Grounds::Pinned => (Basis::Pinned, false),
            Grounds::Audited(_) => (Basis::Audited, false),
        };
        let (keys, created) = if signed { (grant.keys.len(), grant.created.clone()) } else { Default::default() };
        Ground { name: grant.name.to_string(), basis, keys, created }
    };
    Verdict::Accepted([Some(&acceptance.asked), acceptance.own.as_ref()].into_iter().flatten().map(ground).collect())
}

/// Which name's rule refuses; the refusal must name it.
fn role(scenario: &Scenario, refusal: &Refusal) -> Result<Role, String> {
    let (asked, image) = (scenario.asked.as_ref().map(|(name, _, _)| name), &refusal.image);
    let about = if image.asked.is_some() || asked.is_none() { Role::Own } else { Role::Asked };
    let expected = match about {
        Role::Asked => (asked, None),
        Role::Own => (Some(&scenario.image.name), asked),
    };
    if (Some(&image.name), image.asked.as_ref()) == expected {
        Ok(about)
    } else {
        Err(format!("a refusal of {image:?}"))
    }
}

/// For which of the page's reasons. Where no rule is about the name, signatures do not matter.
fn why(reason: &Reason) -> Why {
    match reason {
        Reason::OtherDigest(_) => Why::OtherDigest,
        Reason::NoRule { .. } | Reason::Untrusted { rule: None, .. } => Why::NoRule,
        Reason::Forbidden(_) => Why::Nothing,
        Reason::Elsewhere { .. } => Why::Elsewhere,
        Reason::NoKeys(_)
        | Reason::Unsigned(_)
        | Reason::Untrusted { .. }
        | Reason::OtherPrefix { .. }
        | Reason::Flawed { .. }
        | Reason::Threshold { .. }
        | Reason::Malformed(_)
        | Reason::Rules(_) => Why::Signatures,
    }
}

/// The first word of what is written for debugging.
fn word(of: &impl std::fmt::Debug) -> String {
    format!("{of:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

fn reasons(refusal: &Refusal) -> Vec<String> {
    let flaw = flaw(&refusal.reason).map(|(_, flaw)| format!("flaw {}", word(flaw)));
    [Some(format!("reason {}", word(&refusal.reason))), flaw].into_iter().flatten().collect()
}

fn flaw(reason: &Reason) -> Option<(image_tools::key::KeyId, &Flaw)> {
    match reason {
        Reason::Flawed { key, flaw, .. } => Some((*key, flaw)),
        Reason::Threshold { flaw, .. } => flaw.as_ref().map(|(key, flaw)| (*key, flaw)),
        _ => None,
    }
}

/// What a refusal says of a signature is so.
fn honest(refusal: &Refusal, reading: &Reading) -> Result<(), String> {
    let Some((key, flaw)) = flaw(&refusal.reason) else { return Ok(()) };
    let condition = match flaw {
        Flaw::Revoked(_) => "not revoked",
        // These are found before the decision.
        Flaw::Altered(_) | Flaw::Malformed(_) | Flaw::KeyName(_) => return Ok(()),
        Flaw::Name(_) | Flaw::Nameless => "name",
        Flaw::Version(_) => "version",
        Flaw::Platform(_) => "platform",
        Flaw::Manifest(_) => "digest",
        Flaw::Expired(_) => "not expired",
        Flaw::Future(_) => "not future",
        Flaw::KeyNotYet(_) => "key begun",
        Flaw::KeyOver(_) => "key not over",
        Flaw::Older { .. } => "not older",
    };
    let so = reading.lacks.iter().any(|(by, lacks)| {
        *by == key && (lacks.contains(condition) || lacks.contains(&*format!("cosign {condition}")))
    });
    if so { Ok(()) } else { Err(format!("the refusal says {flaw:?} of {key}; really {:?}", reading.lacks)) }
}
