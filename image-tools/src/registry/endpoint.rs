//! Where a repository is: its registry and the mirrors before it.

use super::{RegistryError, Settings};
use crate::name::ImageName;

/// The registry of names without a host, and the name it has in image names.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// Where the hub's tokens come from: the one registry whose token host everybody's settings would have to name.
const HUB_TOKEN_HOST: &str = "auth.docker.io";

/// One place that answers for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The name in image names and credential files: `docker.io`.
    pub(super) registry: String,
    /// `HOST[:PORT]` to connect to.
    pub(super) host: String,
    /// Path of the repository there.
    pub(super) repository: String,
    /// `http`, where that is asked for; else `https`.
    pub(super) scheme: &'static str,
    /// Hosts of other domains that give out its tokens.
    pub(super) token_hosts: Vec<String>,
}

impl Endpoint {
    /// `https://HOST/v2/REPOSITORY/…`
    pub(super) fn url(&self, rest: &str) -> String {
        format!("{}://{}/v2/{}/{rest}", self.scheme, self.host, self.repository)
    }
}

/// The mirrors of a repository in order, and the registry itself last.
pub(super) fn of(name: &ImageName, settings: &Settings) -> Result<Vec<Endpoint>, RegistryError> {
    let (registry, repository) = split(name);
    let rule = settings.rule(&registry);
    let mut endpoints = Vec::new();
    for mirror in rule.map_or(&[][..], |rule| &rule.mirrors) {
        endpoints.push(of_mirror(mirror, &repository, settings.plain_http)?);
    }
    let host = if registry == HUB.0 { HUB.1.to_owned() } else { registry.clone() };
    let mut token_hosts = rule.map_or(Vec::new(), |rule| rule.token_hosts.clone());
    if registry == HUB.0 {
        token_hosts.push(HUB_TOKEN_HOST.into());
    }
    let scheme = scheme(rule.is_some_and(|rule| rule.plain_http) || settings.plain_http);
    endpoints.push(Endpoint { registry, host, repository, scheme, token_hosts });
    Ok(endpoints)
}

fn scheme(plain: bool) -> &'static str {
    if plain { "http" } else { "https" }
}

fn of_mirror(mirror: &super::Mirror, repository: &str, plain_http: bool) -> Result<Endpoint, RegistryError> {
    let joined = format!("{}/{repository}", mirror.location.trim_end_matches('/'));
    let name = ImageName::parse(&joined).map_err(|error| RegistryError::Settings {
        file: format!("mirror `{}`", mirror.location.escape_default()),
        reason: error.to_string(),
    })?;
    let (registry, repository) = split(&name);
    let scheme = scheme(mirror.plain_http || plain_http);
    Ok(Endpoint { host: registry.clone(), registry, repository, scheme, token_hosts: Vec::new() })
}

/// Docker's rules: no host means the hub, and one component there means `library/`.
fn split(name: &ImageName) -> (String, String) {
    let (registry, repository) = match name.host() {
        Some(host) => (host, &name.as_str()[host.len() + 1..]),
        None => (HUB.0, name.as_str()),
    };
    let official = registry == HUB.0 && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    (registry.to_owned(), repository)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Mirror, RegistryRule};

    fn urls(name: &str, settings: &Settings) -> Vec<String> {
        let name = ImageName::parse(name).expect(name);
        of(&name, settings).expect("endpoints").iter().map(|endpoint| endpoint.url("x")).collect()
    }

    #[test]
    fn names_become_places() {
        let settings = Settings::default();
        for (name, url) in [
            ("redis", "https://registry-1.docker.io/v2/library/redis/x"),
            ("docker.io/redis", "https://registry-1.docker.io/v2/library/redis/x"),
            ("team/app", "https://registry-1.docker.io/v2/team/app/x"),
            ("localhost:5000/app", "https://localhost:5000/v2/app/x"),
            ("example.com/a/b", "https://example.com/v2/a/b/x"),
        ] {
            assert_eq!(urls(name, &settings), [url]);
        }
    }

    #[test]
    fn mirrors_come_first() {
        let mirror = Mirror { location: "mirror.example.com:5000/hub".into(), plain_http: true };
        let rule = RegistryRule {
            registry: "docker.io".into(),
            mirrors: vec![mirror],
            ca: None,
            plain_http: false,
            token_hosts: Vec::new(),
        };
        let settings = Settings { rules: vec![rule], ..Settings::default() };
        let places = urls("redis", &settings);
        assert_eq!(places[0], "http://mirror.example.com:5000/v2/hub/library/redis/x");
        assert_eq!(places[1], "https://registry-1.docker.io/v2/library/redis/x");
    }
}
