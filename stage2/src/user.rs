//! Who an app runs as: a pure reading of user specifications and of the image's passwd and group files.
//!
//! The files are hostile. A name that looks like a number in any way but the canonical one is refused, so that no two
//! programs can read it differently (crun CVE-2026-30892).

use anyhow::{Context, Result, bail};
use contract::text::Advised;
use serde::{Deserialize, Serialize};

/// A user or group as `pod.json` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spec<'a> {
    /// By number.
    Id(u32),
    /// By name in the image's file.
    Name(&'a str),
    /// The owner of this path.
    OwnerOf(&'a str),
}

/// Who an app is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// User.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// Supplementary groups, sorted, each once.
    pub(crate) groups: Vec<u32>,
    /// Home directory by the image's passwd file.
    pub(crate) home: Option<String>,
}

/// An entry of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Reads a user or group: decimal digits are a number, a leading slash a path, all else a name.
pub(crate) fn spec(text: &str) -> Result<Spec<'_>> {
    if text.starts_with('/') {
        return Ok(Spec::OwnerOf(text));
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return id(text).map(Spec::Id).with_context(|| format!("`{}` is no user or group id", text.escape_default()));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$' | b'@');
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || text.len() > 256 || !text.bytes().all(plain) {
        bail!("`{}` is no name of a user or group", text.escape_default());
    }
    Ok(Spec::Name(text))
}

/// A canonical decimal number below 2³²-1, which means "no change" to the kernel.
fn id(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|id| canonical && *id != u32::MAX)
}

/// The entries of a passwd file; lines that are not one are skipped, as the C library does.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// The entries of a group file: name, number, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// What the image's files say. A file that is not there, or cannot be read, has no entries: only a name needs one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Files<'a> {
    /// `/etc/passwd`
    pub(crate) passwd: File<'a>,
    /// `/etc/group`
    pub(crate) group: File<'a>,
}

/// One of the image's account files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct File<'a> {
    /// Its text.
    pub(crate) text: &'a str,
    /// Why it cannot be read.
    pub(crate) fault: Option<&'a str>,
}

impl File<'_> {
    /// The error for a name that was not found in this file.
    fn missing(self, kind: &str, name: &str, path: &str) -> anyhow::Error {
        match self.fault {
            None => anyhow::anyhow!("{kind} `{name}` is not in the image's {path}"),
            Some(fault) => anyhow::Error::new(Advised {
                message: format!("{kind} `{name}` cannot be looked up: {fault}"),
                hint: "give the user as a number, such as `--user=0`".to_owned(),
            }),
        }
    }
}

