//! The image configuration of Docker and OCI, and what it means for a native image.

use super::Description;
use crate::config::{App, BYTES_MAX, ConfigError, Isolators, MountPoint, Port, Protocol, is_label};
use crate::digest::Digest;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A document of strangers: fields we have no use for (history, health checks, build instructions) are skipped.
#[derive(Deserialize)]
struct Image {
    os: String,
    architecture: String,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// Parses a configuration into a description and the digests of the plain layers.
pub fn parse(bytes: &[u8]) -> Result<(Description, Vec<Digest>), ConfigError> {
    if bytes.len() > BYTES_MAX {
        return Err(ConfigError::Long);
    }
    let image: Image = serde_json::from_slice(bytes)?;
    if image.rootfs.kind != "layers" {
        return Err(ConfigError::Value("a root that is not made of layers".into()));
    }
    let mut execution = image.config.unwrap_or_default();
    let labels = execution.labels.take().unwrap_or_default();
    let created = image.created.filter(|created| created.parse::<jiff::Timestamp>().is_ok());
    let app = app(execution)?;
    let description = Description {
        os: image.os,
        architecture: image.architecture,
        created,
        labels,
        annotations: BTreeMap::new(),
        app: Some(app),
    };
    Ok((description, image.rootfs.diff_ids.unwrap_or_default()))
}

fn app(execution: Execution) -> Result<App, ConfigError> {
    let mut exec = execution.entrypoint.unwrap_or_default();
    // Arguments of a user replace `Cmd` and leave `Entrypoint`.
    let default_arguments_at = Some(exec.len());
    exec.extend(execution.cmd.unwrap_or_default());
    let user = execution.user.unwrap_or_default();
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user.to_owned(), Some(group.to_owned()).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0".to_owned() } else { user };
    let working_directory = match execution.working_dir.unwrap_or_default() {
        path if path.starts_with('/') => path,
        path => format!("/{path}"),
    };
    Ok(App {
        exec,
        default_arguments_at,
        user,
        group,
        supplementary_gids: Vec::new(),
        working_directory,
        environment: environment(&execution.env.unwrap_or_default()),
        ports: ports(&execution.exposed_ports.unwrap_or_default())?,
        mount_points: mount_points(execution.volumes.unwrap_or_default().into_keys()),
        isolators: Isolators::default(),
        stop_signal: execution.stop_signal.filter(|signal| !signal.is_empty()),
    })
}

/// The last value of a name wins and keeps the place of the first, as in Docker.
fn environment(entries: &[String]) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = Vec::new();
    for entry in entries {
        let Some((name, value)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else { continue };
        match environment.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => environment.push((name.to_owned(), value.to_owned())),
        }
    }
    environment
}

/// `80/tcp`, `80`, `8000-8010/udp`.
fn ports(exposed: &BTreeMap<String, serde::de::IgnoredAny>) -> Result<Vec<Port>, ConfigError> {
    let port = |text: &String| {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (name, protocol) = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => ("tcp", Protocol::Tcp),
            "udp" => ("udp", Protocol::Udp),
            "sctp" => ("sctp", Protocol::Sctp),
            _ => return None,
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        let count = last.checked_sub(first)?.checked_add(1)?;
        (first != 0).then(|| Port { name: format!("{range}-{name}"), port: first, count, protocol })
    };
    let parsed = exposed.keys().map(|text| {
        port(text).ok_or_else(|| ConfigError::Value(format!("the exposed port `{}`", text.escape_default())))
    });
    let mut ports = parsed.collect::<Result<Vec<_>, _>>()?;
    // `80` and `80/tcp` are the same.
    let mut seen = BTreeSet::new();
    ports.retain(|port| seen.insert(port.name.clone()));
    Ok(ports)
}

fn mount_points(volumes: impl Iterator<Item = String>) -> Vec<MountPoint> {
    let mut points: Vec<MountPoint> = Vec::new();
    for path in volumes {
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let path = if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path };
        // The root itself is no volume, in Docker neither.
        if path.is_empty() || path == "/" || points.iter().any(|point| point.path == path) {
            continue;
        }
        let mut name = volume_name(&path);
        if points.iter().any(|point| point.name == name) {
            name = format!("volume-{}", &Digest::of(path.as_bytes()).hex()[..12]);
        }
        points.push(MountPoint { name, path, read_only: false, populate: true });
    }
    points
}

/// `/var/lib/redis` → `volume-var-lib-redis`, as rkt did.
fn volume_name(path: &str) -> String {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() as char } else { '-' };
    let name: String = path.bytes().map(plain).collect();
    let name = format!("volume-{}", name.trim_matches('-'));
    if is_label(&name) { name } else { format!("volume-{}", &Digest::of(path.as_bytes()).hex()[..12]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{
        "os": "linux", "architecture": "amd64", "created": "2024-01-02T03:04:05.123Z", "history": [{"x": 1}],
        "config": {
            "User": "redis:1000", "ExposedPorts": {"6379/tcp": {}, "53/udp": {}, "8000-8010": {}},
            "Env": ["PATH=/bin", "A=1", "A=2=3", "novalue"], "Entrypoint": ["/entry"], "Cmd": ["a", "b"],
            "Volumes": {"/data": {}, "/var/lib/x/": {}}, "WorkingDir": "/data", "Labels": {"a": "b"},
            "StopSignal": "SIGINT", "Healthcheck": {"Test": ["CMD"]}, "OnBuild": null
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
    }"#;

    #[test]
    fn docker_words_become_ours() {
        let (description, diff_ids) = parse(CONFIG.as_bytes()).expect("a good configuration");
        assert_eq!(diff_ids, [Digest::of(b"")]);
        let app = description.app.expect("an app");
        assert_eq!(app.exec, ["/entry", "a", "b"]);
        assert_eq!(app.default_arguments_at, Some(1));
        assert_eq!((app.user.as_str(), app.group.as_deref()), ("redis", Some("1000")));
        assert_eq!(app.environment, [("PATH".into(), "/bin".into()), ("A".into(), "2=3".into())]);
        let ports: Vec<_> = app.ports.iter().map(|port| (port.name.as_str(), port.port, port.count)).collect();
        assert_eq!(ports, [("53-udp", 53, 1), ("6379-tcp", 6379, 1), ("8000-8010-tcp", 8000, 11)]);
        let points: Vec<_> = app.mount_points.iter().map(|point| (point.name.as_str(), point.path.as_str())).collect();
        assert_eq!(points, [("volume-data", "/data"), ("volume-var-lib-x", "/var/lib/x")]);
        assert_eq!(app.stop_signal.as_deref(), Some("SIGINT"));
    }

    #[test]
    fn nulls_and_nothing_at_all() {
        let text = r#"{"os":"linux","architecture":"amd64","config":{"Env":null,"Cmd":null,"Volumes":null,"User":""},
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let (description, diff_ids) = parse(text.as_bytes()).expect("a good configuration");
        let app = description.app.expect("an app");
        assert!(diff_ids.is_empty() && app.exec.is_empty());
        assert_eq!((app.user.as_str(), app.working_directory.as_str()), ("0", "/"));
    }

    #[test]
    fn refused() {
        for (from, to) in
            [("\"layers\"", "\"zip\""), ("6379/tcp", "99999/tcp"), ("6379/tcp", "1/icmp"), ("sha256:e3", "sha256:../")]
        {
            assert!(parse(CONFIG.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
