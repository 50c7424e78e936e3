//! Where the bytes of an image came from: what is recorded when they come, and asked whenever the image is judged again.

use crate::name::{ImageName, Version};
use serde::{Deserialize, Serialize};

/// Most ways that are remembered of one image; the oldest are forgotten first.
const WAYS_MAX: usize = 64;

/// One way in which the bytes of an image came here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Came {
    /// The registry of this name, or a mirror that the administrator configured for that registry, gave them.
    Registry {
        /// The name that was asked for there, in full.
        name: ImageName,
        /// The tag that was asked for there; absent if it was a digest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Version>,
        /// How well it is known who answered.
        channel: Channel,
    },
    /// A file of a web server, by URL or found by a name.
    Web,
    /// A native or appc file.
    File,
    /// An archive or a directory of another tool.
    Archive,
}

/// How well it is known which server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// TLS with a verified certificate.
    Tls,
    /// TLS whose certificate was not looked at.
    Unverified,
    /// Plain http.
    Http,
}

impl Came {
    /// Adds the ways in which the same bytes came before: that a registry gave them out stays true.
    pub(crate) fn remember(ways: &mut Vec<Self>, before: Vec<Self>) {
        let mut all: Vec<Self> = before.into_iter().filter(|way| !ways.contains(way)).collect();
        all.append(ways);
        all.drain(..all.len().saturating_sub(WAYS_MAX));
        *ways = all;
    }
}
