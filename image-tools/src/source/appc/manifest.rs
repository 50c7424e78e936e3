//! The manifest of an appc image, and what it means for a native one.

use crate::config::{App, BYTES_MAX, CapabilitySet, ConfigError, Isolators, MountPoint, Port, Protocol, SeccompSet};
use crate::name::{ImageName, Version};
use crate::reference::NameReference;
use crate::source::{Dependency, Description};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    ac_kind: String,
    name: String,
    #[serde(default)]
    labels: Vec<Pair>,
    #[serde(default)]
    app: Option<AppcApp>,
    #[serde(default)]
    annotations: Vec<Pair>,
    #[serde(default)]
    dependencies: Vec<AppcDependency>,
    #[serde(default)]
    path_whitelist: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppcDependency {
    image_name: String,
    #[serde(default, rename = "imageID")]
    image_id: Option<String>,
    #[serde(default)]
    labels: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppcApp {
    #[serde(default)]
    exec: Vec<String>,
    user: String,
    group: String,
    #[serde(default, rename = "supplementaryGIDs")]
    supplementary_gids: Vec<u32>,
    #[serde(default)]
    working_directory: String,
    #[serde(default)]
    environment: Vec<Pair>,
    #[serde(default)]
    mount_points: Vec<AppcMountPoint>,
    #[serde(default)]
    ports: Vec<AppcPort>,
    #[serde(default)]
    isolators: Vec<Isolator>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppcMountPoint {
    name: String,
    path: String,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize)]
struct AppcPort {
    name: String,
    protocol: String,
    port: u16,
    #[serde(default)]
    count: Option<u16>,
}

#[derive(Deserialize)]
struct Isolator {
    name: String,
    value: Value,
}

/// Most images that one may be put on top of.
const DEPENDENCIES_MAX: usize = 64;

fn value(text: impl Into<String>) -> ConfigError {
    ConfigError::Value(text.into())
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > BYTES_MAX {
            return Err(ConfigError::Long);
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.ac_kind != "ImageManifest" {
            return Err(value("another kind than `ImageManifest`"));
        }
        if manifest.dependencies.len() > DEPENDENCIES_MAX {
            return Err(value(format!("more than {DEPENDENCIES_MAX} dependencies")));
        }
        Ok(manifest)
    }

    /// An empty list allows everything.
    pub(super) fn allows(&self, path: &[u8]) -> bool {
        !self.is_selective()
            || std::str::from_utf8(path).is_ok_and(|path| self.path_whitelist.contains(&format!("/{path}")))
    }

    /// Whether it says which files the rendered root has.
    pub(super) fn is_selective(&self) -> bool {
        !self.path_whitelist.is_empty()
    }

    /// The images below this one, in the order of the manifest.
    pub(super) fn dependencies(&self) -> Result<Vec<Dependency>, ConfigError> {
        self.dependencies.iter().map(AppcDependency::checked).collect()
    }

    pub(super) fn describe(self) -> Result<(NameReference, Description), ConfigError> {
        let mut labels: BTreeMap<String, String> =
            self.labels.into_iter().map(|pair| (pair.name, pair.value)).collect();
        let bad = |error: crate::name::NameError| value(format!("a bad name: {error}"));
        let name = ImageName::parse(&self.name).map_err(bad)?;
        let version = labels.remove("version").map(|version| Version::parse(&version)).transpose().map_err(bad)?;
        let os = labels.remove("os").ok_or_else(|| value("no `os` label"))?;
        let architecture = architecture_of(&labels.remove("arch").ok_or_else(|| value("no `arch` label"))?);
        let mut annotations: BTreeMap<_, _> =
            self.annotations.into_iter().map(|pair| (pair.name, pair.value)).collect();
        let created = annotations.remove("created").filter(|created| created.parse::<jiff::Timestamp>().is_ok());
        let app = self.app.map(app).transpose()?;
        let description = Description { os, architecture, created, labels, annotations, app };
        Ok((NameReference { name, version, digest: None }, description))
    }
}

impl AppcDependency {
    fn checked(&self) -> Result<Dependency, ConfigError> {
        let bad = |error: crate::name::NameError| value(format!("a dependency with a bad name: {error}"));
        let mut labels: BTreeMap<String, String> = BTreeMap::new();
        for Pair { name, value } in &self.labels {
            labels.insert(name.clone(), value.clone());
        }
        let version = labels.remove("version").map(|version| Version::parse(&version)).transpose().map_err(bad)?;
        if let Some(architecture) = labels.get_mut("arch") {
            *architecture = architecture_of(architecture);
        }
        let name = NameReference { name: ImageName::parse(&self.image_name).map_err(bad)?, version, digest: None };
        Ok(Dependency { name, labels, image_id: self.image_id.clone().filter(|id| !id.is_empty()) })
    }
}

/// In the words of the OCI specification.
fn architecture_of(appc: &str) -> String {
    match appc {
        "aarch64" => "arm64".to_owned(),
        "i386" => "386".to_owned(),
        other => other.to_owned(),
    }
}

fn app(appc: AppcApp) -> Result<App, ConfigError> {
    let port = |port: AppcPort| {
        let protocol = match port.protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(value(format!("the protocol `{}`", other.escape_default()))),
        };
        Ok(Port { name: port.name, port: port.port, count: port.count.unwrap_or(1), protocol })
    };
    let mount_point = |AppcMountPoint { name, path, read_only }| MountPoint { name, path, read_only, populate: false };
    let mut environment: Vec<(String, String)> = Vec::new();
    for Pair { name, value } in appc.environment {
        environment.retain(|(known, _)| *known != name);
        environment.push((name, value));
    }
    Ok(App {
        exec: appc.exec,
        // rkt appends a user's arguments.
        default_arguments_at: None,
        user: appc.user,
        group: Some(appc.group),
        supplementary_gids: appc.supplementary_gids,
        working_directory: if appc.working_directory.is_empty() { "/".to_owned() } else { appc.working_directory },
        environment,
        ports: appc.ports.into_iter().map(port).collect::<Result<_, _>>()?,
        mount_points: appc.mount_points.into_iter().map(mount_point).collect(),
        isolators: isolators(&appc.isolators)?,
        stop_signal: None,
    })
}

