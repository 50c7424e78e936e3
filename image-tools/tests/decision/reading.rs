//! The trust decision a second time, from `src/trust/README.md` alone.
//!
//! Its author had not seen the first one. It evaluates tables of conditions over all pairs of a signature and a listed key, so it
//! hardly repeats a mistake of the first one. Only tests use it. Section numbers are those of that page.

use std::collections::{BTreeMap, BTreeSet};

use image_tools::cosign::Claim;
use image_tools::key::KeyId;
use image_tools::name::{ImageName, Version};
use image_tools::provenance::{Came, Channel};
use image_tools::statement::Statement;
use image_tools::trust::decide::{Case, Evidence, Spoken};
use image_tools::trust::{Accept, Prefix, Rule, RuleKey, TrustedKey};
use jiff::{SignedDuration, Timestamp};

/// What the page says of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By the rule of the asked name, and by that of the own name where it must accept too.
    Accepted(Vec<Ground>),
    /// By the rule of which name, and for which of the reasons that the page has.
    Refused(Role, Why),
}

/// Why one rule accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) name: String,
    pub(crate) basis: Basis,
    /// Of a `Signed` one: how many different keys count.
    pub(crate) keys: usize,
    /// Of a `Signed` one: when the newest statement of each key was made.
    pub(crate) created: BTreeMap<KeyId, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Basis {
    Signed,
    Anything,
    Pinned,
    Audited,
}

/// The name that is judged: section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Asked,
    Own,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    OtherDigest,
    NoRule,
    Nothing,
    Elsewhere,
    Signatures,
}

/// A verdict, and for each signature that does not count what it lacks: per listing of its key, the conditions that fail.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) verdict: Verdict,
    pub(crate) lacks: Vec<(KeyId, BTreeSet<&'static str>)>,
}

/// Section 4.
pub(crate) fn read(case: &Case<'_>) -> Reading {
    let image = case.image;
    let pin = case.asked.and_then(|asked| asked.pin);
    let asked = case.asked.map(|asked| (Role::Asked, asked.name));
    // 3: the own name is judged if it is written otherwise than the asked one, or alone.
    let own = Some((Role::Own, &image.name)).filter(|(_, own)| asked.is_none_or(|(_, asked)| asked != *own));
    let views: Vec<View<'_>> =
        [asked, own].into_iter().flatten().map(|(role, name)| View { case, role, name, pin: pin.is_some() }).collect();
    let lacks = views.iter().flat_map(View::lacks).collect();
    let digests = BTreeSet::from_iter([Some(image.manifest), image.index, case.id].into_iter().flatten());
    // 1: comes first.
    if pin.is_some_and(|pin| !digests.contains(&pin)) {
        return Reading { verdict: Verdict::Refused(Role::Asked, Why::OtherDigest), lacks };
    }
    let answers: Vec<_> = views.iter().map(|view| (view.role, view.answer())).collect();
    let refused = answers.iter().find_map(|(role, answer)| answer.as_ref().err().map(|why| (*role, *why)));
    let verdict = match refused {
        Some((role, why)) => Verdict::Refused(role, why),
        None => Verdict::Accepted(answers.into_iter().filter_map(|(_, answer)| answer.ok()).collect()),
    };
    Reading { verdict, lacks }
}

/// One name that is judged.
struct View<'a> {
    case: &'a Case<'a>,
    role: Role,
    name: &'a ImageName,
    pin: bool,
}

/// A place where a rule of the chain lists a key.
struct Listing<'a> {
    prefix: &'a Prefix,
    rule: &'a Rule,
    key: &'a RuleKey,
}

/// A signature that some key verifies.
struct Signed<'a> {
    key: &'a TrustedKey,
    revoked: bool,
    spoken: &'a Spoken,
}

