//! The same image from the same registry on the loopback, into an empty store: ours, podman's, and skopeo with umoci.
//!
//! The registry is Debian's, with TLS by a CA of its own and a login, as a real one has.

use super::World;
use super::measure::{Candidate, in_turns, print_ratios, time};
use super::server::{PASSWORD, Server, USER, skopeo, start};
use super::unpack::archive;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::podman;

const ROUNDS: usize = 3;

/// Runs of one candidate: where it puts things, and where the memory that each run took is noted.
struct Runs {
    directory: PathBuf,
    peaks: PathBuf,
}

impl Runs {
    fn new(parent: &Path, name: &str) -> Result<Self> {
        let directory = parent.join(name);
        fs::create_dir_all(&directory)?;
        Ok(Self { peaks: parent.join(format!("{name}.peaks")), directory })
    }

    /// An empty directory, and a command that notes the memory of its largest process.
    fn fresh(&self, command: &Command) -> Command {
        podman::sweep(&self.directory.join("s"));
        let _ = fs::remove_dir_all(&self.directory); // What is left shows as an image that is there already.
        let _ = fs::create_dir_all(&self.directory);
        let mut measured = Command::new("/usr/bin/time");
        measured.args(["--format=%M", "--append", "--output"]).arg(&self.peaks);
        measured.arg(command.get_program()).args(command.get_args());
        measured
    }

    /// The most that any run took, in MiB.
    fn peak(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.peaks)?;
        let kibibytes = text.lines().filter_map(|line| line.parse::<u64>().ok()).max();
        Ok(kibibytes.context("no memory was noted")?.div_ceil(1024))
    }
}

/// Both kinds of compressed layers.
pub(crate) fn pull(world: &World) -> Result<()> {
    let directory = world.scratch.path().join("pull");
    let registry = directory.join("registry");
    fs::create_dir_all(&registry)?;
    let Some(server) = start(&registry, None) else { bail!("no registry") };
    let file = directory.join("image.tar");
    archive(&file)?;
    let megabytes = fs::metadata(&file)?.len() / 1_000_000;
    let source = format!("docker-archive:{}", file.display());
    let configuration = configure(&directory, &server)?;
    for compression in ["gzip", "zstd"] {
        let place = format!("{}/bench/{compression}:1", server.host);
        let to = format!("docker://{place}");
        let words = ["copy", "--quiet", "--format=oci", "--dest-compress-format", compression, &source, &to];
        time(&mut skopeo(&server, &words)).context("skopeo copy")?;
        let title = format!("Pulling an image of 4 {compression} layers, {megabytes} MB unpacked, into an empty store");
        table(world, &directory.join(compression), &configuration, &server, &place, &title)?;
    }
    Ok(())
}

/// What our command needs to know of the registry.
fn configure(directory: &Path, server: &Server) -> Result<PathBuf> {
    let configuration = directory.join("etc");
    for name in ["registries.d", "auth.d"] {
        fs::create_dir_all(configuration.join(name))?;
    }
    let rule = json!({ "registry": server.host, "ca": server.directory.join("ca.crt") });
    fs::write(configuration.join("registries.d/bench.json"), rule.to_string())?;
    let login = json!({ "registries": [server.host], "user": USER, "password": PASSWORD });
    let file = configuration.join("auth.d/bench.json");
    fs::write(&file, login.to_string())?;
    fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(configuration)
}

fn table(
    world: &World,
    directory: &Path,
    configuration: &Path,
    server: &Server,
    place: &str,
    title: &str,
) -> Result<()> {
    let (ours, theirs, third) =
        (Runs::new(directory, "pod")?, Runs::new(directory, "podman")?, Runs::new(directory, "skopeo")?);
    let remote = format!("docker://{place}");
    let pod = |_| {
        let mut command = Command::new(world.executables.join("pod"));
        command.arg("--dir").arg(ours.directory.join("s")).arg("--local-config").arg(configuration);
        command.args(["--insecure-options=image", "fetch", &remote]);
        ours.fresh(&command)
    };
    let podman = |_| {
        let mut command = podman::podman(&theirs.directory.join("s"));
        command.args(["pull", "--quiet"]).arg(format!("--cert-dir={}", server.directory.join("certs.d").display()));
        command.arg(format!("--creds={USER}:{PASSWORD}")).arg(place);
        theirs.fresh(&command)
    };
    let skopeo_and_umoci = |_| {
        let layout = third.directory.join("layout");
        let copy = skopeo(server, &["copy", "--quiet", &remote, &format!("oci:{}:x", layout.display())]);
        let mut unpack = Command::new("umoci");
        unpack.args(["unpack", "--image"]).arg(format!("{}:x", layout.display())).arg(third.directory.join("unpacked"));
        third.fresh(&one_after_the_other(&copy, &unpack))
    };
    let mut candidates = vec![
        Candidate { name: "**pod fetch**".into(), command: Box::new(pod), rounds: ROUNDS },
        Candidate { name: "podman pull".into(), command: Box::new(podman), rounds: ROUNDS },
    ];
    let mut runs = vec![&ours, &theirs];
    // Debian's umoci does not read zstd.
    if !place.contains("zstd") {
        let command = Box::new(skopeo_and_umoci);
        candidates.push(Candidate { name: "skopeo copy, umoci unpack".into(), command, rounds: ROUNDS });
        runs.push(&third);
    }
    print_ratios(title, &in_turns(&candidates)?);
    println!("\n| largest process | MiB at most |\n|---|---:|");
    for (candidate, runs) in candidates.iter().zip(&runs) {
        println!("| {} | {} |", candidate.name, runs.peak()?);
    }
    println!();
    for runs in runs {
        podman::sweep(&runs.directory.join("s"));
    }
    Ok(())
}

/// Two commands as one process tree.
fn one_after_the_other(first: &Command, second: &Command) -> Command {
    let line = |command: &Command| -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| format!("'{}' ", word.to_string_lossy().replace('\'', r"'\''"))).collect()
    };
    let mut both = Command::new("sh");
    both.arg("-ec").arg(format!("{}\n{}", line(first), line(second)));
    both
}
