//! Our side of the tables: a data directory with a signed image whose root is the one that the peers run.

use super::World;
use super::measure::time;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::image::{Layer, Recipe};

/// One data directory and its configuration.
pub(crate) struct Pods<'a> {
    executables: &'a Path,
    directory: PathBuf,
}

/// The name of the image in the store.
pub(crate) const IMAGE: &str = "example.com/busybox:1";

impl<'a> Pods<'a> {
    /// A fresh data directory with the busybox image, signed and trusted.
    pub(crate) fn new(world: &'a World, name: &str) -> Result<Self> {
        let directory = world.scratch.path().join(name);
        fs::create_dir_all(&directory)?;
        let pods = Self { executables: &world.executables, directory };
        let image = pods.image(&busybox(), IMAGE, "busybox")?;
        pods.must(pods.pod(["trust", "add", "--prefix", "example.com"]).arg(pods.directory.join("bench.pub")))?;
        pods.must(pods.pod(["fetch"]).arg(image))?;
        Ok(pods)
    }

    fn must(&self, command: &mut Command) -> Result<()> {
        time(command).with_context(|| self.directory.display().to_string()).map(|_| ())
    }

    /// A signed native image of this recipe.
    pub(crate) fn image(&self, recipe: &Recipe, name: &str, file: &str) -> Result<PathBuf> {
        let layout = self.directory.join(format!("{file}.layout"));
        recipe.oci_layout(&layout)?;
        let image = self.directory.join(format!("{file}.pod"));
        let key = self.directory.join("bench");
        if !key.with_extension("key").exists() {
            self.must(self.tools(["keygen"]).arg(&key))?;
        }
        self.must(self.tools(["convert"]).arg(format!("oci:{}", layout.display())).arg(&image).args(["--name", name]))?;
        self.must(self.tools(["sign", "--key"]).arg(key.with_extension("key")).arg(&image))?;
        fs::remove_dir_all(layout)?;
        Ok(image)
    }

    /// `image-tools`.
    pub(crate) fn tools<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(self.executables.join("image-tools"));
        command.args(words);
        command
    }

    /// `pod` with this data directory.
    pub(crate) fn pod<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(self.executables.join("pod"));
        command.arg("--dir").arg(self.directory.join("data"));
        command.arg("--local-config").arg(self.directory.join("etc"));
        command.arg("--system-config").arg(self.directory.join("usr"));
        command.args(words);
        command
    }

    /// Starts a pod of the stored image.
    pub(crate) fn run<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = self.pod(["run", "--net=none", IMAGE, "--"]);
        command.args(words);
        command
    }
}

/// One static program under the names that are used.
pub(crate) fn busybox() -> Recipe {
    let program = fs::read("/bin/busybox").unwrap_or_default();
    let layer = Layer::new()
        .directory("bin", 0o755)
        .file("bin/busybox", 0o755, &program)
        .symlink("bin/true", "busybox")
        .symlink("bin/sleep", "busybox")
        .directory("etc", 0o755)
        .file("etc/os-release", 0o644, b"ID=bench\n")
        .file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/true\n")
        .file("etc/group", 0o644, b"root:x:0:\n");
    let layer = ["proc", "sys", "dev", "run", "tmp", "usr", "var"]
        .iter()
        .fold(layer, |layer, name| layer.directory(name, 0o755));
    Recipe::new([layer])
}
