//! Signatures that travel with an image.

use serde::{Deserialize, Serialize};

/// One signature document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Signature {
    /// Ours: a statement and a minisign signature over it.
    Pod {
        /// The statement's text.
        statement: String,
        /// The minisign file's text.
        minisig: String,
    },
}
