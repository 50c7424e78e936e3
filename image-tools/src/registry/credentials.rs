//! Who we are to a registry: our own `auth.d`, then the files and helpers that other container tools left.

use super::settings::{self, json_files, read_json};
use super::{RegistryError, Settings};
use crate::ownership::{self, Exposed};
use base64::Engine as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A login, and where it was found.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) kind: Kind,
    pub(super) source_file: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth2 refresh token, as `identitytoken` in auth files.
    Refresh(String),
}

/// One file of `auth.d`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OwnFile {
    registries: Vec<String>,
    user: String,
    password: String,
}

/// `config.json` of Docker and `auth.json` of the containers tools (containers-auth.json(5)).
#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The name under which Docker's own file keeps the hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The login for a repository, if there is one.
pub(super) fn find(
    registry: &str,
    repository: &str,
    settings: &Settings,
) -> Result<Option<Credentials>, RegistryError> {
    for directory in &settings.auth_directories {
        settings::check("logins", directory)?;
        for file in json_files(directory)? {
            ownership::check_private(&file).map_err(exposed)?;
            let own: OwnFile = read_json(&file)?;
            if own.registries.iter().any(|name| name == registry) {
                let kind = Kind::Password { user: own.user, password: own.password };
                return Ok(Some(Credentials { kind, source_file: file.display().to_string() }));
            }
        }
    }
    for file in auth_files() {
        // It may be of any user, as `sudo` can keep `HOME`. But what others than its owner can write is nobody's login: it also
        // names the program that is asked for one.
        ownership::check_mode(&file).map_err(exposed)?;
        if file.exists()
            && let Some(found) = in_auth_file(&file, registry, repository)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn exposed(source: Exposed) -> RegistryError {
    RegistryError::Exposed { what: "logins", source }
}

/// Where container tools keep logins, the strongest first.
fn auth_files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    [
        variable("REGISTRY_AUTH_FILE"),
        variable("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        variable("XDG_CONFIG_HOME")
            .map(|directory| directory.join("containers/auth.json"))
            .or_else(|| below_home(".config/containers/auth.json")),
        variable("DOCKER_CONFIG")
            .map(|directory| directory.join("config.json"))
            .or_else(|| below_home(".docker/config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn in_auth_file(file: &Path, registry: &str, repository: &str) -> Result<Option<Credentials>, RegistryError> {
    let auth: AuthFile = read_json(file)?;
    let source_file = file.display().to_string();
    let helper = auth.helpers.get(registry).or_else(|| auth.store.as_ref().filter(|_| auth.auths_name(registry)));
    if let Some(helper) = helper {
        return ask_helper(helper, registry);
    }
    let Some(entry) = auth.entry(registry, repository) else { return Ok(None) };
    if let Some(token) = entry.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Credentials { kind: Kind::Refresh(token.clone()), source_file }));
    }
    let Some(encoded) = &entry.auth else { return Ok(None) };
    let bad = || RegistryError::Settings {
        file: file.display().to_string(),
        reason: format!("`auth` of `{registry}` is not base64 of `USER:PASSWORD`"),
    };
    let plain = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|_| bad())?;
    let plain = String::from_utf8(plain).map_err(|_| bad())?;
    // Docker pads with NUL bytes on some platforms.
    let (user, password) = plain.trim_end_matches('\0').split_once(':').ok_or_else(bad)?;
    let kind = Kind::Password { user: user.into(), password: password.into() };
    Ok(Some(Credentials { kind, source_file }))
}

impl AuthFile {
    fn auths_name(&self, registry: &str) -> bool {
        self.auths.contains_key(registry) || (registry == "docker.io" && self.auths.contains_key(HUB_KEY))
    }

    /// The most specific of `HOST/a/b`, `HOST/a`, `HOST`.
    fn entry(&self, registry: &str, repository: &str) -> Option<&AuthEntry> {
        let full = format!("{registry}/{repository}");
        let mut key = full.as_str();
        loop {
            if let Some(entry) = self.auths.get(key) {
                return Some(entry);
            }
            match key.rfind('/') {
                Some(slash) => key = &key[..slash],
                None => break,
            }
        }
        let url = self.auths.get(&format!("https://{registry}"));
        url.or_else(|| self.auths.get(HUB_KEY).filter(|_| registry == "docker.io"))
    }
}

/// The protocol of docker-credential-helpers: `get`, the server on stdin, JSON on stdout.
fn ask_helper(helper: &str, registry: &str) -> Result<Option<Credentials>, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let settings = |reason: &str| RegistryError::Settings { file: program.clone(), reason: reason.into() };
    if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(settings("is not the name of a credential helper"));
    }
    let server = if registry == "docker.io" { HUB_KEY } else { registry };
    let local = |source| RegistryError::Local { what: format!("run `{program}`"), source };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(local)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says so by its exit status.
        let _ = writeln!(stdin, "{server}");
    }
    let output = child.wait_with_output().map_err(local)?;
    if !output.status.success() {
        // Helpers say "credentials not found" this way; the registry may still answer without a login.
        return Ok(None);
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|_| settings("does not answer in JSON"))?;
    let kind = match answer.user.as_str() {
        "<token>" => Kind::Refresh(answer.secret),
        _ => Kind::Password { user: answer.user, password: answer.secret },
    };
    Ok(Some(Credentials { kind, source_file: program.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_entry_counts() {
        let file: AuthFile = serde_json::from_str(
            r#"{"auths":{"h":{"auth":"YTpi"},"h/team":{"auth":"Yzpk"},"https://index.docker.io/v1/":{"auth":"ZTpm"}}}"#,
        )
        .expect("JSON");
        let auth = |registry, repository| file.entry(registry, repository).and_then(|entry| entry.auth.as_deref());
        assert_eq!(auth("h", "x"), Some("YTpi"));
        assert_eq!(auth("h", "team/x"), Some("Yzpk"));
        assert_eq!(auth("h", "teams/x"), Some("YTpi"));
        assert_eq!(auth("docker.io", "library/redis"), Some("ZTpm"));
        assert_eq!(auth("i", "x"), None);
    }

    #[test]
    fn logins_that_others_can_read_or_change_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skip: giving files away needs root");
        }
        let root = tempfile::tempdir().expect("tempdir");
        let directory = root.path().join("auth.d");
        std::fs::create_dir(&directory).expect("mkdir");
        let file = directory.join("a.json");
        std::fs::write(&file, r#"{"registries":["h"],"user":"u","password":"p"}"#).expect("write");
        let settings = Settings { auth_directories: vec![directory.clone()], ..Settings::default() };
        let set = |path: &Path, uid, gid, mode| {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("root may");
        };
        set(root.path(), 0, 0, 0o755);
        // Owner, group and mode of the directory and of the file, and what is said.
        let cases = [
            ((0, 0, 0o755), (0, 0, 0o600), None),
            ((0, 0, 0o755), (0, 0, 0o640), None),
            ((0, 0, 0o700), (0, 0, 0o644), None),
            ((0, 0, 0o755), (0, 0, 0o644), Some("others may read")),
            ((0, 0, 0o755), (0, 1000, 0o640), Some("others may read")),
            ((0, 0, 0o755), (0, 1000, 0o620), Some("group 1000 may write")),
            ((0, 0, 0o755), (1000, 0, 0o600), Some("belongs to user 1000")),
            ((0, 0, 0o757), (0, 0, 0o600), Some("everybody may write")),
            ((1000, 0, 0o755), (0, 0, 0o600), Some("belongs to user 1000")),
        ];
        for ((uid, gid, mode), (file_uid, file_gid, file_mode), says) in cases {
            set(&directory, uid, gid, mode);
            set(&file, file_uid, file_gid, file_mode);
            let found = find("h", "x", &settings);
            match (says, &found) {
                (None, Ok(Some(_))) => {}
                (Some(says), Err(error @ RegistryError::Exposed { source, .. })) => {
                    assert!(source.to_string().contains(says) && error.hint().is_some(), "{source}: {says}");
                }
                _ => panic!("{mode:o} {file_mode:o}: {says:?}, {:?}", found.map(|found| found.is_some())),
            }
        }
    }

    #[test]
    fn an_auth_file_is_read() {
        let directory = tempfile::tempdir().expect("tempdir");
        let file = directory.path().join("auth.json");
        std::fs::write(&file, r#"{"auths":{"h":{"auth":"dTpwOnE="},"bad":{"auth":"%"}}}"#).expect("write");
        let found = in_auth_file(&file, "h", "x").expect("reads").expect("is there");
        assert!(found.kind == Kind::Password { user: "u".into(), password: "p:q".into() });
        assert!(in_auth_file(&file, "bad", "x").is_err());
        assert!(in_auth_file(&file, "other", "x").expect("reads").is_none());
    }
}
