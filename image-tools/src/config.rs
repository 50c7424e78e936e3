//! The configuration of a native image: who it is, which layers it is made of, and the app in it.
//!
//! Media type `application/vnd.pod.image.config.v1+json`. An unknown field is refused, because it may be a restriction
//! that this program would not enforce. Everything here was written by a stranger: names of users, paths and signals
//! are checked for shape only, and get their meaning inside the pod.

use crate::digest::Digest;
use crate::name::{ImageName, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Media type of the configuration blob.
pub const MEDIA_TYPE: &str = "application/vnd.pod.image.config.v1+json";
/// The only schema this program knows.
pub const SCHEMA: u32 = 1;
/// Longest configuration in bytes.
pub const BYTES_MAX: usize = 1 << 20;
/// Most layers of an image; overlayfs stacks up to 500.
pub const LAYERS_MAX: usize = 256;
/// Most entries of any list in a configuration.
const LIST_MAX: usize = 4096;

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Longer than [`BYTES_MAX`].
    #[error("the image configuration is longer than {BYTES_MAX} bytes")]
    Long,
    /// Not the expected JSON.
    #[error("parse the image configuration")]
    Json(#[from] serde_json::Error),
    /// Of a schema that this program does not know.
    #[error("the image configuration has schema {0}, this program knows only {SCHEMA}")]
    Schema(u32),
    /// A value outside its limits.
    #[error("the image configuration has {0}")]
    Value(String),
}

/// A native image, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The name that signatures bind to.
    pub name: ImageName,
    /// The version that signatures bind to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Operating system, in the words of the OCI specification.
    pub os: String,
    /// Architecture, in the words of the OCI specification: `amd64`, `arm64`.
    pub architecture: String,
    /// RFC 3339; absent when the source did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Labels of the image's author.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What the image was converted from, for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Lowest first, as many as the manifest has layers.
    pub layers: Vec<Layer>,
    /// The app; absent in images that are only a file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
}

/// What a layer's content is, however it was compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Layer {
    /// A tar with OCI whiteouts.
    Tar {
        /// Digest of the uncompressed tar.
        diff_id: Digest,
    },
}

impl Layer {
    /// The digest of the uncompressed content, by which trees are shared.
    pub fn diff_id(&self) -> Digest {
        match self {
            Self::Tar { diff_id } => *diff_id,
        }
    }
}

/// The program of an image and what it asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// argv; the arguments of the command line are appended, or replace those after `default_arguments_at`.
    #[serde(default)]
    pub exec: Vec<String>,
    /// Index in `exec` of the first argument that a user's arguments replace (Docker's `Cmd` after an `Entrypoint`);
    /// absent: a user's arguments are appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_arguments_at: Option<usize>,
    /// A name, a number, or an absolute path whose owner is meant.
    pub user: String,
    /// As `user`; absent: the primary group of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Added to the groups of `/etc/group`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplementary_gids: Vec<u32>,
    /// Absolute path inside the root.
    pub working_directory: String,
    /// In order, without duplicates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<(String, String)>,
    /// Ports the app listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Where the app expects volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_points: Vec<MountPoint>,
    /// What the author asks to restrict or allow.
    #[serde(default)]
    pub isolators: Isolators,
    /// Name (`SIGTERM`) or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// A port an app listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Unique in the app: `80-tcp`, `http`.
    pub name: String,
    /// First port.
    pub port: u16,
    /// How many, from `port` upwards.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: Protocol,
}

fn one() -> u16 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature.
fn is_one(count: &u16) -> bool {
    *count == 1
}

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// Where an app expects a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountPoint {
    /// Name of the volume: one DNS label.
    pub name: String,
    /// Absolute path inside the root.
    pub path: String,
    /// The app only reads.
    #[serde(default)]
    pub read_only: bool,
    /// An empty volume starts with what the image has at `path` (Docker's `VOLUME`).
    #[serde(default)]
    pub populate: bool,
}

/// Restrictions and permissions that the image's author asks for; the user's flags win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolators {
    /// Capabilities; absent: the default set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<CapabilitySet>,
    /// System call filter; absent: the default profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompSet>,
    /// Ask for `PR_SET_NO_NEW_PRIVS`; absent: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_new_privileges: Option<bool>,
    /// Memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Relative share of CPU time, 2 to 262144.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Most processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// `oom_score_adj`, -1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adjust: Option<i32>,
    /// setrlimit(2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Namespaced kernel parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
}

/// Capabilities as a set to keep, or a set to take from the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", content = "capabilities", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CapabilitySet {
    /// Only these, by the kernel's names.
    Retain(Vec<String>),
    /// The default set without these.
    Remove(Vec<String>),
}

