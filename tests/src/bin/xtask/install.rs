//! `cargo xtask install PREFIX`: a release build where a user's PATH finds it. `pod` goes to `bin`, what it executes and
//! reads to `lib/pod`, where it looks relative to itself; manual pages and completions to `share`, where man(1) and the shells look.

use crate::build::{Profile, build, kernel};
use crate::command::{must, workspace};
use crate::packages::{self, Need};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const USER_PROGRAMS: [&str; 2] = ["pod", "image-tools"];
const STAGES: [&str; 3] = ["stage1-namespaces", "stage1-kvm", "stage2"];
/// Shells, and where each looks for what completes `pod`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/pod"),
    ("fish", "share/fish/vendor_completions.d/pod.fish"),
    ("zsh", "share/zsh/site-functions/_pod"),
];

pub(crate) fn install(prefix: &Path) -> Result<()> {
    packages::ensure(Need::Build)?;
    let built = build(Profile::Release)?;
    let programs = prefix.join("bin");
    let library = prefix.join("lib/pod");
    for directory in [&programs, &library] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    for name in USER_PROGRAMS {
        place(&built.join(name), &programs.join(name), 0o755)?;
    }
    for name in STAGES {
        place(&built.join(name), &library.join(name), 0o755)?;
        let declaration = format!("{name}.json");
        if built.join(&declaration).exists() {
            place(&built.join(&declaration), &library.join(&declaration), 0o644)?;
        }
    }
    // Where it takes effect, and when it is loaded, is the system's business: packages put it into /etc/apparmor.d.
    let profiles = prefix.join("share/pod/apparmor");
    fs::create_dir_all(&profiles).with_context(|| profiles.display().to_string())?;
    place(&workspace().join("stage0/dist/apparmor/pod-default"), &profiles.join("pod-default"), 0o644)?;
    documentation(&programs.join("pod"), prefix)?;
    match kernel() {
        Ok(kernel) => place(&kernel, &library.join("vmlinux"), 0o644)?,
        Err(error) => eprintln!("xtask: without a guest kernel for `--stage1=kvm`: {error:#}"),
    }
    println!("{}", programs.join("pod").display());
    Ok(())
}

/// What the installed `pod` says of itself.
fn documentation(pod: &Path, prefix: &Path) -> Result<()> {
    let pages = prefix.join("share/man/man1");
    fs::create_dir_all(&pages).with_context(|| pages.display().to_string())?;
    must(Command::new(pod).arg("man").arg(&pages))?;
    for (shell, file) in COMPLETIONS {
        let file = prefix.join(file);
        let script = Command::new(pod).args(["completion", shell]).output().context("execute `pod`")?;
        ensure!(script.status.success(), "`pod completion {shell}` ended with {}", script.status);
        fs::create_dir_all(file.parent().context("a completion lies in a directory")?)?;
        fs::write(&file, script.stdout).with_context(|| format!("write `{}`", file.display()))?;
    }
    Ok(())
}

/// Copies to a temporary name and renames, so that a running `pod` is replaced and not overwritten.
fn place(source: &Path, target: &Path, mode: u32) -> Result<()> {
    let new = target.with_extension("new");
    fs::copy(source, &new).with_context(|| format!("copy `{}`", source.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, target).with_context(|| format!("rename to `{}`", target.display()))
}
