//! Requests to a registry: retries, redirects, logins and limits, the same for every kind of request.

use super::endpoint::Endpoint;
use super::{RegistryError, Settings, tls};
use crate::provenance::Channel;
use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ureq::Agent;
use ureq::http::{self, Response, Uri, header};
use ureq::tls::Certificate;

/// The longest chain of redirects.
const REDIRECTS_MAX: u32 = 5;
/// A connection is made within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// An answer begins within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A body never stands still for longer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// One request, without where it goes.
#[derive(Clone)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) accept: &'a [&'a str],
    pub(super) range_from: Option<u64>,
    /// `If-None-Match` or `If-Range`, and its value.
    pub(super) condition: Option<(&'a str, &'a str)>,
    pub(super) authorization: Option<String>,
    /// Content type and bytes.
    pub(super) body: Option<(&'a str, &'a [u8])>,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self { method: "GET", accept: &[], range_from: None, condition: None, authorization: None, body: None }
    }
}

/// Connections and logins of this process.
pub(super) struct Http {
    agent: Agent,
    roots: Vec<Certificate<'static>>,
    /// Agents of registries with a CA of their own, which must not count for other hosts.
    own_agents: Mutex<HashMap<String, Agent>>,
    /// `Authorization` by registry and repository.
    pub(super) logins: Mutex<HashMap<(String, String), String>>,
    pub(super) settings: Arc<Settings>,
}

impl Http {
    pub(super) fn new(settings: &Arc<Settings>) -> Result<Self, RegistryError> {
        let roots = tls::system_roots();
        Ok(Self {
            agent: agent(roots.clone(), settings.insecure_tls),
            roots,
            own_agents: Mutex::default(),
            logins: Mutex::default(),
            settings: Arc::clone(settings),
        })
    }

    /// Sends and follows redirects. The login goes along only as long as host and scheme stay the same.
    pub(super) fn send(
        &self,
        endpoint: &Endpoint,
        url: &str,
        request: &Request<'_>,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let malformed = |what: &str| RegistryError::Malformed { host: endpoint.registry.clone(), what: what.into() };
        let mut uri: Uri = url.parse().map_err(|_| malformed("with an address that is no URL"))?;
        let first = origin(&uri);
        let agent = self.agent_for(endpoint)?;
        for _ in 0..=REDIRECTS_MAX {
            let login = request.authorization.as_deref().filter(|_| origin(&uri) == first);
            let response = run(&agent, &uri, request, login).map_err(|error| transport(&uri, error))?;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirected || request.is_write() {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| resolve(&uri, location));
            let next = next.ok_or_else(|| malformed("a redirect without a usable address"))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(malformed("a redirect from https to plain http"));
            }
            uri = next;
        }
        Err(malformed("with redirects without end"))
    }

    /// How well it is known that the endpoint is the one that is meant.
    pub(super) fn channel(&self, endpoint: &Endpoint) -> Channel {
        match (endpoint.scheme, self.settings.insecure_tls) {
            ("https", false) => Channel::Tls,
            ("https", true) => Channel::Unverified,
            _ => Channel::Http,
        }
    }

    fn agent_for(&self, endpoint: &Endpoint) -> Result<Agent, RegistryError> {
        let mut agents = self.own_agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&endpoint.registry) {
            return Ok(agent.clone());
        }
        let own = tls::own_roots(&endpoint.registry, &self.settings)?;
        let agent = if own.is_empty() {
            self.agent.clone()
        } else {
            agent(self.roots.iter().cloned().chain(own).collect(), self.settings.insecure_tls)
        };
        agents.insert(endpoint.registry.clone(), agent.clone());
        Ok(agent)
    }
}

impl Request<'_> {
    /// Pushing needs another scope than pulling.
    pub(super) fn is_write(&self) -> bool {
        !matches!(self.method, "GET" | "HEAD")
    }
}

fn agent(roots: Vec<Certificate<'static>>, insecure_tls: bool) -> Agent {
    Agent::config_builder()
        .tls_config(tls::config(roots, insecure_tls))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .timeout_per_write(Some(STALL_TIMEOUT))
        .user_agent(concat!("pod/", env!("CARGO_PKG_VERSION")))
        // A layer must arrive as it was stored, or its digest would be another one.
        .accept_encoding("identity")
        .build()
        .new_agent()
}

fn run(
    agent: &Agent,
    uri: &Uri,
    request: &Request<'_>,
    login: Option<&str>,
) -> Result<Response<ureq::Body>, ureq::Error> {
    let mut builder = http::Request::builder().method(request.method).uri(uri);
    if !request.accept.is_empty() {
        builder = builder.header(header::ACCEPT, request.accept.join(", "));
    }
    if let Some(login) = login {
        builder = builder.header(header::AUTHORIZATION, login);
    }
    if let Some(from) = request.range_from {
        builder = builder.header(header::RANGE, format!("bytes={from}-"));
    }
    if let Some((name, value)) = request.condition {
        builder = builder.header(name, value);
    }
    match request.body {
        Some((content_type, bytes)) => agent.run(builder.header(header::CONTENT_TYPE, content_type).body(bytes)?),
        None if request.is_write() => agent.run(builder.body(&[][..])?),
        None => agent.run(builder.body(())?),
    }
}

fn origin(uri: &Uri) -> (Option<String>, Option<String>, Option<u16>) {
    (uri.scheme_str().map(str::to_owned), uri.host().map(str::to_owned), uri.port_u16())
}

/// An address relative to another; only what registries send: absolute, or a path.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return location.parse().ok();
    }
    if location.starts_with("//") || !location.starts_with('/') {
        return None;
    }
    format!("{}://{}{location}", base.scheme_str()?, base.authority()?).parse().ok()
}

/// Reads a body that must be small.
pub(super) fn body_bytes(
    host: &str,
    response: &mut Response<ureq::Body>,
    bytes_max: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let reader = response.body_mut().with_config().limit(bytes_max + 1).reader();
    reader
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| RegistryError::Transport { host: host.into(), reason: error.to_string() })?;
    if bytes.len() as u64 > bytes_max {
        let what = format!("with more than {bytes_max} bytes where a document belongs");
        return Err(RegistryError::Malformed { host: host.into(), what });
    }
    Ok(bytes)
}

fn transport(uri: &Uri, error: ureq::Error) -> RegistryError {
    let host = uri.authority().map_or_else(String::new, ToString::to_string);
    match error {
        ureq::Error::Rustls(error) => RegistryError::Tls { host, reason: tls::reason(&error) },
        ureq::Error::Io(error) => {
            // rustls hides its error inside an io::Error while it shakes hands.
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match inner {
                Some(inner) => RegistryError::Tls { host, reason: tls::reason(inner) },
                None => RegistryError::Transport { host, reason: error.to_string() },
            }
        }
        ureq::Error::HostNotFound => RegistryError::Transport { host, reason: "the host name is not known".into() },
        ureq::Error::Timeout(_) => RegistryError::Transport { host, reason: "no answer in time".into() },
        other => RegistryError::Transport { host, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve() {
        let base: Uri = "https://h:5000/v2/a".parse().expect("URI");
        for (location, wanted) in [
            ("/x?y", Some("https://h:5000/x?y")),
            ("https://i/z", Some("https://i/z")),
            ("//i/z", None),
            ("x", None),
            ("file:///etc/passwd", None),
        ] {
            let got = resolve(&base, location).map(|uri| uri.to_string());
            assert_eq!(got.as_deref(), wanted, "{location}");
        }
    }
}
