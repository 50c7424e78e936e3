//! Reading the contract's JSON files: bounded, from an fd or bytes, with the version checked before the content.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// `pod.json`, `host.json` and `stage1.json` are at most this long.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a file of the contract could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be read at all.
    #[error("read")]
    Io(#[from] std::io::Error),
    /// The file is larger than [`FILE_BYTES_MAX`].
    #[error("longer than {FILE_BYTES_MAX} bytes")]
    Long,
    /// Not the expected JSON.
    #[error("parse")]
    Json(#[from] serde_json::Error),
    /// Written by a version of the contract that this program does not know.
    #[error("`version` is {0}, this program knows only {known}", known = crate::VERSION)]
    Version(u32),
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Parses `bytes`, refusing another version before anything else is looked at.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ReadError> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::Long);
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        // Most files are of our version, so the version is asked for only when the content does not fit.
        Err(error) => match serde_json::from_slice::<Versioned>(bytes) {
            Ok(Versioned { version }) if version != crate::VERSION => Err(ReadError::Version(version)),
            _ => Err(error.into()),
        },
    }
}

/// Reads at most [`FILE_BYTES_MAX`] bytes and parses them.
pub fn read<T: DeserializeOwned>(file: impl std::io::Read) -> Result<T, ReadError> {
    let mut bytes = Vec::with_capacity(16 << 10);
    std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX + 1), &mut bytes)?;
    parse(&bytes)
}

/// A version field that serialises as [`crate::VERSION`] and refuses every other number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version;

#[cfg(test)]
impl schemars::JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "description": "The version of the contract.", "const": crate::VERSION })
    }
}

impl serde::Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(crate::VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            version if version == crate::VERSION => Ok(Self),
            version => Err(serde::de::Error::custom(format_args!("version {version} is not {}", crate::VERSION))),
        }
    }
}

/// For the variants without fields of enums with a tag, for which serde's `deny_unknown_fields` does not hold: there, too, a
/// field that this version does not know is an error.
pub(crate) fn no_fields<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct NoFields {}
    NoFields::deserialize(deserializer).map(|NoFields {}| ())
}

#[cfg(test)]
mod tests {
    use crate::pod::{Network, Seccomp};

    #[test]
    fn variants_without_fields_take_none() {
        assert_eq!(serde_json::from_str::<Network>(r#"{"mode":"none"}"#).unwrap(), Network::None);
        assert_eq!(serde_json::from_str::<Seccomp>(r#"{"mode":"default-1"}"#).unwrap(), Seccomp::Default1);
        for text in [r#"{"mode":"none","x":1}"#, r#"{"x":1,"mode":"host"}"#] {
            assert!(serde_json::from_str::<Network>(text).unwrap_err().to_string().contains("`x`"), "{text}");
        }
        assert!(serde_json::from_str::<Seccomp>(r#"{"mode":"unconfined","syscalls":[]}"#).is_err());
    }
}
