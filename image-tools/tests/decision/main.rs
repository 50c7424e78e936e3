//! The trust decision against a second reading of its documentation, on many small cases.
//!
//! `POD_DECISION_CASES` is their number (5000 without it), and the seed is fixed. The test also fails if a verdict, a reason or a
//! flaw occurs in too few cases, because it would show nothing about that one.

mod cases;
mod compare;
mod reading;

use std::collections::BTreeMap;
use std::sync::Mutex;

use cases::Scenario;
use image_tools::name::ImageName;
use image_tools::trust::decide;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

const CASES: u32 = 5_000;
/// Enough for four rules, three ways and four signatures.
const BYTES: usize = 192;

/// Each must be met, at least once in a thousand cases.
const MET: &[&str] = &[
    "accepted Asked Signed",
    "accepted Asked Anything",
    "accepted Asked Pinned",
    "accepted Asked Audited",
    "accepted Own Signed",
    "accepted Own Anything",
    "accepted Own Pinned",
    "accepted Own Audited",
    "refused Asked OtherDigest",
    "refused Asked NoRule",
    "refused Asked Nothing",
    "refused Asked Elsewhere",
    "refused Asked Signatures",
    "refused Own NoRule",
    "refused Own Nothing",
    "refused Own Elsewhere",
    "refused Own Signatures",
    "reason NoRule",
    "reason Elsewhere",
    "reason OtherDigest",
    "reason Forbidden",
    "reason NoKeys",
    "reason Unsigned",
    "reason Untrusted",
    "reason Flawed",
    "reason Threshold",
    "reason Malformed",
    "flaw Revoked",
    "flaw Altered",
    "flaw Name",
    "flaw Nameless",
    "flaw Version",
    "flaw Platform",
    "flaw Manifest",
    "flaw Expired",
    "flaw Future",
    "flaw KeyNotYet",
    "flaw KeyOver",
    "flaw Older",
    "only not revoked",
    "only key begun",
    "only key not over",
    "only not older",
    "only name",
    "only version",
    "only platform",
    "only digest",
    "only cosign digest",
    "only cosign name",
    "only cosign version",
    "only not future",
    "only not expired",
];

#[test]
fn decides_as_the_documentation_says() {
    let cases = std::env::var("POD_DECISION_CASES").map_or(CASES, |cases| cases.parse().expect("a number of cases"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let met = Mutex::new(BTreeMap::<String, u32>::new());
    let strategy = proptest::collection::vec(proptest::num::u8::ANY, BYTES);
    let result = runner.run(&strategy, |bytes| {
        let classes = compare::compare(&Scenario::of(&bytes)).map_err(proptest::test_runner::TestCaseError::fail)?;
        let mut met = met.lock().expect("no case panics with it");
        classes.into_iter().for_each(|class| *met.entry(class).or_default() += 1);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(what, bytes)) => panic!("{what}\n{:#?}\n{bytes:?}", Scenario::of(&bytes)),
        Err(error) => panic!("{error}"),
    }
    let met = met.into_inner().expect("no case panics with it");
    for (class, times) in &met {
        println!("{times:8} {class}");
    }
    let missed: Vec<_> =
        MET.iter().filter(|class| met.get(**class).is_none_or(|times| *times < cases / 1000)).collect();
    assert!(missed.is_empty(), "of {cases} cases too few are {missed:?}");
}

/// The README says that letter case and trailing dots need no rule.
#[test]
fn no_name_has_capitals_or_a_trailing_dot() {
    for name in [
        "H.example/a",
        "h.example/A",
        "h.example./a",
        "docker.io./a",
        "Docker.io/a",
        "h.example:0443/a",
        "h.example:/a",
    ] {
        let parsed = ImageName::parse(name);
        assert!(parsed.is_err(), "{parsed:?}");
    }
}

/// By hand, from the page.
#[test]
fn the_reading_knows_names() {
    for (name, full) in [
        ("redis", "docker.io/library/redis"),
        ("team/app", "docker.io/team/app"),
        ("index.docker.io/redis", "docker.io/library/redis"),
        ("registry-1.docker.io:443/team/app", "docker.io/team/app"),
        ("docker.io", "docker.io/library/docker.io"),
        ("h.example:443/a", "h.example/a"),
        ("h:443/a", "h:443/a"),
        ("localhost:443/a", "localhost/a"),
        ("h.example:5000/a", "h.example:5000/a"),
    ] {
        assert_eq!(reading::full(name), full);
    }
    assert_eq!(reading::prefixes("a/b"), ["a/b", "a", "docker.io/a/b", "docker.io/a", "docker.io", "*"]);
    let found = reading::prefixes("docker.io/a");
    assert_eq!(found, ["docker.io/a", "docker.io/library/a", "docker.io/library", "docker.io", "*"]);
}

/// The two readings of sections 2 and 3, over all names of the alphabet.
#[test]
fn names_are_what_the_reading_says() {
    for name in cases::HOSTS.iter().flat_map(|host| cases::PATHS.iter().map(move |path| format!("{host}{path}"))) {
        let name = ImageName::parse(&name).expect("the alphabet has names only");
        let text = name.as_str();
        assert_eq!(decide::full(&name).as_str(), reading::full(text), "{text}");
        let found: Vec<String> = decide::prefixes(&name).iter().map(ToString::to_string).collect();
        assert_eq!(found, reading::prefixes(text), "{text}");
    }
}
