//! What Linux security modules this host runs, as far as apps can be confined by them. It only looks.

pub(crate) mod selinux;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// The profile that comes with pod, for the system's packages to load.
pub(crate) const PROFILE: &str = "pod-default";

/// AppArmor of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Apparmor {
    /// The kernel does not run it.
    #[default]
    Off,
    /// It runs, and why its profiles cannot be seen.
    Hidden(String),
    /// The kernel's list of loaded profiles.
    On(String),
}

impl Apparmor {
    /// Looks; nothing is read but one file that is not there, where AppArmor does not run.
    pub(crate) fn look() -> Self {
        Self::below(Path::new("/sys"))
    }

    fn below(sys: &Path) -> Self {
        let enabled = fs::read_to_string(sys.join("module/apparmor/parameters/enabled"));
        if enabled.is_ok_and(|text| text.starts_with('Y')) {
            match fs::read_to_string(sys.join("kernel/security/apparmor/profiles")) {
                Ok(profiles) => Self::On(profiles),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Self::Hidden("securityfs is not mounted".to_owned())
                }
                Err(error) => Self::Hidden(format!("its list of profiles cannot be read: {error}")),
            }
        } else {
            Self::Off
        }
    }

    /// `enforce`, `complain` …; `None` if it is not loaded.
    pub(crate) fn mode(&self, profile: &str) -> Option<&str> {
        let Self::On(profiles) = self else { return None };
        // `NAME (MODE)`; a name may hold spaces and parentheses.
        let mut lines = profiles.lines().filter_map(|line| line.strip_suffix(')')?.rsplit_once(" ("));
        lines.find(|(name, _)| *name == profile).map(|(_, mode)| mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let apparmor = Apparmor::On(
            "pod-default-2 (enforce)\nlsb_release (complain)\na (b) (kill)\npod-default (enforce)\n".into(),
        );
        for (name, mode) in [
            ("pod-default", Some("enforce")),
            ("lsb_release", Some("complain")),
            ("a (b)", Some("kill")),
            ("pod", None),
            ("a", None),
            ("", None),
        ] {
            assert_eq!(apparmor.mode(name), mode, "{name}");
        }
        assert_eq!(Apparmor::Off.mode("pod-default"), None);
    }

    #[test]
    fn hosts() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Apparmor::below(sys.path()), Apparmor::Off);
        write("module/apparmor/parameters/enabled", "N\n");
        assert_eq!(Apparmor::below(sys.path()), Apparmor::Off);
        write("module/apparmor/parameters/enabled", "Y\n");
        assert!(matches!(Apparmor::below(sys.path()), Apparmor::Hidden(_)));
        write("kernel/security/apparmor/profiles", "x (enforce)\n");
        assert_eq!(Apparmor::below(sys.path()).mode("x"), Some("enforce"));
    }
}
