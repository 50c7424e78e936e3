//! The peers, each told to do the same: run `/bin/true` in the same root, without a network.

use super::World;
use super::pods::busybox;
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tests::image::Layer;

/// Roots, bundles and storage of the peers.
pub(crate) struct Peers {
    directory: PathBuf,
    root: PathBuf,
}

impl Peers {
    /// Unpacks the root, and writes the bundles.
    pub(crate) fn new(world: &World) -> Result<Self> {
        let directory = world.scratch.path().join("peers");
        let peers = Self { root: directory.join("root"), directory };
        fs::create_dir_all(&peers.root)?;
        let layers: Vec<Layer> = busybox().layers;
        for layer in &layers {
            tar::Archive::new(layer.tar().as_slice()).unpack(&peers.root)?;
        }
        for runtime in ["crun", "runc"] {
            peers.bundle(runtime)?;
        }
        let archive = peers.directory.join("busybox.tar");
        busybox().docker_archive(&archive)?;
        super::measure::time(peers.podman().arg("load").arg("--input").arg(&archive))?;
        Ok(peers)
    }

    /// A bundle as the runtime's own `spec` makes it, with our program and root.
    fn bundle(&self, runtime: &str) -> Result<()> {
        let bundle = self.directory.join(runtime);
        fs::create_dir_all(&bundle)?;
        crate::command::must(Command::new(runtime).arg("spec").current_dir(&bundle))?;
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["process"]["args"] = json!(["/bin/true"]);
        config["process"]["terminal"] = json!(false);
        config["root"] = json!({ "path": self.root, "readonly": false });
        // Raising a limit needs CAP_SYS_RESOURCE, which root does not have everywhere.
        if let Some(process) = config["process"].as_object_mut() {
            process.remove("rlimits");
        }
        fs::write(file, config.to_string())?;
        Ok(())
    }

    /// `crun run` or `runc run`.
    pub(crate) fn runtime(&self, runtime: &str, number: usize) -> Command {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(self.directory.join(format!("{runtime}-state")));
        command.args(["run", "--bundle"]).arg(self.directory.join(runtime)).arg(format!("pod-bench-{number}"));
        command
    }

    /// `bwrap` with all namespaces.
    pub(crate) fn bwrap(&self) -> Command {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--bind"]).arg(&self.root).args(["/", "--proc", "/proc", "--dev", "/dev"]);
        command.arg("/bin/true");
        command
    }

    /// `systemd-nspawn` without the registration that needs systemd as PID 1.
    pub(crate) fn nspawn(&self) -> Command {
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--directory"]).arg(&self.root);
        command.arg("/bin/true");
        command
    }

    /// `podman run` of the loaded image.
    pub(crate) fn podman_run(&self) -> Command {
        let mut command = self.podman();
        command.args(["run", "--rm", "--network=none", "localhost/test:latest", "/bin/true"]);
        command
    }

    fn podman(&self) -> Command {
        tests::podman::podman(&self.directory.join("podman"))
    }
}
