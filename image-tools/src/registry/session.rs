//! Requests with logins: the answer to a challenge, remembered for the repository, and further tries where they may help.

use super::challenge::Challenge;
use super::endpoint::Endpoint;
use super::http::{Http, Request};
use super::{RegistryError, auth, credentials};
use std::sync::PoisonError;
use std::time::Duration;
use ureq::http::{self, Response, header};

/// How often a request is tried that may succeed a moment later.
const TRIES_MAX: u32 = 5;
/// The first pause between tries; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause that a server may ask for by `Retry-After`.
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Http {
    /// Sends with a login where one is asked for, and again where that may help. The answer has a status that means
    /// success or "not found" or a state of the upload; what means failure has become an error.
    pub(super) fn ask(
        &self,
        endpoint: &Endpoint,
        url: &str,
        request: &Request<'_>,
        what: &str,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let mut tries = 1;
        loop {
            let (error, pause) = match self.ask_once(endpoint, url, request) {
                Ok(response) if response.status().as_u16() < 400 => return Ok(response),
                Ok(response) if response.status().as_u16() == 404 => {
                    return Err(RegistryError::NotFound { host: endpoint.registry.clone(), what: what.into() });
                }
                Ok(response) => {
                    let status = response.status().as_u16();
                    let error = RegistryError::Status { host: endpoint.registry.clone(), status, what: what.into() };
                    (error, retry_after(&response))
                }
                Err(error) => (error, None),
            };
            if !error.is_passing() || tries == TRIES_MAX {
                return Err(error);
            }
            std::thread::sleep(pause.unwrap_or(PAUSE_FIRST * 2_u32.pow(tries - 1)));
            tries += 1;
        }
    }

    /// One try, with at most one answer to a challenge: a registry that keeps asking gets no second one.
    fn ask_once(
        &self,
        endpoint: &Endpoint,
        url: &str,
        request: &Request<'_>,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let key = (endpoint.registry.clone(), format!("{} {}", endpoint.repository, request.is_write()));
        let known = self.logins.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let mut request = Request { authorization: known, ..request.clone() };
        let response = self.send(endpoint, url, &request)?;
        if response.status() != http::StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let header = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let challenge = header.filter_map(|value| value.to_str().ok()).find_map(Challenge::parse);
        let challenge = challenge.ok_or_else(|| RegistryError::Malformed {
            host: endpoint.registry.clone(),
            what: "401 without saying what login it wants".into(),
        })?;
        let login = auth::answer(self, endpoint, &challenge, &self.settings)?;
        request.authorization = Some(login.clone());
        let response = self.send(endpoint, url, &request)?;
        if matches!(response.status().as_u16(), 401 | 403) {
            let found = credentials::find(&endpoint.registry, &endpoint.repository, &self.settings)?;
            return Err(auth::refused(endpoint, found.as_ref()));
        }
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).insert(key, login);
        Ok(response)
    }
}

fn retry_after(response: &Response<ureq::Body>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(PAUSE_MAX))
}
