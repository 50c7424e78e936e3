//! Who may publish which images.

/// All rules of a host.
#[derive(Debug, Clone)]
pub struct Policy {}
