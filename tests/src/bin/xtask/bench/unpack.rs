//! Taking in the same docker-archive: ours into the store, podman's and umoci's into theirs.

use super::World;
use super::measure::{Candidate, in_turns, print_ratios, time};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::image::{Layer, Recipe};
use tests::podman::podman;

const ROUNDS: usize = 3;
const LAYERS: usize = 4;
const FILES: usize = 2500;

/// Four layers of many small and some large files, about 300 MB, half of it compressible.
pub(crate) fn archive(file: &Path) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        // xorshift: the same bytes on every machine.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut recipe = Recipe::new([]);
    for layer in 0..LAYERS {
        let mut archive = Layer::new();
        for number in 0..FILES {
            let length = if number % 100 == 0 { 1 << 20 } else { 4096 + (random() % 32768) as usize };
            let mut content = Vec::with_capacity(length + 16);
            while content.len() < length {
                content.extend_from_slice(&random().to_le_bytes());
                content.extend_from_slice(b"the same ");
            }
            content.truncate(length);
            archive = archive.file(&format!("srv/{layer}/{}/{number}", number % 50), 0o644, &content);
        }
        recipe.layers.push(archive);
    }
    recipe.docker_archive(file)
}

/// Into the store or a directory, each from an empty start.
pub(crate) fn unpack(world: &World) -> Result<()> {
    let directory = world.scratch.path().join("unpack");
    fs::create_dir_all(&directory)?;
    let file = directory.join("image.tar");
    archive(&file)?;
    let megabytes = fs::metadata(&file)?.len() / 1_000_000;
    let layout = format!("oci:{}:latest", directory.join("layout").display());
    let source = format!("docker-archive:{}", file.display());
    time(Command::new("skopeo").args(["copy", "--quiet", &source, &layout])).context("skopeo copy")?;
    let native = directory.join("image.pod");
    let tools = world.executables.join("image-tools");
    time(Command::new(&tools).args(["convert", &source]).arg(&native).args(["--name", "example.com/large:1"]))?;
    let fresh = |kind: &str, number: usize| -> PathBuf { directory.join(format!("{kind}-{number}")) };
    let pod = |number: usize, image: &str| {
        let mut command = Command::new(world.executables.join("pod"));
        command.arg("--dir").arg(fresh("pod", number)).args(["--insecure-options=image", "fetch", image]);
        command
    };
    let native_text = native.display().to_string();
    let candidates = [
        Candidate {
            name: "**pod fetch** docker-archive".into(),
            command: Box::new(|n| pod(n, &source)),
            rounds: ROUNDS,
        },
        Candidate {
            name: "pod fetch of the native image".into(),
            command: Box::new(|n| pod(n + 100, &native_text)),
            rounds: ROUNDS,
        },
        Candidate {
            name: "image-tools unpack of the native image".into(),
            command: Box::new(|n| {
                let mut command = Command::new(&tools);
                command.arg("unpack").arg(&native).arg(fresh("tools", n));
                command
            }),
            rounds: ROUNDS,
        },
        Candidate {
            name: "podman load".into(),
            command: Box::new(|n| {
                let mut command = podman(&fresh("podman", n));
                command.args(["load", "--quiet", "--input"]).arg(&file);
                command
            }),
            rounds: ROUNDS,
        },
        Candidate {
            name: "umoci unpack (of gzip layers)".into(),
            command: Box::new(|n| {
                let mut command = Command::new("umoci");
                command.args(["unpack", "--image"]).arg(layout.trim_start_matches("oci:")).arg(fresh("umoci", n));
                command
            }),
            rounds: ROUNDS,
        },
    ];
    let measured = in_turns(&candidates)?;
    print_ratios(
        &format!("Taking in a docker-archive of {LAYERS} layers and {megabytes} MB, from an empty start"),
        &measured,
    );
    Ok(())
}