/// System calls as a set to keep, or a set to forbid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SeccompSet {
    /// Only these, by the kernel's names, or groups that start with `@`.
    Retain {
        /// Names and groups.
        syscalls: Vec<String>,
        /// Name of the error number the others get (`EPERM`); absent: SIGSYS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<String>,
    },
    /// All but these.
    Remove {
        /// Names and groups.
        syscalls: Vec<String>,
        /// Name of the error number these get; absent: SIGSYS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<String>,
    },
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// The kernel's name, `RLIMIT_NOFILE`.
    pub resource: String,
    /// Soft limit; absent: infinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u64>,
    /// Hard limit; absent: infinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u64>,
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

impl ImageConfig {
    /// Parses and checks a configuration blob.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > BYTES_MAX {
            return Err(ConfigError::Long);
        }
        let config: Self = match serde_json::from_slice(bytes) {
            Ok(config) => config,
            // Most configurations are of our schema, so it is asked for only when the content does not fit.
            Err(error) => match serde_json::from_slice::<Schema>(bytes) {
                Ok(Schema { schema }) if schema != SCHEMA => return Err(ConfigError::Schema(schema)),
                _ => return Err(error.into()),
            },
        };
        config.check()?;
        Ok(config)
    }

    /// The canonical bytes: one line of JSON, fields in the order of the types, maps sorted.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and string-keyed maps always serialise")
    }

    /// Checks what the types alone do not say.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.schema != SCHEMA {
            return Err(ConfigError::Schema(self.schema));
        }
        let word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        if !word(&self.os) || !word(&self.architecture) {
            return Err(value("an operating system or architecture that is not a word"));
        }
        if self.layers.len() > LAYERS_MAX {
            return Err(value(format!("more than {LAYERS_MAX} layers")));
        }
        if self.created.as_ref().is_some_and(|created| created.parse::<jiff::Timestamp>().is_err()) {
            return Err(value("a time of creation that is not in RFC 3339 form"));
        }
        self.app.as_ref().map_or(Ok(()), App::check)
    }
}

impl App {
    fn check(&self) -> Result<(), ConfigError> {
        let lists = [self.exec.len(), self.environment.len(), self.ports.len(), self.mount_points.len()];
        if lists.into_iter().chain([self.supplementary_gids.len()]).any(|len| len > LIST_MAX) {
            return Err(value(format!("a list of more than {LIST_MAX} entries")));
        }
        let texts = self.exec.iter().chain([&self.user, &self.working_directory]).chain(&self.group);
        let pairs = self.environment.iter().flat_map(|(name, text)| [name, text]);
        if texts.chain(pairs).chain(self.mount_points.iter().map(|point| &point.path)).any(|text| text.contains('\0')) {
            return Err(value("a text with a NUL byte"));
        }
        if self.exec.first().is_some_and(String::is_empty) {
            return Err(value("an empty program name"));
        }
        if self.user.is_empty() || self.group.as_ref().is_some_and(String::is_empty) {
            return Err(value("an empty user or group"));
        }
        if !self.working_directory.starts_with('/') {
            return Err(value("a working directory that is not absolute"));
        }
        for (index, (name, _)) in self.environment.iter().enumerate() {
            if name.is_empty() || name.contains('=') {
                return Err(value(format!("the environment variable name `{}`", name.escape_default())));
            }
            if self.environment[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(value(format!("the environment variable `{}` twice", name.escape_default())));
            }
        }
        self.check_ports_and_mount_points()
    }

    fn check_ports_and_mount_points(&self) -> Result<(), ConfigError> {
        for (index, port) in self.ports.iter().enumerate() {
            if port.port == 0 || port.count == 0 || port.port.checked_add(port.count - 1).is_none() {
                return Err(value(format!("the port {}", port.port)));
            }
            if self.ports[..index].iter().any(|earlier| earlier.name == port.name) {
                return Err(value(format!("two ports named `{}`", port.name.escape_default())));
            }
        }
        for (index, point) in self.mount_points.iter().enumerate() {
            if !is_label(&point.name) {
                return Err(value(format!("the mount point name `{}`", point.name.escape_default())));
            }
            if !point.path.starts_with('/') || point.path.split('/').any(|component| component == "..") {
                return Err(value(format!("the mount point path `{}`", point.path.escape_default())));
            }
            if self.mount_points[..index].iter().any(|earlier| earlier.name == point.name) {
                return Err(value(format!("two mount points named `{}`", point.name)));
            }
        }
        Ok(())
    }
}

/// One DNS label, as volumes are named.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn value(text: impl Into<String>) -> ConfigError {
    ConfigError::Value(text.into())
}
