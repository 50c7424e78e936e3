//! Who may publish what: trust rules, and the judgement of an image by them.
//!
//! Whoever starts a pod runs this, usually as root, before anything of the image is used, and again at every start. Nothing
//! is trusted by default. A rule is a file named after the name prefix it is about, so a judgement opens only the files that
//! can matter for one name, and no file can claim a prefix that its name does not show. The most specific rule decides
//! alone, unless it says that it inherits. Files of the administrator mask those of the vendor with the same name.

use std::fmt;

mod allow;
pub mod decide;
mod edit;
mod evidence;
mod files;
mod import;
mod judge;
mod refusal;
mod rotation;
mod rule;
#[cfg(test)]
mod tests;

pub use allow::Allow;
pub use decide::{Acceptance, Asked, Basis, Grant, Marks};
pub use edit::{AddOptions, Entry, KeyEntry, add, allow, list, remove, revoke};
pub use files::{Level, TrustDirs};
pub use import::{import_policy, policy_rules};
pub use judge::{NO_MARKS, Policy, Question};
pub use refusal::{Flaw, JudgedImage, Reason, Refusal, RuleName};
pub use rotation::{RotateError, Rotation, rotate};
pub use rule::{Accept, Prefix, Rule, RuleKey, TrustedKey};

/// Why a rule file, or a change of the rules, was refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A text that is not a name prefix.
    #[error("`{0}` is not a name prefix: whole components such as `example.com/team`, or `*` for every name")]
    Prefix(String),
    /// A rule file that says something we do not know, or contradicts itself.
    #[error("trust rule `{path}`: {reason}")]
    Rule {
        /// The file.
        path: String,
        /// What is wrong, as a clause.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("trust rules: {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// The kernel's reason.
        #[source]
        source: std::io::Error,
    },
    /// Others than root can change what decides.
    #[error("trust rules are open to others")]
    Exposed(#[from] crate::ownership::Exposed),
    /// A key that could not be read.
    #[error(transparent)]
    Key(#[from] crate::key::KeyError),
    /// A change that makes no sense; the text is the whole reason.
    #[error("{0}")]
    Change(String),
}

/// What is said about an image from outside the image: by which level a rule was written.
impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Local => "local",
            Self::System => "system",
            Self::BuiltIn => "built-in",
        })
    }
}
