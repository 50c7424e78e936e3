//! Builds all executables side by side, with the stage1 declarations and the demo image.
//!
//! The demo image needs image-tools and the probe, and `pod` needs the demo image, so the build has two halves. The key
//! that signs the demo image is made for this build and its secret half is deleted: nobody can sign another image for it.

use crate::command::{cargo, must, target, workspace};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::image::{Layer, Recipe};

/// How to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What users get.
    Release,
    /// Quick to compile; for the tests.
    Debug,
}

/// The only target: explicit, so that build scripts and procedural macros are not linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

impl Profile {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Release => &["--release"],
            Self::Debug => &[],
        }
    }

    /// Where executables of this profile lie.
    pub(crate) fn directory(self) -> PathBuf {
        let name = match self {
            Self::Release => "release",
            Self::Debug => "debug",
        };
        target().join(TARGET).join(name)
    }
}

/// The demo image and its public key, as `pod`'s build script wants them.
pub(crate) fn demo_environment(profile: Profile) -> [(&'static str, PathBuf); 2] {
    let directory = profile.directory().join("demo");
    [("POD_DEMO_IMAGE", directory.join("demo.pod")), ("POD_DEMO_KEY", directory.join("demo.pub"))]
}

/// Builds everything; returns the directory of the executables.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let directory = profile.directory();
    let first = ["build", "--locked", "--package", "image-tools", "--package", "tests", "--bins"];
    must(cargo().args(first).args(profile.arguments()))?;
    demo(profile).context("make the demo image")?;
    let rest = ["stage0", "stage1-namespaces", "stage1-kvm", "stage2"];
    let rest = rest.iter().flat_map(|package| ["--package", package]);
    must(
        cargo()
            .args(["build", "--locked"])
            .args(rest)
            .arg("--bins")
            .args(profile.arguments())
            .envs(demo_environment(profile)),
    )?;
    declarations(&directory)?;
    Ok(directory)
}

/// The project's own guest kernel, from the cache or, some minutes later, from the distribution's sources. It is not part of
/// [`build`], as nothing but a microVM needs it.
pub(crate) fn kernel() -> Result<PathBuf> {
    let script = workspace().join("stage1-kvm/kernel/build");
    let output = Command::new(&script).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run `{}`", script.display()))?;
    anyhow::ensure!(output.status.success(), "`{}` ended with {}", script.display(), output.status);
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}

/// Copies each stage1's declaration to where `pod` looks for it: beside its own executable.
fn declarations(directory: &Path) -> Result<()> {
    for stage1 in ["stage1-namespaces", "stage1-kvm"] {
        let source = workspace().join(stage1).join("stage1.json");
        if source.exists() {
            let bytes = fs::read(&source).with_context(|| source.display().to_string())?;
            fs::write(directory.join(format!("{stage1}.json")), bytes)?;
        }
    }
    Ok(())
}

/// Makes `demo/demo.pod` and `demo/demo.pub`, unless they are there for this very probe and image-tools.
fn demo(profile: Profile) -> Result<()> {
    let directory = profile.directory().join("demo");
    let probe = fs::read(profile.directory().join("probe"))?;
    let image_tools = profile.directory().join("image-tools");
    let made_of = Sha256::new().chain_update(&probe).chain_update(fs::read(&image_tools)?).finalize();
    let made_of: String = made_of.iter().map(|byte| format!("{byte:02x}")).collect();
    if fs::read_to_string(directory.join("made-of")).is_ok_and(|text| text == made_of) {
        return Ok(());
    }
    fs::create_dir_all(&directory)?;
    let scratch = tempfile::tempdir()?;
    let layout = scratch.path().join("layout");
    demo_recipe(&probe).oci_layout(&layout)?;
    let key = scratch.path().join("demo");
    let image = scratch.path().join("demo.pod");
    let source = format!("oci:{}", layout.display());
    let version = env!("CARGO_PKG_VERSION");
    must(
        Command::new(&image_tools).arg("convert").arg(source).arg(&image).args(["--name", &format!("demo:{version}")]),
    )?;
    must(Command::new(&image_tools).arg("keygen").arg(&key))?;
    must(Command::new(&image_tools).arg("sign").arg("--key").arg(key.with_extension("key")).arg(&image))?;
    fs::copy(&image, directory.join("demo.pod"))?;
    fs::copy(key.with_extension("pub"), directory.join("demo.pub"))?;
    fs::write(directory.join("made-of"), made_of)?;
    Ok(())
}

/// One static program, a user to run it as, and nothing else.
fn demo_recipe(probe: &[u8]) -> Recipe {
    let layer = Layer::new()
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/:/sbin/nologin\ndemo:x:1000:1000:demo:/home/demo:/sbin/nologin\n")
        .file("etc/group", 0o644, b"root:x:0:\ndemo:x:1000:\n")
        .directory_of("home/demo", 0o755, 1000, 1000)
        .file("probe", 0o755, probe);
    let mut recipe = Recipe::new([layer]);
    recipe.entrypoint = vec!["/probe".into(), "demo".into()];
    recipe.user = "demo".into();
    recipe.working_directory = "/home/demo".into();
    recipe
}
