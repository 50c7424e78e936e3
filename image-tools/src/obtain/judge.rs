//! Whether an image that was found or fetched may run: the question that is put to the policy, and what follows from the
//! answer for the names in the store.

use super::{Images, ObtainError, Obtained, Terms, Trust};
use crate::digest::Digest;
use crate::key::KeyId;
use crate::name::{ImageName, Version};
use crate::provenance::Came;
use crate::reference::NameReference;
use crate::signature::Signature;
use crate::statement::Subject;
use crate::store::{Marked, StoreError, StoredImage};
use crate::trust::{Acceptance, Asked, Basis, Grant, Marks, Question};
use jiff::Timestamp;
use std::sync::Arc;

/// An image about which is decided.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) subject: &'a Subject,
    /// Its id in the store, if it is there.
    pub(super) id: Option<Digest>,
    pub(super) came: &'a [Came],
    pub(super) signatures: &'a [Signature],
}

/// What was decided.
pub(super) struct Judgement {
    pub(super) trust: Trust,
    audit: Option<String>,
    asked: Option<NameReference>,
    acceptance: Option<Arc<Acceptance>>,
    marked: Option<Marked>,
}

/// Under which name images are compared by age: that which was asked for. None for a digest, which the user chose.
pub(super) fn marked(asked: &NameReference, architecture: &str) -> Option<Marked> {
    let NameReference { name, version, digest } = asked;
    let marked = || Marked { name: name.clone(), version: version.clone(), architecture: architecture.to_owned() };
    digest.is_none().then(marked)
}

/// Where no name is asked for, it is that which the image gives itself.
pub(super) fn own_mark(subject: &Subject) -> Marked {
    let Subject { name, version, architecture, .. } = subject;
    Marked { name: name.clone(), version: version.clone(), architecture: architecture.clone() }
}

impl Judgement {
    pub(super) fn obtained(self, image: StoredImage) -> Obtained {
        let Self { trust, audit, asked, acceptance, .. } = self;
        Obtained { image, trust, audit, asked, acceptance }
    }
}

impl Images {
    /// Whether the image may run, and what an audit has to say about it.
    pub(super) fn judge(
        &self,
        candidate: &Candidate<'_>,
        asked: Option<&NameReference>,
        marked: Option<Marked>,
        terms: &Terms,
    ) -> Result<Judgement, ObtainError> {
        let marks = match &marked {
            Some(marked) if !terms.downgrade => self.store.marks(marked)?,
            _ => Marks::new(),
        };
        let answer = self.policy.judge(&question(candidate, asked, &marks));
        let acceptance = match answer {
            Ok(acceptance) => acceptance,
            Err(_) if terms.insecure.image => {
                let asked = asked.cloned();
                return Ok(Judgement { trust: Trust::Insecure, audit: None, asked, acceptance: None, marked: None });
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let (trust, audit) = trust(&acceptance);
        Ok(Judgement { trust, audit, asked: asked.cloned(), acceptance: Some(Arc::new(acceptance)), marked })
    }

    /// Notes how new the accepted image is. It is done when the image is in the store.
    pub(super) fn mark(&self, judgement: &Judgement, terms: &Terms) -> Result<(), StoreError> {
        match (&judgement.marked, &judgement.acceptance) {
            (Some(marked), Some(acceptance)) => self.raise(marked, &acceptance.asked, terms.downgrade),
            _ => Ok(()),
        }
    }

    fn raise(&self, marked: &Marked, grant: &Grant, back: bool) -> Result<(), StoreError> {
        if grant.created.is_empty() {
            return Ok(());
        }
        // At most runs nothing changes, and nothing is written.
        let known = self.store.marks(marked).unwrap_or_default();
        let new = |(key, time): (&KeyId, &Timestamp)| {
            known.get(key).is_none_or(|mark| if back { mark != time } else { mark < time })
        };
        if !grant.created.iter().any(new) {
            return Ok(());
        }
        self.store.mark(marked, &grant.created, back)
    }

    /// Whether signatures bind the image to the name and version that it gives itself: only then may a registry's answer set
    /// that name. If so, the name is marked, too.
    pub(super) fn is_bound_to_own_name(&self, candidate: &Candidate<'_>, terms: &Terms) -> Result<bool, StoreError> {
        let own = own_mark(candidate.subject);
        let marks = if terms.downgrade { Marks::new() } else { self.store.marks(&own)? };
        let Ok(acceptance) = self.policy.judge(&question(candidate, None, &marks)) else { return Ok(false) };
        if !matches!(acceptance.asked.basis, Basis::Signed) {
            return Ok(false);
        }
        self.raise(&own, &acceptance.asked, terms.downgrade).map(|()| true)
    }
}

fn question<'a>(candidate: &Candidate<'a>, asked: Option<&'a NameReference>, marks: &'a Marks) -> Question<'a> {
    let Candidate { subject, id, came, signatures } = *candidate;
    let asked = asked.map(|asked| Asked { name: &asked.name, version: asked.version.as_ref(), pin: asked.digest });
    Question { asked, subject, id, came, signatures, marks, now: Timestamp::now() }
}

/// The weakest of the grounds is the one that is shown.
fn trust(acceptance: &Acceptance) -> (Trust, Option<String>) {
    let grants = || std::iter::once(&acceptance.asked).chain(&acceptance.own);
    let audited = grants().find_map(|grant| match &grant.basis {
        Basis::Audited(refusal) => Some(refusal.to_string()),
        _ => None,
    });
    if audited.is_some() {
        return (Trust::Insecure, audited);
    }
    if grants().any(|grant| matches!(grant.basis, Basis::Pinned)) {
        return (Trust::Digest, None);
    }
    let asked = &acceptance.asked;
    let keys = asked.keys.iter().map(ToString::to_string).collect();
    let prefix = asked.rule.as_ref().map(|(rule, _)| rule.prefix.to_string()).unwrap_or_default();
    (Trust::Signature { prefix, keys }, None)
}

/// The tag that a registry is asked for.
pub(super) fn tag(wanted: &NameReference) -> Option<Version> {
    match (&wanted.version, wanted.digest) {
        (_, Some(_)) => None,
        (version, None) => Some(version.clone().unwrap_or_else(Version::latest)),
    }
}

/// The name as a registry knows it.
pub(super) fn at_registry(wanted: &NameReference) -> NameReference {
    let name: ImageName = crate::cosign::canonical_name(&wanted.name);
    NameReference { name, ..wanted.clone() }
}
