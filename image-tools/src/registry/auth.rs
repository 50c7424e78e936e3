//! From a challenge to an `Authorization` header.
//!
//! Credentials go to the registry they were kept for, and to a token service only if that is of the registry's own
//! domain or named in its settings (CVE-2024-3727 is the class): a registry could otherwise collect passwords for any
//! host by naming it as its realm.

use super::challenge::Challenge;
use super::credentials::{self, Credentials, Kind};
use super::endpoint::Endpoint;
use super::http::{Http, Request, body_bytes};
use super::{RegistryError, Settings};
use base64::Engine as _;
use serde::Deserialize;

/// A token is at most this long, and so is the answer that holds it.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// The header value that answers `challenge`.
pub(super) fn answer(
    http: &Http,
    endpoint: &Endpoint,
    challenge: &Challenge,
    settings: &Settings,
) -> Result<String, RegistryError> {
    let found = credentials::find(&endpoint.registry, &endpoint.repository, settings)?;
    match challenge {
        Challenge::Basic => match found.as_ref().map(|found| &found.kind) {
            Some(Kind::Password { user, password }) => Ok(basic(user, password)),
            _ => Err(RegistryError::NoCredentials {
                host: endpoint.registry.clone(),
                repository: endpoint.repository.clone(),
            }),
        },
        Challenge::Bearer { realm, service, scope } => {
            check_realm(endpoint, realm)?;
            let asked = Token { realm, service: service.as_deref(), scope: scope.as_deref() };
            fetch_token(http, endpoint, &asked, found.as_ref()).map(|token| format!("Bearer {token}"))
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

struct Token<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: Option<&'a str>,
}

fn fetch_token(
    http: &Http,
    endpoint: &Endpoint,
    asked: &Token<'_>,
    found: Option<&Credentials>,
) -> Result<String, RegistryError> {
    let mut query = Vec::new();
    query.extend(asked.service.map(|service| ("service", service)));
    query.extend(asked.scope.map(|scope| ("scope", scope)));
    let mut request = Request { accept: &["application/json"], ..Request::default() };
    let form: String;
    match found.map(|found| &found.kind) {
        Some(Kind::Password { user, password }) => request.authorization = Some(basic(user, password)),
        Some(Kind::Refresh(token)) => {
            query.extend([("grant_type", "refresh_token"), ("client_id", "pod"), ("refresh_token", token)]);
            form = encode(&query);
            query.clear();
            request.method = "POST";
            request.body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        }
        None => {}
    }
    let separator = if asked.realm.contains('?') { '&' } else { '?' };
    let url =
        if query.is_empty() { asked.realm.to_owned() } else { format!("{}{separator}{}", asked.realm, encode(&query)) };
    let mut response = http.send(endpoint, &url, &request)?;
    let status = response.status().as_u16();
    if matches!(status, 400 | 401 | 403) {
        return Err(refused(endpoint, found));
    }
    if status != 200 {
        return Err(RegistryError::Status { host: endpoint.host.clone(), status, what: "the token request".into() });
    }
    let bytes = body_bytes(&endpoint.host, &mut response, TOKEN_BYTES_MAX)?;
    let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
    let token = answer.and_then(|answer| answer.token.or(answer.access_token));
    // A token with a line break would be a second header.
    token.filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).ok_or_else(|| {
        RegistryError::Malformed { host: endpoint.host.clone(), what: "a token request without a token".into() }
    })
}

/// Which of the two it is depends on whether we had anything to show.
pub(super) fn refused(endpoint: &Endpoint, found: Option<&Credentials>) -> RegistryError {
    let (host, repository) = (endpoint.registry.clone(), endpoint.repository.clone());
    match found {
        Some(found) => RegistryError::Refused { host, repository, source_file: found.source_file.clone() },
        None => RegistryError::NoCredentials { host, repository },
    }
}

fn check_realm(endpoint: &Endpoint, realm: &str) -> Result<(), RegistryError> {
    let malformed = |what: String| RegistryError::Malformed { host: endpoint.host.clone(), what };
    let uri: ureq::http::Uri = realm.parse().map_err(|_| malformed("with a token service that is no URL".into()))?;
    let host = uri.host().unwrap_or_default();
    let plain_allowed = endpoint.scheme == "http";
    if uri.scheme_str() != Some("https") && !plain_allowed {
        return Err(malformed(format!("with a token service that is not https: `{}`", realm.escape_default())));
    }
    let own = endpoint.host.split(':').next().unwrap_or_default();
    if same_site(own, host) || endpoint.token_hosts.iter().any(|allowed| allowed == host) {
        return Ok(());
    }
    Err(malformed(format!(
        "that the login must go to `{}`, which is not of its domain (allow it by `token-hosts` in registries.d)",
        host.escape_default()
    )))
}

/// The same host, or the same last two labels; an address is only the same as itself.
fn same_site(one: &str, other: &str) -> bool {
    let is_address = |host: &str| host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[');
    if one == other {
        return true;
    }
    if is_address(one) || is_address(other) {
        return false;
    }
    let site = |host: &str| {
        let labels: Vec<&str> = host.rsplit('.').take(2).collect();
        (labels.len() == 2).then(|| format!("{}.{}", labels[1], labels[0]))
    };
    site(one).is_some_and(|site_of_one| Some(site_of_one) == site(other))
}

/// `application/x-www-form-urlencoded`
fn encode(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    pairs.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites() {
        for (one, other, same) in [
            ("registry.example.com", "auth.example.com", true),
            ("example.com", "auth.example.com", true),
            ("example.com", "example.org", false),
            ("a.com", "b.com", false),
            ("localhost", "localhost", true),
            ("localhost", "evil.com", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "11.0.0.1", false),
        ] {
            assert_eq!(same_site(one, other), same, "{one} {other}");
        }
    }

    #[test]
    fn credentials_stay_in_the_domain() {
        let endpoint = Endpoint {
            registry: "registry.example.com".into(),
            host: "registry.example.com".into(),
            repository: "a".into(),
            scheme: "https",
            token_hosts: vec!["tokens.example.org".into()],
        };
        for (realm, good) in [
            ("https://auth.example.com/token", true),
            ("https://tokens.example.org/token", true),
            ("https://evil.example.org/token", false),
            ("http://auth.example.com/token", false),
            ("token", false),
        ] {
            assert_eq!(check_realm(&endpoint, realm).is_ok(), good, "{realm}");
        }
    }

    #[test]
    fn forms() {
        assert_eq!(encode(&[("scope", "repository:a/b:pull"), ("x", "é")]), "scope=repository%3Aa%2Fb%3Apull&x=%C3%A9");
    }
}