impl<'a> View<'a> {
    /// The table of section 4, with the audit mode below it.
    fn answer(&self) -> Result<Ground, Why> {
        let chain = chain(self.case.rules, self.name);
        let rule = chain.first().map(|(_, rule)| *rule);
        let (signed, created) = self.signers();
        let threshold = rule.map_or(1, |rule| rule.threshold.max(1));
        let (good, basis, without) = match rule.map(|rule| rule.accept) {
            None => (false, Basis::Pinned, Why::NoRule),
            Some(Accept::Nothing) => (false, Basis::Pinned, Why::Nothing),
            Some(Accept::Anything) => (self.gave_out(), Basis::Anything, Why::Elsewhere),
            Some(Accept::Signed) => (signed >= threshold, Basis::Signed, Why::Signatures),
        };
        let pinned = self.pin && without != Why::Nothing;
        let audited = rule.is_some_and(|rule| rule.audit);
        // The first column that holds.
        let columns = [(good, basis), (pinned, Basis::Pinned), (audited, Basis::Audited)];
        let (_, basis) = columns.into_iter().find(|(holds, _)| *holds).ok_or(without)?;
        let (keys, created) = if basis == Basis::Signed { (signed, created) } else { (0, BTreeMap::new()) };
        Ok(Ground { name: self.name.to_string(), basis, keys, created })
    }

    /// The tag for which the image must have been meant, if a particular one was asked for.
    fn tag(&self) -> Option<&'a str> {
        let asked = self.case.asked.and_then(|asked| asked.version);
        asked.map(Version::as_str).filter(|_| self.role == Role::Asked)
    }

    fn own_version(&self) -> Option<&'a str> {
        self.case.image.version.as_ref().map(Version::as_str)
    }

    /// Section 5.
    fn gave_out(&self) -> bool {
        self.case.came.iter().any(|came| {
            let Came::Registry { name, version, channel } = came else { return false };
            let version = version.as_ref().map(Version::as_str);
            let tag = match (self.role, self.tag()) {
                _ if self.pin => true,
                (Role::Own, _) => true,
                (Role::Asked, None | Some("latest")) => version.is_some(),
                (Role::Asked, wanted) => version == wanted,
            };
            [*channel == Channel::Tls, full(name.as_str()) == full(self.name.as_str()), tag] == [true; 3]
        })
    }

    /// All pairs of a signature and a listing.
    fn rows(&self) -> Vec<(Listing<'a>, Signed<'a>)> {
        let mut rows = Vec::new();
        for (prefix, rule) in chain(self.case.rules, self.name) {
            for key in rule.keys.iter().filter(|_| rule.accept == Accept::Signed) {
                rows.extend(self.case.evidence.iter().filter_map(|evidence| match evidence {
                    Evidence::Says { key: by, revoked, spoken } => {
                        let signed = Signed { key: by, revoked: revoked.is_some(), spoken };
                        Some((Listing { prefix, rule, key }, signed))
                    }
                    Evidence::Flawed(..) | Evidence::Unknown(_) | Evidence::Malformed(_) => None,
                }));
            }
        }
        rows.retain(|(listing, signed)| listing.key.key == *signed.key);
        rows
    }

    /// How many different keys count, and the times of their statements: section 6.
    fn signers(&self) -> (usize, BTreeMap<KeyId, Timestamp>) {
        let counted: Vec<Signed<'_>> = self
            .rows()
            .into_iter()
            .filter(|(listing, signed)| failing(self, listing, signed).next().is_none())
            .map(|(_, signed)| signed)
            .collect();
        let first =
            |(at, signed): &(usize, &Signed<'_>)| !counted[..*at].iter().any(|other| other.key.same_key(signed.key));
        let different = counted.iter().enumerate().filter(first).count();
        let mut created = BTreeMap::new();
        for signed in &counted {
            if let Spoken::Statement(statement) = signed.spoken {
                let newest = created.entry(signed.key.id()).or_insert(statement.created);
                *newest = statement.created.max(*newest);
            }
        }
        (different, created)
    }

    fn lacks(&self) -> Vec<(KeyId, BTreeSet<&'static str>)> {
        let rows = self.rows().into_iter();
        rows.map(|(listing, signed)| (signed.key.id(), failing(self, &listing, &signed).collect())).collect()
    }
}

