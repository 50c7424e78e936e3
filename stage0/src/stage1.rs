//! Finding a stage1, asking whether it can do what the pod needs, and becoming it.

mod entrypoint;

use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::check::{self, Line};
use contract::dir::{LOCK_FD, NETWORK_FD, USER_FD};
use contract::features::{self, BASELINE, Feature};
use contract::host::{Host, StageImage};
use contract::name::PodUuid;
use contract::pod::Pod;
use contract::stage1::{FILE, GC_SECS_MAX, Stage1};
use image_tools::obtain::Obtained;
use image_tools::ownership;
use rustix::io::fcntl_dupfd_cloexec;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A stage1 with the place of its executables.
#[derive(Debug)]
pub(crate) struct Located {
    /// What it says of itself.
    pub(crate) stage1: Stage1,
    /// Its `stage1.json`.
    pub(crate) file: PathBuf,
    /// The image that it came in.
    pub(crate) image: Option<StageImage>,
}

/// What `--stage1=` means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// One that comes with `pod`, by its name.
    BuiltIn(&'a str),
    /// A `stage1.json`, or the directory that it lies in.
    Path(&'a Path),
    /// An image reference.
    Image(&'a str),
}

impl<'a> Meaning<'a> {
    /// A path starts with `.` or `/`, ends with `.json`, or is a directory; what has no `/`, `:` or `.` is a name; all else is an
    /// image.
    pub(crate) fn of(text: &'a str) -> Self {
        if text.ends_with(".pod") {
            Self::Image(text)
        } else if text.starts_with(['.', '/']) || text.ends_with(".json") {
            Self::Path(Path::new(text))
        } else if !text.contains(['/', ':', '.']) {
            Self::BuiltIn(text)
        } else if Path::new(text).is_dir() {
            Self::Path(Path::new(text))
        } else {
            Self::Image(text)
        }
    }
}

/// Namespaces that a stage1 is given, open.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// The pod's users.
    pub(crate) users: Option<OwnedFd>,
    /// The pod's network.
    pub(crate) network: Option<OwnedFd>,
}

/// A stage1 that comes with `pod`: beside this program, in `../lib/pod`, in `/usr/lib/pod`.
pub(crate) fn built_in(name: &str) -> Result<Located> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Failure::usage(format!("`{}` is not the name of a stage1", name.escape_debug())).into());
    }
    let own = std::env::current_exe().context("find the own program")?;
    let own = own.parent().context("find the own program's directory")?;
    let file = format!("stage1-{name}.json");
    for directory in [own, &own.join("../lib/pod"), Path::new("/usr/lib/pod")] {
        let file = directory.join(&file);
        if let Some(located) = on_host(&file)? {
            return Ok(located);
        }
    }
    Err(missing(name))
}

/// The stage1 at `path`, which is its `stage1.json` or the directory of that.
pub(crate) fn at(path: &Path) -> Result<Located> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    on_host(&file)?.ok_or_else(|| missing(&path.display().to_string()))
}

/// `None`: there is no such file. Links that lead to it are the administrator's; its programs lie beside the file itself. The path
/// is absolute, because the working directory changes before a program is executed.
fn on_host(file: &Path) -> Result<Option<Located>> {
    refuse_exposed(file)?;
    let file = match std::fs::canonicalize(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("resolve `{}`", file.display()))?,
    };
    Ok(read(&file)?.map(|stage1| Located { stage1, file, image: None }))
}

/// The stage1 that a pod was made for. In the store, owners and modes of files are the image's affair.
pub(crate) fn recorded(host: &Host) -> Result<Located> {
    match (&host.stage1, &host.stage1_image) {
        (None, _) => built_in("namespaces"),
        (Some(file), None) => at(file),
        (Some(file), Some(image)) => {
            let stage1 = read(file)?.ok_or_else(|| missing(&file.display().to_string()))?;
            Ok(Located { stage1, file: file.clone(), image: Some(image.clone()) })
        }
    }
}

/// Its programs run as root: whoever can change one of them, or where they are looked for, is root.
fn refuse_exposed(file: &Path) -> Result<()> {
    ownership::check(file).with_context(|| format!("stage1 `{}`", file.display()))
}

