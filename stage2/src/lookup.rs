//! Finding the app's program as a shell would, inside the root, and saying why it could not be executed.

use crate::failure::{Failure, kernel_words};
use contract::exit;
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;

/// What is searched when the app has no PATH; execvp(3) of the C library does so too.
const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The value of PATH in `environment`.
pub(crate) fn path_of(environment: &[CString]) -> &str {
    let value = environment.iter().find_map(|entry| entry.to_str().ok()?.strip_prefix("PATH="));
    value.unwrap_or(DEFAULT)
}

/// The names to try for `program`, in order. A name with a slash is itself.
fn candidates<'a>(program: &'a str, path: &'a str) -> Box<dyn Iterator<Item = String> + 'a> {
    if program.contains('/') {
        return Box::new(std::iter::once(program.to_owned()));
    }
    // An empty part means the current directory. Relative ones are an old trap, but they are what execvp does.
    Box::new(path.split(':').map(move |directory| match directory {
        "" => format!("./{program}"),
        directory => format!("{}/{program}", directory.trim_end_matches('/')),
    }))
}

/// The first candidate that is a regular file which this process may execute.
pub(crate) fn executable(program: &str, path: &str) -> Result<CString, Failure> {
    let mut denied = None;
    let shown = program.escape_default();
    if !program.is_empty() {
        for candidate in candidates(program, path) {
            match check(&candidate) {
                Ok(()) => return Ok(CString::new(candidate).expect("argv had no NUL")),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => denied = denied.or(Some((candidate, error))),
            }
        }
    }
    Err(match denied {
        Some((candidate, error)) => {
            let error = io::Error::from(error);
            Failure {
                exit: exit::CANNOT_EXECUTE,
                message: format!("execute `{}`: {}", candidate.escape_default(), explain(&error)),
            }
        }
        None if program.contains('/') => {
            Failure { exit: exit::NOT_FOUND, message: format!("execute `{shown}`: no such file in the app's root") }
        }
        None => Failure {
            exit: exit::NOT_FOUND,
            message: format!("execute `{shown}`: not found in PATH `{}`", path.escape_default()),
        },
    })
}

fn check(candidate: &str) -> rustix::io::Result<()> {
    let stat = rustix::fs::stat(candidate)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(CWD, candidate, Access::EXEC_OK, AtFlags::EACCESS)
}

/// What execve's error means for the exit code: a missing interpreter is a program that cannot be executed.
pub(crate) fn exit_code(error: &io::Error) -> u8 {
    // The program itself was seen to be there before.
    if error.raw_os_error() == Some(libc::EAGAIN) { exit::FAILURE } else { exit::CANNOT_EXECUTE }
}

/// The error in words, with the usual reason where there is one.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "its interpreter or loader is not in the app's root".to_owned(),
        Some(libc::ENOEXEC) => "not a program for this machine".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        _ => kernel_words(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_follow_path() {
        for (program, path, expected) in [
            ("sh", "/bin:/usr/bin/", vec!["/bin/sh", "/usr/bin/sh"]),
            ("/bin/sh", "/x", vec!["/bin/sh"]),
            ("./sh", "/x", vec!["./sh"]),
            ("sh", ":/bin", vec!["./sh", "/bin/sh"]),
            ("sh", "", vec!["./sh"]),
            ("sh", "/", vec!["/sh"]),
        ] {
            assert_eq!(candidates(program, path).collect::<Vec<_>>(), expected, "{program} {path}");
        }
    }

    #[test]
    fn finds_as_execvp() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for (name, mode) in [("plain", 0o644), ("program", 0o755)] {
            std::fs::write(path(name), "").unwrap();
            std::fs::set_permissions(path(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        let search = format!("/nowhere:{}", directory.path().display());
        assert_eq!(executable("program", &search).unwrap().to_str().unwrap(), path("program"));
        for (name, code) in
            [("gone", 127), ("plain", 126), ("", 127), ("/", 126), ("/gone/x", 127), (&path("plain/x"), 127)]
        {
            assert_eq!(executable(name, &search).unwrap_err().exit, code, "{name}");
        }
    }

    #[test]
    fn path_comes_from_the_environment() {
        let of = |entries: &[&str]| entries.iter().map(|entry| CString::new(*entry).unwrap()).collect::<Vec<_>>();
        assert_eq!(path_of(&of(&["A=1", "PATH=/x"])), "/x");
        assert_eq!(path_of(&of(&["XPATH=/x"])), DEFAULT);
    }
}