fn isolators(list: &[Isolator]) -> Result<Isolators, ConfigError> {
    let mut all = Isolators::default();
    for Isolator { name, value: said } in list {
        let bad = || value(format!("a malformed isolator `{}`", name.escape_default()));
        let set = || -> Option<Vec<String>> { serde_json::from_value(said.get("set")?.clone()).ok() };
        let errno = || said.get("errno").and_then(Value::as_str).filter(|errno| !errno.is_empty()).map(str::to_owned);
        let limit = || {
            said.get("limit").and_then(Value::as_str).map(milli_units).map(|units| units.ok_or_else(bad)).transpose()
        };
        match name.as_str() {
            "os/linux/capabilities-retain-set"
            | "os/linux/capabilities-remove-set"
            | "os/linux/capabilities-revoke-set" => {
                let set = set().ok_or_else(bad)?;
                let set = if name.contains("retain") { CapabilitySet::Retain(set) } else { CapabilitySet::Remove(set) };
                if all.capabilities.replace(set).is_some() {
                    return Err(value("two isolators for capabilities"));
                }
            }
            "os/linux/seccomp-retain-set" | "os/linux/seccomp-remove-set" => {
                let (syscalls, errno) = (set().ok_or_else(bad)?, errno());
                let set = match name.contains("retain") {
                    true => SeccompSet::Retain { syscalls, errno },
                    false => SeccompSet::Remove { syscalls, errno },
                };
                if all.seccomp.replace(set).is_some() {
                    return Err(value("two isolators for system calls"));
                }
            }
            "os/linux/no-new-privileges" => {
                let wanted = said.as_bool().ok_or_else(bad)?;
                all.no_new_privileges = Some(wanted || all.no_new_privileges == Some(true));
            }
            "resource/memory" => all.memory_bytes = limit()?.map(|units| units / 1000),
            "resource/cpu" => all.cpu_millis = limit()?,
            "os/linux/cpu-shares" => all.cpu_shares = Some(said.as_u64().ok_or_else(bad)?),
            "os/linux/oom-score-adj" => {
                all.oom_score_adjust = Some(said.as_i64().and_then(|score| score.try_into().ok()).ok_or_else(bad)?);
            }
            "os/unix/sysctl" => all.sysctls = serde_json::from_value(said.clone()).map_err(|_| bad())?,
            // Shares of devices and of bandwidth were never enforced by rkt either; all others restrict.
            other if other.starts_with("resource/") => {}
            _ => return Err(value(format!("the unknown isolator `{}`", name.escape_default()))),
        }
    }
    Ok(all)
}

/// A quantity as `500m`, `64Mi` or `1G`, in thousandths.
fn milli_units(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "m" => 1,
        "" => 1000,
        "k" | "K" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{
        "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app",
        "labels": [{"name":"version","value":"1.2"},{"name":"os","value":"linux"},{"name":"arch","value":"amd64"}],
        "app": {"exec": ["/bin/app", "-x"], "user": "0", "group": "5", "workingDirectory": "",
            "environment": [{"name":"A","value":"b"}],
            "mountPoints": [{"name":"data","path":"/data","readOnly":true}],
            "ports": [{"name":"http","protocol":"tcp","port":80,"socketActivated":false}],
            "isolators": [
                {"name":"os/linux/capabilities-retain-set","value":{"set":["CAP_CHOWN"]}},
                {"name":"os/linux/seccomp-remove-set","value":{"set":["@docker/default-blacklist"],"errno":"EPERM"}},
                {"name":"resource/memory","value":{"limit":"64Mi"}}, {"name":"resource/cpu","value":{"limit":"500m"}}]}
    }"#;

    #[test]
    fn appc_words_become_ours() {
        let (name, description) = Manifest::parse(MANIFEST.as_bytes()).expect("good").describe().expect("good");
        assert_eq!(name.to_string(), "example.com/app:1.2");
        let app = description.app.expect("an app");
        assert_eq!((app.exec.len(), app.group.as_deref(), app.working_directory.as_str()), (2, Some("5"), "/"));
        assert_eq!(app.isolators.capabilities, Some(CapabilitySet::Retain(vec!["CAP_CHOWN".into()])));
        assert_eq!((app.isolators.memory_bytes, app.isolators.cpu_millis), (Some(64 << 20), Some(500)));
        assert!(app.mount_points[0].read_only && app.ports[0].port == 80);
    }

    #[test]
    fn refused() {
        for (from, to) in [
            ("ImageManifest", "PodManifest"),
            ("example.com/app", "Example/../app"),
            ("\"64Mi\"", "\"-1\""),
            ("os/linux/seccomp-remove-set", "os/linux/selinux-context"),
            ("os/linux/seccomp-remove-set", "os/linux/capabilities-remove-set"),
            ("\"acVersion\"", "\"dependencies\":[{}],\"acVersion\""),
            ("\"acVersion\"", "\"dependencies\":[{\"imageName\":\"../x\"}],\"acVersion\""),
            ("\"os\"", "\"so\""),
        ] {
            let text = MANIFEST.replace(from, to);
            let described = Manifest::parse(text.as_bytes()).and_then(|manifest| {
                manifest.dependencies()?;
                manifest.describe()
            });
            assert!(described.is_err(), "{to}");
        }
    }
}