fn missing(text: &str) -> anyhow::Error {
    Failure::new(format!("stage1 `{}` is not there", text.escape_debug()))
        .hint("`--stage1=namespaces`, `--stage1=kvm`, the path of a stage1.json, or an image that holds one")
        .into()
}

/// The stage1 in an image that was verified. Its programs run from the store, where nobody writes.
pub(crate) fn of_image(obtained: &Obtained) -> Result<Located> {
    let name = obtained.image.name.as_str().to_owned();
    let [layer] = obtained.image.layers.as_slice() else {
        let number = obtained.image.layers.len();
        return Err(Failure::new(format!("the image of a stage1 has one layer, `{name}` has {number}")).into());
    };
    let file = layer.join(FILE);
    // A link in the image would lead to a file that was not verified with it.
    if file.is_symlink() {
        return Err(Failure::new(format!("`/{FILE}` of image `{name}` is a link")).into());
    }
    let stage1 = read(&file)?.ok_or_else(|| Failure::new(format!("image `{name}` holds no `/{FILE}`")))?;
    Ok(Located { stage1, file, image: Some(crate::images::stage_image(obtained)) })
}

/// `None`: there is no such file.
fn read(file: &Path) -> Result<Option<Stage1>> {
    let open = match File::open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open stage1 `{}`", file.display())),
    };
    let stage1: Stage1 = contract::json::read(open).with_context(|| format!("read stage1 `{}`", file.display()))?;
    if stage1.versions.contains(&contract::VERSION) {
        return Ok(Some(stage1));
    }
    let name = crate::escape::escape(&stage1.name).into_owned();
    Err(Failure::new(format!("stage1 `{name}` does not read version {} of pod.json", contract::VERSION)).into())
}

/// Runs the command for as long as it may take, and reads as much as it may say.
fn ask(command: &mut Command) -> Result<Vec<Line>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // What it may say fits into a pipe, so that it can end before it is read.
    let (status, child) = entrypoint::run(command, check::SECS_MAX)?;
    let status = status.with_context(|| format!("it takes longer than {} s", check::SECS_MAX))?;
    anyhow::ensure!(status.success(), "it ended with {status}");
    let mut answer = Vec::new();
    child.stdout.context("stdout is a pipe")?.take(check::BYTES_MAX).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).context("read its answer")
}

impl Located {
    /// A need that the stage1 does not declare is an error: no confinement is dropped with a warning.
    pub(crate) fn refuse_unknown_needs(&self, pod: &Pod) -> Result<(), Failure> {
        let missing: Vec<Feature> = features::required(pod).difference(&self.stage1.features).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let hint = match missing.iter().all(|feature| BASELINE.contains(feature)) {
            true => "choose another one by `--stage1=`, or give it up by `--insecure-options=isolation`",
            false => "choose another one by `--stage1=`, or leave out what needs it",
        };
        Err(Failure::new(format!("{} cannot do what this pod needs: {}", self.shown(), names(&missing))).hint(hint))
    }

    /// Writes down what of the baseline this stage1 lacks: the user gives it up.
    pub(crate) fn waive(&self, pod: &mut Pod) {
        pod.waived = features::baseline(pod).filter(|feature| !self.stage1.features.contains(feature)).collect();
    }

    /// Writes down what gc must know of it.
    pub(crate) fn record(&self, host: &mut Host) {
        host.stage1 = Some(self.file.clone());
        host.stage1_gc = self.stage1.entrypoints.gc.is_some();
    }

    /// For messages.
    pub(crate) fn shown(&self) -> String {
        format!("stage1 `{}`", crate::escape::escape(&self.stage1.name))
    }

    /// An entrypoint's program with its arguments.
    fn program(&self, entrypoint: &[String]) -> Result<Command> {
        let command = entrypoint::command(&self.file, entrypoint)?;
        if self.image.is_none() {
            refuse_exposed(Path::new(command.get_program()))?;
        }
        Ok(command)
    }

    /// The program and the arguments of an entrypoint that is about a pod.
    fn command(&self, entrypoint: &[String], uuid: &PodUuid) -> Result<Command> {
        let mut command = self.program(entrypoint).with_context(|| self.shown())?;
        command.arg(uuid.as_str());
        Ok(command)
    }

