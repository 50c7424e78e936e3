//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a registry wants to see before it answers.

use http_auth::ChallengeRef;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password in each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token service.
        realm: String,
        /// To be repeated to it.
        service: Option<String>,
        /// To be repeated to it.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The first challenge of a kind that is known. One header can hold several (RFC 9110, 11.6.1).
    pub(super) fn parse(header: &str) -> Option<Self> {
        // A header that breaks the grammar asks for nothing that could be answered.
        let challenges = http_auth::parse_challenges(header).ok()?;
        challenges.iter().find_map(Self::of)
    }

    fn of(challenge: &ChallengeRef<'_>) -> Option<Self> {
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let mut parameters = challenge.params.iter();
            parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
        };
        Some(Self::Bearer { realm: parameter("realm")?, service: parameter("service"), scope: parameter("scope") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (header, wanted) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                bearer("https://a/t", Some("s"), Some("repository:a:pull,push")),
            ),
            ("Bearer scope=x, realm=\"https://a/t\"", bearer("https://a/t", None, Some("x"))),
            ("Bearer realm=\"a\\\"b\"", bearer("a\"b", None, None)),
            // Two challenges in one line.
            ("Digest realm=\"x\", nonce=\"y\", Bearer realm=\"https://a/t\"", bearer("https://a/t", None, None)),
            ("Negotiate, Basic realm=\"x\"", Some(Challenge::Basic)),
            ("Bearer realm=\"no end", None),
            ("Bearer", None),
            ("Digest realm=\"x\"", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), wanted, "{header}");
        }
    }
}
