//! From a reference to an image that may run: look in the store, fetch or import what is missing, verify every time.

use crate::reference::Reference;
use crate::store::{Store, StoreError, StoredImage};
use crate::trust::Policy;
use thiserror::Error;

/// When to look beyond the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only for images that are not in the store.
    #[default]
    New,
    /// Always, to see whether there is something newer.
    Update,
    /// Not at all.
    Never,
}

/// What the user allowed for this one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insecure {
    /// Images that no trust rule allows.
    pub image: bool,
    /// Servers whose certificate does not verify.
    pub tls: bool,
    /// Plain http.
    pub http: bool,
}

/// Why an image may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Signed as the rule for this prefix asks.
    Signature {
        /// Prefix of the rule.
        prefix: String,
        /// Ids of the keys that counted.
        keys: Vec<String>,
    },
    /// The user named the image by its digest.
    Digest,
    /// `--insecure-options=image`.
    Insecure,
}

/// An image that may run, and why.
#[derive(Clone, Debug)]
pub struct Obtained {
    /// The image.
    pub image: StoredImage,
    /// Why it may run.
    pub trust: Trust,
}

/// Why an image was not obtained.
#[derive(Debug, Error)]
pub enum ObtainError {
    /// The store could not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ObtainError {
    /// Advice for the user, where there is some.
    pub fn hint(&self) -> Option<String> {
        None
    }
}

/// All that is needed to obtain images.
#[derive(Debug)]
pub struct Images {
    /// Where images are kept.
    pub store: Store,
    /// Who may publish them.
    pub policy: Policy,
}

impl Images {
    /// Finds, fetches or imports the image and verifies it.
    pub fn obtain(
        &self,
        reference: &Reference,
        _pull: PullPolicy,
        _insecure: Insecure,
    ) -> Result<Obtained, ObtainError> {
        Err(StoreError::Missing(reference.to_string()).into())
    }
}
