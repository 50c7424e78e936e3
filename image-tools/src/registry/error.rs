//! Why a registry did not give or take what was asked.

use crate::digest::Digest;
use thiserror::Error;

/// Why a request came to nothing.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No such repository, tag or blob.
    #[error("{host} has no {what}")]
    NotFound {
        /// Which registry.
        host: String,
        /// Manifest, blob …
        what: String,
    },
    /// The registry wants credentials and there are none.
    #[error("{host} asks for a login to read {repository}")]
    NoCredentials {
        /// Which registry.
        host: String,
        /// Which repository.
        repository: String,
    },
    /// The registry does not accept the credentials.
    #[error("{host} refuses the credentials from {source_file} for {repository}")]
    Refused {
        /// Which registry.
        host: String,
        /// Which repository.
        repository: String,
        /// Where they came from.
        source_file: String,
    },
    /// An answer that the protocol does not allow.
    #[error("{host} answers {what}")]
    Malformed {
        /// Which registry.
        host: String,
        /// What it answered, one phrase.
        what: String,
    },
    /// A status that means failure.
    #[error("{host} answers {status} to {what}")]
    Status {
        /// Which registry.
        host: String,
        /// HTTP status.
        status: u16,
        /// What was asked.
        what: String,
    },
    /// The bytes are not the ones that were asked for.
    #[error("{host} sends {got} where {wanted} was asked for")]
    Digest {
        /// Which registry.
        host: String,
        /// Asked for.
        wanted: Digest,
        /// Received.
        got: Digest,
    },
    /// The server's certificate does not prove who it is.
    #[error("the certificate of {host} is not accepted: {reason}")]
    Tls {
        /// Which registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// No connection, or it broke, or took too long.
    #[error("{host}: {reason}")]
    Transport {
        /// Which registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// The image has no manifest for this platform.
    #[error("{image} has no image for {platform}; it has {available}")]
    Platform {
        /// Which image.
        image: String,
        /// `linux/amd64`
        platform: String,
        /// What it has.
        available: String,
    },
    /// A settings or credentials file that cannot be used.
    #[error("{file}: {reason}")]
    Settings {
        /// Which file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A settings or credentials file that others can change, or credentials that they can read.
    #[error("{what} are open to others")]
    Exposed {
        /// Settings, credentials, certificates.
        what: &'static str,
        /// Which file, and why.
        source: crate::ownership::Exposed,
    },
    /// A local file could not be read or written.
    #[error("{what}")]
    Local {
        /// The operation and its object.
        what: String,
        /// Its errno.
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Advice, where there is some.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoCredentials { host, .. } | Self::Refused { host, .. } => Some(format!(
                "put the credentials in `auth.d/`, or log in with a tool that writes auth.json, for {host}"
            )),
            Self::Tls { host, .. } => Some(format!(
                "name the CA in `registries.d/` (`\"registry\": \"{host}\", \"ca\": FILE`), or use --insecure-options=tls for one run"
            )),
            Self::Exposed { source, .. } => source.hint(),
            Self::Platform { .. } => Some("choose another with --arch".into()),
            _ => None,
        }
    }

    /// Whether the host seems to be no registry, but could be a web server.
    pub(crate) fn may_be_a_website(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Malformed { .. } | Self::Status { .. })
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}