    /// What the stage1 says of this host, through its `check` entrypoint; that it says nothing useful is a line, too.
    pub(crate) fn check(&self) -> Vec<Line> {
        let Some(entrypoint) = &self.stage1.entrypoints.check else { return Vec::new() };
        let answer = self.program(entrypoint).and_then(|mut command| ask(&mut command));
        let feature = format!("stage1 {}", crate::escape::escape(&self.stage1.name));
        answer.unwrap_or_else(|error| vec![Line::new(feature, false, "", format!("it does not answer: {error:#}"))])
    }

    /// Runs the `gc` entrypoint, if there is one. `directory` is where the pod's directory is now.
    pub(crate) fn collect(&self, pod: BorrowedFd<'_>, directory: &Path, uuid: &PodUuid) -> Result<()> {
        let Some(entrypoint) = &self.stage1.entrypoints.gc else { return Ok(()) };
        let mut command = self.command(entrypoint, uuid)?;
        let lock = fcntl_dupfd_cloexec(pod, 16).context("copy the lock")?;
        crate::sys::give(&mut command, lock, LOCK_FD);
        let program = command.get_program().to_string_lossy().into_owned();
        // The standard output is for UUIDs.
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("copy stderr")?;
        command.current_dir(directory).stdin(Stdio::null()).stdout(stderr);
        match entrypoint::run(&mut command, GC_SECS_MAX)?.0 {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Failure::new(format!("`{program}` ended with {status}")).into()),
            None => {
                let text = format!("`{program}` took longer than {GC_SECS_MAX} s for its `gc` and was killed");
                Err(Failure::new(text).hint("the pod stays, and the next `pod gc` tries again").into())
            }
        }
    }

    /// Becomes the stage1; returns only if that is impossible. `pod` is the locked pod directory.
    pub(crate) fn become_it(&self, pod: BorrowedFd<'_>, given: &Given, uuid: &PodUuid) -> anyhow::Error {
        match self.exec(pod, given, uuid) {
            Ok(never) => never,
            Err(error) => error,
        }
    }

    fn exec(&self, pod: BorrowedFd<'_>, given: &Given, uuid: &PodUuid) -> Result<anyhow::Error> {
        let mut command = self.command(&self.stage1.entrypoints.run, uuid)?;
        rustix::process::fchdir(pod).context("enter the pod directory")?;
        // Copies above all fixed numbers first, so that placing one cannot overwrite the other.
        let lock = fcntl_dupfd_cloexec(pod, 16).context("copy the lock")?;
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(|fd| fcntl_dupfd_cloexec(fd, 16)).transpose();
        let users = copy(&given.users).context("copy the user namespace")?;
        let network = copy(&given.network).context("copy the network namespace")?;
        // The caller may have left fds open; only the contract's cross.
        crate::sys::close_on_exec_from(3).context("close inherited fds")?;
        crate::sys::place(lock.as_fd(), LOCK_FD).context("place the lock")?;
        if let Some(users) = users {
            crate::sys::place(users.as_fd(), USER_FD).context("place the user namespace")?;
        }
        if let Some(network) = network {
            crate::sys::place(network.as_fd(), NETWORK_FD).context("place the network namespace")?;
        }
        let error = command.exec();
        Ok(anyhow::Error::new(error).context(format!("execute `{}`", command.get_program().to_string_lossy())))
    }
}

/// Names of features, for messages.
pub(crate) fn names<'a>(features: impl IntoIterator<Item = &'a Feature>) -> String {
    features.into_iter().map(|feature| feature.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_images_are_told_apart() {
        assert_eq!(Meaning::of("kvm"), Meaning::BuiltIn("kvm"));
        assert_eq!(Meaning::of("no_name"), Meaning::BuiltIn("no_name"));
        for path in ["/opt/stage1.json", "./stage1", "../a/b", "stage1.json", "a/stage1.json"] {
            assert_eq!(Meaning::of(path), Meaning::Path(Path::new(path)));
        }
        for image in ["example.com/stage1:1", "./stage1.pod", "docker://host/stage1", "stage1:1", "no/such.directory"] {
            assert_eq!(Meaning::of(image), Meaning::Image(image));
        }
        // A directory needs no `./`; a test's working directory is that of its crate.
        assert_eq!(Meaning::of("contract/src"), Meaning::Path(Path::new("contract/src")));
    }
}
