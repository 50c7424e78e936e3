//! Names and versions of images, as in `docker.io/library/redis:7.2`.
//!
//! The grammar is that of the OCI distribution specification, and a first component that looks like a host (has a dot or
//! a port, or is `localhost`) may carry a port. A name becomes a path in the store and the subject of trust rules, so
//! nothing outside the grammar is let through, and the same name has one spelling only.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Longest name, in bytes: what registries accept, and short enough for a path.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest version, in bytes.
pub const VERSION_BYTES_MAX: usize = 128;

/// Why a name or version was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing is there.
    #[error("the image name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("the image name is longer than {NAME_BYTES_MAX} bytes")]
    Long,
    /// A component outside the grammar.
    #[error(
        "`{component}` in the image name `{name}` is not a component: it may hold a-z and 0-9, with `.`, `_`, `__` or `-` between them"
    )]
    Component {
        /// The whole name, escaped.
        name: String,
        /// The component, escaped.
        component: String,
    },
    /// Not a version.
    #[error("`{0}` is not an image version: it may hold letters, digits, `.`, `_` and `-`, up to {VERSION_BYTES_MAX}")]
    Version(String),
}

/// The name of an image without version: `demo`, `example.com/app`, `localhost:5000/team/app`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// Checks `text` and keeps it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::Long);
        }
        let parts = text.split('/').count();
        for (index, component) in text.split('/').enumerate() {
            let host = index == 0 && parts > 1 && looks_like_host(component);
            let good = if host { host_component(component) } else { path_component(component) };
            if !good {
                return Err(NameError::Component { name: escaped(text), component: escaped(component) });
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components between the slashes; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component: the default name of an app.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The host, with its port, if the first component is one.
    pub fn host(&self) -> Option<&str> {
        self.0.split_once('/').map(|(first, _)| first).filter(|first| looks_like_host(first))
    }

    /// True if the components of `self` start with those of `prefix`; `example.com/et` is no prefix of
    /// `example.com/etcd`.
    pub fn is_under(&self, prefix: &ImageName) -> bool {
        self.0.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn looks_like_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':'])
}

fn host_component(component: &str) -> bool {
    let (host, port) = match component.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (component, None),
    };
    // One spelling only: no leading zero, no sign.
    let port_good = port.is_none_or(|port| {
        !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    port_good && host.split('.').all(label)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of the distribution specification.
fn path_component(component: &str) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = component.as_bytes();
    let edges = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let separator = |run: &[u8]| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-');
    edges && bytes.split(alphanumeric).all(separator)
}

fn escaped(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).flat_map(char::escape_default).collect()
}

/// The version (tag) of an image: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl Version {
    /// Checks `text` and keeps it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let good = text.len() <= VERSION_BYTES_MAX
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Version(escaped(text))) }
    }

    /// The version that registries take when none is said.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}
text_type!(ImageName);
text_type!(Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "demo",
            "example.com/app",
            "docker.io/library/redis",
            "localhost:5000/a/b",
            "localhost/a",
            "x/a.b_c__d---e/f",
            "my.app",
            "127.0.0.1:5000/x",
            "a--b.example.com/x",
        ] {
            assert_eq!(ImageName::parse(good).map(String::from).as_deref(), Ok(good));
        }
        let long = "a".repeat(256);
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "a..b",
            "a/../b",
            ".",
            "..",
            "a/.",
            "-a",
            "a-",
            "a___b",
            "a:1",
            "a b",
            "a\n",
            "é",
            "example.com:0/a",
            "example.com:65536/a",
            "example.com:/a",
            "example.com:08/a",
            "a/b:80/c",
            "-x.com/a",
            "x..com/a",
            "@a",
            "a@b",
            &long,
        ] {
            assert!(ImageName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_end_at_components() {
        let name = |text| ImageName::parse(text).expect("a good name");
        assert!(name("example.com/etcd").is_under(&name("example.com/etcd")));
        assert!(name("example.com/etcd/a").is_under(&name("example.com/etcd")));
        assert!(!name("example.com/etcd").is_under(&name("example.com/et")));
        assert!(!name("example.com").is_under(&name("example.com/etcd")));
    }

    #[test]
    fn parts() {
        let name = ImageName::parse("localhost:5000/team/app").expect("a good name");
        assert_eq!((name.host(), name.base()), (Some("localhost:5000"), "app"));
        let name = ImageName::parse("library/redis").expect("a good name");
        assert_eq!((name.host(), name.base()), (None, "redis"));
    }

    #[test]
    fn versions() {
        for good in ["1", "latest", "7.2-alpine", "_x", "V1"] {
            assert!(Version::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "-1", "a/b", "a:b", "a b", "é", "@", &"a".repeat(129)] {
            assert!(Version::parse(bad).is_err(), "{bad:?}");
        }
    }
}
