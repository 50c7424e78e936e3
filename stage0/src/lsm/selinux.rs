//! SELinux of this host, and which labels its policy has for containers.

use contract::name::PodUuid;
use std::fs;
use std::io::Write;
use std::path::{Component, Path};

/// What libselinux takes if its configuration does not say.
const TYPE: &str = "targeted";
/// Categories that every policy with MCS has.
const CATEGORIES: u32 = 1024;

/// SELinux of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Selinux {
    /// The kernel does not run it.
    #[default]
    Off,
    /// It runs, and why no label for apps was found.
    Unlabelled(String),
    /// It runs a policy that knows containers.
    On(Contexts),
}

/// What the policy's `lxc_contexts` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contexts {
    /// Of processes in containers.
    pub(crate) process: String,
    /// Of files that they may write.
    pub(crate) file: String,
    /// What the policy forbids is refused, not only logged.
    pub(crate) enforcing: bool,
}

impl Selinux {
    /// Looks; nothing is read but one file that is not there, where SELinux does not run.
    pub(crate) fn look() -> Self {
        Self::below(Path::new("/"))
    }

    fn below(root: &Path) -> Self {
        let Ok(enforce) = fs::read_to_string(root.join("sys/fs/selinux/enforce")) else { return Self::Off };
        let config = fs::read_to_string(root.join("etc/selinux/config")).unwrap_or_default();
        let policy = value(&config, "SELINUXTYPE").unwrap_or(TYPE);
        if !matches!(Path::new(policy).components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]) {
            return Self::Unlabelled("/etc/selinux/config names no policy".to_owned());
        }
        let file = format!("etc/selinux/{policy}/contexts/lxc_contexts");
        let text = match fs::read_to_string(root.join(&file)) {
            Ok(text) => text,
            Err(error) => return Self::Unlabelled(format!("/{file}: {error}")),
        };
        let context = |key| value(&text, key).filter(is_context);
        let (Some(process), Some(files)) = (context("process"), context("file")) else {
            return Self::Unlabelled(format!("/{file} has no `process` or no `file`"));
        };
        // Debian's policy has the file, but not the types that it names.
        let known = |context: &&str| is_known(root, &with_categories(context, (0, CATEGORIES - 1)));
        match [process, files].into_iter().find(|context| !known(context)) {
            Some(context) => Self::Unlabelled(format!("/{file} names `{context}`, which the loaded policy has not")),
            None => Self::On(Contexts {
                process: process.to_owned(),
                file: files.to_owned(),
                enforcing: enforce.trim_end() == "1",
            }),
        }
    }
}

/// Whether the loaded policy has a context, as the kernel answers a write of it.
fn is_known(root: &Path, context: &str) -> bool {
    let file = fs::OpenOptions::new().write(true).open(root.join("sys/fs/selinux/context"));
    file.and_then(|mut file| file.write_all(context.as_bytes())).is_ok()
}

/// The value of `KEY = "VALUE"`, with or without spaces and quotes, as libselinux reads its files.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        (name.trim_end() == key).then(|| value.trim().trim_matches('"'))
    });
    values.next()
}

/// `USER:ROLE:TYPE` and maybe `:LEVEL`.
#[allow(clippy::trivially_copy_pass_by_ref)] // As a filter has it.
pub(crate) fn is_context(text: &&str) -> bool {
    text.split(':').take(3).filter(|part| !part.is_empty()).count() == 3 && text.bytes().all(|b| b.is_ascii_graphic())
}

/// `context` with two categories in place of its own: pods with other categories cannot reach what has them. A policy without
/// levels has no categories.
pub(crate) fn with_categories(context: &str, (low, high): (u32, u32)) -> String {
    let mut parts = context.splitn(4, ':');
    let (Some(user), Some(role), Some(kind), Some(level)) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return context.to_owned();
    };
    let sensitivity = level.split([':', '-']).next().unwrap_or(level);
    format!("{user}:{role}:{kind}:{sensitivity}:c{low},c{high}")
}

/// Two categories that follow from the pod's UUID: of 523,776 pairs, so two pods that run at once rarely have the same.
pub(crate) fn categories(uuid: &PodUuid) -> (u32, u32) {
    let text = uuid.to_string();
    // The first part of a UUID is random.
    let number = text.split('-').next().and_then(|part| u32::from_str_radix(part, 16).ok()).unwrap_or_default();
    let number = number % (CATEGORIES * (CATEGORIES - 1));
    let (one, other) = (number / (CATEGORIES - 1), number % (CATEGORIES - 1));
    let other = if other >= one { other + 1 } else { other };
    (one.min(other), one.max(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_libselinux_does() {
        let text =
            "# process = \"no\"\n\nprocess = \"u:r:container_t:s0\"\nfile=\"u:object_r:f:s0\"\n ro_file = x:y:z \n";
        for (key, expected) in [
            ("process", Some("u:r:container_t:s0")),
            ("file", Some("u:object_r:f:s0")),
            ("ro_file", Some("x:y:z")),
            ("content", None),
        ] {
            assert_eq!(value(text, key), expected, "{key}");
        }
    }

    #[test]
    fn contexts() {
        for good in ["u:r:t", "u:r:t:s0", "u:r:t:s0-s15:c0.c1023"] {
            assert!(is_context(&good), "{good}");
        }
        for bad in ["", "container_t", "u:r", "u::t", "u:r:", "u:r:t s0", "u:r:t\n"] {
            assert!(!is_context(&bad), "{bad:?}");
        }
        for (context, expected) in [
            ("u:r:t:s0", "u:r:t:s0:c7,c9"),
            ("u:r:t:s0-s0:c0.c1023", "u:r:t:s0:c7,c9"),
            ("u:r:t:s3:c1", "u:r:t:s3:c7,c9"),
            ("u:r:t", "u:r:t"),
        ] {
            assert_eq!(with_categories(context, (7, 9)), expected, "{context}");
        }
    }

    #[test]
    fn categories_are_two_in_order() {
        for (start, expected) in
            [("00000000", (0, 1)), ("000003ff", (0, 1)), ("00000400", (1, 2)), ("000ffbff", (1022, 1023))]
        {
            let uuid = PodUuid::parse(&format!("{start}-2b3d-4a51-9ab0-3bb1b9c2b7aa")).unwrap();
            assert_eq!(categories(&uuid), expected, "{start}");
        }
    }

    #[test]
    fn hosts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=mine\n");
        write("etc/selinux/mine/contexts/lxc_contexts", "process = \"u:r:p:s0\"\n");
        assert_eq!(Selinux::below(root.path()), Selinux::Off);
        write("sys/fs/selinux/enforce", "1");
        assert!(matches!(Selinux::below(root.path()), Selinux::Unlabelled(_)));
        write("etc/selinux/mine/contexts/lxc_contexts", "process = \"u:r:p:s0\"\nfile = \"u:r:f:s0\"\n");
        assert!(matches!(Selinux::below(root.path()), Selinux::Unlabelled(_)), "the kernel knows neither");
        write("sys/fs/selinux/context", "");
        let (process, file) = ("u:r:p:s0".to_owned(), "u:r:f:s0".to_owned());
        assert_eq!(Selinux::below(root.path()), Selinux::On(Contexts { process, file, enforcing: true }));
        write("etc/selinux/config", "SELINUXTYPE=../x\n");
        assert!(matches!(Selinux::below(root.path()), Selinux::Unlabelled(_)));
    }
}
