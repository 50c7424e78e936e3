//! Checking what is stored against what it must be.

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Layers that were checked.
    pub layers: usize,
}