/// Resolves user and group. `owner` gives uid and gid of a path inside the root.
pub(crate) fn resolve(
    user: &str,
    group: Option<&str>,
    supplementary: &[u32],
    files: Files<'_>,
    owner: impl Fn(&str) -> Result<(u32, u32)>,
) -> Result<Identity> {
    let (uid, account, owner_gid) = match spec(user)? {
        Spec::Id(uid) => (uid, accounts(files.passwd.text).find(|account| account.uid == uid), None),
        Spec::OwnerOf(path) => {
            let (uid, gid) = owner(path)?;
            (uid, accounts(files.passwd.text).find(|account| account.uid == uid), Some(gid))
        }
        Spec::Name(name) => match accounts(files.passwd.text).find(|account| account.name == name) {
            Some(account) => (account.uid, Some(account), None),
            None if name == "root" => (0, None, None),
            None => return Err(files.passwd.missing("user", name, "/etc/passwd")),
        },
    };
    let gid = match group.map(spec).transpose()? {
        None => owner_gid.or(account.as_ref().map(|account| account.gid)).unwrap_or(0),
        Some(Spec::Id(gid)) => gid,
        Some(Spec::OwnerOf(path)) => owner(path)?.1,
        Some(Spec::Name(name)) => match groups(files.group.text).find(|(group, ..)| *group == name) {
            Some((_, gid, _)) => gid,
            None if name == "root" => 0,
            None => return Err(files.group.missing("group", name, "/etc/group")),
        },
    };
    let mut all = supplementary.to_vec();
    all.push(gid);
    // With a group of the user's choice, only that one and the ones given count, as with `docker run --user U:G`.
    if let (None, Some(account)) = (group, &account) {
        let member = |members: &str| members.split(',').any(|member| member == account.name);
        all.extend(groups(files.group.text).filter(|(.., members)| member(members)).map(|(_, gid, _)| gid));
    }
    all.sort_unstable();
    all.dedup();
    anyhow::ensure!(all.len() <= 65536, "more than 65536 groups");
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/')).map(str::to_owned);
    Ok(Identity { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\nbad\nodd:x:+5:5::/:\nhex:x:0x6:6::/:\nspace:x: 7:7::/:\n\
        redis:x:999:998:Redis:/var/lib/redis:/bin/false\nshort:x:5:6\nrelative:x:8:8::etc:\n0:x:4:4::/:\n";
    const GROUP: &str =
        "root:x:0:\nredis:x:998:\nssl:x:50:nobody,redis\naudio:x:29:redis\nsudo:x:27:other,rediss\n:x:1:redis\n";

    fn files<'a>(passwd: &'a str, group: &'a str) -> Files<'a> {
        Files { passwd: File { text: passwd, fault: None }, group: File { text: group, fault: None } }
    }

    fn run(user: &str, group: Option<&str>) -> Result<(u32, u32, Vec<u32>)> {
        let owner = |path: &str| if path == "/data" { Ok((5, 60)) } else { bail!("no such file") };
        resolve(user, group, &[400], files(PASSWD, GROUP), owner).map(|who| (who.uid, who.gid, who.groups))
    }

    #[test]
    fn resolves() {
        for (user, group, expected) in [
            ("root", None, (0, 0, vec![0, 400])),
            ("0", None, (0, 0, vec![0, 400])),
            ("redis", None, (999, 998, vec![29, 50, 400, 998])),
            ("999", None, (999, 998, vec![29, 50, 400, 998])),
            ("redis", Some("0"), (999, 0, vec![0, 400])),
            ("redis", Some("ssl"), (999, 50, vec![50, 400])),
            ("1234", None, (1234, 0, vec![0, 400])),
            ("1234", Some("77"), (1234, 77, vec![77, 400])),
            ("short", None, (5, 6, vec![6, 400])),
            ("/data", None, (5, 60, vec![60, 400])),
            ("1", Some("/data"), (1, 60, vec![60, 400])),
        ] {
            assert_eq!(run(user, group).unwrap(), expected, "{user} {group:?}");
        }
    }

    #[test]
    fn refuses_cve_2026_30892() {
        for bad in [
            "",
            " ",
            "0x0",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1:",
            ":1",
            "1:1",
            "00",
            "01",
            "4294967295",
            "4294967296",
            "99999999999",
            "1a",
            "0x",
            "nobody",
            "odd",
            "hex",
            "space",
            "/gone",
            "a b",
            "root\n",
            "root\0",
            "é",
            "1\n",
            "+",
            "-root",
            ".",
        ] {
            assert!(run(bad, None).is_err(), "{bad:?}");
            assert!(run("0", Some(bad)).is_err(), "group {bad:?}");
        }
    }

    #[test]
    fn home() {
        let who = |user| resolve(user, None, &[], files(PASSWD, ""), |_| bail!("")).unwrap().home;
        assert_eq!(who("redis").as_deref(), Some("/var/lib/redis"));
        assert_eq!((who("relative"), who("77")), (None, None));
    }

    #[test]
    fn root_needs_no_files() {
        let who = resolve("root", Some("root"), &[], Files::default(), |_| bail!("")).unwrap();
        assert_eq!((who.uid, who.gid, who.groups), (0, 0, vec![0]));
    }

    // An app can replace these files at any time; the operator must still get in.
    #[test]
    fn only_names_need_files_that_can_be_read() {
        let broken = File { text: "", fault: Some("`/etc/passwd` is no regular file") };
        let files = Files { passwd: broken, group: broken };
        let run = |user, group| resolve(user, group, &[400], files, |_| Ok((5, 60)));
        for (user, group, expected) in [
            ("0", None, (0, 0)),
            ("root", None, (0, 0)),
            ("root", Some("root"), (0, 0)),
            ("1000", None, (1000, 0)),
            ("1000", Some("7"), (1000, 7)),
            ("/data", None, (5, 60)),
        ] {
            let who = run(user, group).unwrap();
            assert_eq!((who.uid, who.gid), expected, "{user} {group:?}");
        }
        for (user, group, text) in [
            ("alice", None, "user `alice` cannot be looked up: `/etc/passwd` is no regular file\nhint: "),
            ("0", Some("staff"), "group `staff` cannot be looked up: `/etc/passwd` is no regular file\nhint: "),
        ] {
            let error = crate::failure::describe(&run(user, group).unwrap_err());
            assert!(error.starts_with(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn only_canonical_numbers_are_numbers(text in "[ +0-9:-][ +x0-9:-]{0,12}") {
            if let Ok(Spec::Id(id)) = spec(&text) {
                prop_assert_eq!(id.to_string(), text);
            } else {
                prop_assert!(spec(&text).is_err());
            }
        }

        #[test]
        fn any_files_are_survived(passwd in ".*", group in ".*", user in ".{0,8}") {
            let _ = resolve(&user, None, &[], files(&passwd, &group), |_| bail!(""));
        }
    }
}
