//! What an administrator says of registries: `registries.d/*.json`.

use super::RegistryError;
use crate::ownership;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// How to reach registries.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// One for each registry; the first for a registry counts.
    pub rules: Vec<RegistryRule>,
    /// Directories with `auth.d` files, the strongest first.
    pub auth_directories: Vec<PathBuf>,
    /// `--insecure-options=tls`: certificates are not checked.
    pub insecure_tls: bool,
    /// `--insecure-options=http`: a registry that does not speak TLS is asked in plain text.
    pub plain_http: bool,
}

/// One registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistryRule {
    /// `HOST[:PORT]`, as in image names.
    pub registry: String,
    /// Asked before the registry, in order.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
    /// PEM file with the CA of this registry, beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The registry does not speak TLS.
    #[serde(default)]
    pub plain_http: bool,
    /// Hosts outside the registry's own domain that may ask for its credentials and give out its tokens.
    #[serde(default)]
    pub token_hosts: Vec<String>,
}

/// Another place of the same images.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mirror {
    /// `HOST[:PORT][/PREFIX]`: repository `a/b` is `PREFIX/a/b` there.
    pub location: String,
    /// The mirror does not speak TLS.
    #[serde(default)]
    pub plain_http: bool,
}

/// Settings files are at most this long.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Settings {
    /// Reads `registries.d/*.json` of each configuration directory, the strongest first.
    pub fn load(directories: &[&Path]) -> Result<Self, RegistryError> {
        let mut settings = Self::default();
        for directory in directories {
            let directory_of_rules = directory.join("registries.d");
            check("registry settings", &directory_of_rules)?;
            for file in json_files(&directory_of_rules)? {
                check("registry settings", &file)?;
                settings.rules.push(read_json(&file)?);
            }
            settings.auth_directories.push(directory.join("auth.d"));
        }
        Ok(settings)
    }

    /// What is said of `registry`.
    pub(super) fn rule(&self, registry: &str) -> Option<&RegistryRule> {
        self.rules.iter().find(|rule| rule.registry == registry)
    }
}

/// Refuses what others can change: it decides whom we ask, and whom we believe.
pub(super) fn check(what: &'static str, path: &Path) -> Result<(), RegistryError> {
    ownership::check(path).map_err(|source| RegistryError::Exposed { what, source })
}

/// The `.json` files of a directory in the order of their names; none if it is not there.
pub(super) fn json_files(directory: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RegistryError::Local { what: format!("read `{}`", directory.display()), source }),
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

/// A bounded, strict JSON file.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, RegistryError> {
    let local = |source| RegistryError::Local { what: format!("read `{}`", file.display()), source };
    let mut bytes = Vec::new();
    let reader = std::fs::File::open(file).map_err(local)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(reader, FILE_BYTES_MAX), &mut bytes).map_err(local)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| RegistryError::Settings { file: file.display().to_string(), reason: error.to_string() })
}