/// What must hold of what a signature says.
type Condition<T> = (&'static str, fn(&View<'_>, &Listing<'_>, &T) -> bool);

/// Of every signature.
type OfAny = (&'static str, fn(&View<'_>, &Listing<'_>, &Signed<'_>) -> bool);

const ANY: &[OfAny] = &[
    ("not revoked", |_, _, signed| !signed.revoked),
    ("key begun", |view, listing, _| listing.key.not_before.is_none_or(|begin| begin <= view.case.now)),
    ("key not over", |view, listing, _| listing.key.not_after.is_none_or(|end| view.case.now < end)),
    ("not older", |view, _, signed| {
        let Spoken::Statement(statement) = signed.spoken else { return true };
        // Only the name that was asked for has marks, and the own name where none was.
        let applies = !view.pin && (view.role == Role::Asked || view.case.asked.is_none());
        !applies || view.case.marks.get(&signed.key.id()).is_none_or(|mark| *mark <= statement.created)
    }),
];

const OURS: &[Condition<Statement>] = &[
    ("name", |view, _, statement| full(statement.subject.name.as_str()) == full(view.name.as_str())),
    ("version", |view, _, statement| {
        let says = statement.subject.version.as_ref().map(Version::as_str);
        match (view.role, view.tag()) {
            _ if view.pin => true,
            (Role::Own, _) => says == view.own_version(),
            (Role::Asked, None | Some("latest")) => true,
            (Role::Asked, tag) => says == tag,
        }
    }),
    ("platform", |view, _, statement| {
        let (says, is) = (&statement.subject, view.case.image);
        (&says.os, &says.architecture) == (&is.os, &is.architecture)
    }),
    ("digest", |view, _, statement| statement.subject.manifest == view.case.image.manifest),
    ("not future", |view, _, statement| {
        statement.created.duration_since(view.case.now) <= SignedDuration::from_mins(5)
    }),
    ("key begun", |_, listing, statement| listing.key.not_before.is_none_or(|begin| begin <= statement.created)),
    ("not expired", |view, _, statement| statement.expires.is_none_or(|end| view.case.now < end)),
];

const COSIGN: &[Condition<Claim>] = &[
    ("cosign digest", |view, _, claim| {
        let image = view.case.image;
        BTreeSet::from([Some(image.manifest), image.index]).contains(&Some(claim.digest))
    }),
    ("cosign name", |view, listing, claim| match (&claim.name, &listing.rule.signed_as) {
        (None, _) => is_itself(&listing.prefix.to_string(), view.name.as_str()),
        (Some(says), None) => full(says.as_str()) == full(view.name.as_str()),
        (Some(says), Some(signed_as)) => {
            let meant = format!("{signed_as}{}", behind(listing.prefix, view.name.as_str()));
            ImageName::parse(&meant).is_ok_and(|meant| full(meant.as_str()) == full(says.as_str()))
        }
    }),
    ("cosign version", |view, listing, claim| {
        let says = claim.version.as_ref().map(Version::as_str);
        let own = view.own_version();
        if view.pin {
            true
        } else if listing.rule.tags {
            let wanted = if view.role == Role::Own { own } else { view.tag().or(Some("latest")) };
            says.is_some() && says == wanted
        } else {
            let wanted = view.tag().or(own);
            says.is_none() || wanted.is_none() || says == wanted
        }
    }),
];

/// The conditions that one signature misses under one listing of its key.
fn failing(view: &View<'_>, listing: &Listing<'_>, signed: &Signed<'_>) -> impl Iterator<Item = &'static str> {
    fn of<T>(table: &[Condition<T>], holds: impl Fn(&Condition<T>) -> bool) -> Vec<&'static str> {
        table.iter().filter(|condition| !holds(condition)).map(|(what, _)| *what).collect()
    }
    let missed = ANY.iter().filter(|(_, holds)| !holds(view, listing, signed)).map(|(what, _)| *what);
    let more = match signed.spoken {
        Spoken::Statement(statement) => of(OURS, |(_, holds)| holds(view, listing, statement)),
        Spoken::Foreign(claim) => of(COSIGN, |(_, holds)| holds(view, listing, claim)),
    };
    missed.chain(more).collect::<Vec<_>>().into_iter()
}

