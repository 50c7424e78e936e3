//! Names that become file names, cgroup names and host names. A value of one of these types was checked when it was
//! made, so no later stage checks it again.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Why a name was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than a DNS label.
    #[error("`{0}` is longer than {NAME_BYTES_MAX} characters")]
    Long(String),
    /// A character outside the alphabet.
    #[error("`{0}` may hold only a-z, 0-9 and `-`, and must start and end with a letter or digit")]
    Alphabet(String),
    /// Not a UUID in its canonical form.
    #[error("`{0}` is not a UUID")]
    Uuid(String),
}

/// A name is one DNS label (RFC 1123), so that it is a host name and a file name at once.
pub const NAME_BYTES_MAX: usize = 63;

fn label(text: &str) -> Result<&str, NameError> {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::Long(text.escape_default().to_string()));
    }
    let inner = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !inner || !edge(text.bytes().next()) || !edge(text.bytes().last()) {
        return Err(NameError::Alphabet(text.escape_default().to_string()));
    }
    Ok(text)
}

/// The canonical lower-case form of RFC 9562: 8-4-4-4-12 hexadecimal digits.
fn uuid(text: &str) -> Result<&str, NameError> {
    let shape = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        });
    if shape { Ok(text) } else { Err(NameError::Uuid(text.escape_default().to_string())) }
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and keeps it.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text).map(|text| Self(text.to_owned()))
            }
            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&self.0)
            }
        }
    };
}

checked_name!(
    /// The name of an app, unique in its pod.
    AppName,
    label
);
checked_name!(
    /// The name a user gave to a pod, unique among the pods that run.
    PodName,
    label
);
checked_name!(
    /// The name of a volume, unique in its pod.
    VolumeName,
    label
);
checked_name!(
    /// The identity of a pod, and the name of its directory.
    PodUuid,
    uuid
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(AppName::parse(good).map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "a/b", "A", "-a", "a-", "a_b", "a\n", "é", &"x".repeat(64)] {
            assert!(AppName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn uuids() {
        assert!(PodUuid::parse("0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa").is_ok());
        for bad in [
            "",
            "0b2c44c6",
            "0B2C44C6-2b3d-4a51-9ab0-3bb1b9c2b7aa",
            "0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7a/",
            "../../../../../../../../../../../../aa",
        ] {
            assert!(PodUuid::parse(bad).is_err(), "{bad:?}");
        }
    }
}