/// Section 3: the rules that are about `name`, from the one that decides to the first that does not inherit.
fn chain<'a>(
    rules: &'a BTreeMap<Prefix, (image_tools::trust::Level, Rule)>,
    name: &ImageName,
) -> Vec<(&'a Prefix, &'a Rule)> {
    let by_text: BTreeMap<String, _> =
        rules.iter().map(|(prefix, (_, rule))| (prefix.to_string(), (prefix, rule))).collect();
    let mut about: Vec<_> = prefixes(name.as_str()).iter().filter_map(|prefix| by_text.get(prefix).copied()).collect();
    about.retain(|(prefix, rule)| !rule.exact || is_itself(&prefix.to_string(), name.as_str()));
    let links = about.iter().take_while(|(_, rule)| rule.inherit).count();
    about.truncate(links + 1);
    about
}

/// The prefix is the name itself, as written or in full.
fn is_itself(prefix: &str, name: &str) -> bool {
    [name, &full(name)].contains(&prefix)
}

/// Section 2, the most specific first. A prefix of both spellings stands where the full name has it. Were it earlier, a wide rule
/// would win over a narrow one.
pub(crate) fn prefixes(name: &str) -> Vec<String> {
    fn cuts(name: &str) -> Vec<String> {
        let parts: Vec<&str> = name.split('/').collect();
        (1..=parts.len()).rev().map(|length| parts[..length].join("/")).collect()
    }
    let in_full = cuts(&full(name));
    let mut all = cuts(name);
    all.retain(|prefix| !in_full.contains(prefix));
    all.extend(in_full);
    all.push("*".to_owned());
    all
}

/// What `name` has behind the prefix: as written, else in full. `*` stands before the whole full name.
fn behind(prefix: &Prefix, name: &str) -> String {
    let full = full(name);
    match prefix {
        Prefix::All => format!("/{full}"),
        Prefix::Under(prefix) => {
            let rest = |name: &str| {
                let rest = name.strip_prefix(prefix.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
            };
            rest(name).or_else(|| rest(&full)).unwrap_or_default()
        }
    }
}

/// Section 2: each line rewrites the components of a name, until none applies.
type Rewrite = fn(&[&str]) -> Option<Vec<String>>;

const FULL: &[Rewrite] = &[
    |parts| (!hosted(parts)).then(|| with(&["docker.io"], parts)),
    |parts| {
        let bare = parts[0].strip_suffix(":443").filter(|bare| *bare == "localhost" || bare.contains('.'))?;
        Some(with(&[bare], &parts[1..]))
    },
    |parts| ["index.docker.io", "registry-1.docker.io"].contains(&parts[0]).then(|| with(&["docker.io"], &parts[1..])),
    |parts| (parts[0] == "docker.io" && parts.len() == 2).then(|| with(&["docker.io", "library"], &parts[1..])),
];

fn with(head: &[&str], tail: &[&str]) -> Vec<String> {
    head.iter().chain(tail).map(|part| (*part).to_owned()).collect()
}

/// A first component that looks like a host, and is not all of the name.
fn hosted(parts: &[&str]) -> bool {
    parts.len() > 1 && (parts[0] == "localhost" || parts[0].contains(['.', ':']))
}

/// The full name.
pub(crate) fn full(name: &str) -> String {
    let mut parts: Vec<String> = name.split('/').map(str::to_owned).collect();
    loop {
        let now: Vec<&str> = parts.iter().map(String::as_str).collect();
        match FULL.iter().find_map(|rewrite| rewrite(&now)) {
            Some(next) => parts = next,
            None => return parts.join("/"),
        }
    }
}
