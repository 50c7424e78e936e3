//! A stage1 of a third party that does less than it should, for tests that see `pod` notice it.
//!
//! `pod` runs it as any stage1: as root on the host, in the pod directory, with what the contract says. Where a pod is to run all
//! the same, it becomes the stage1-namespaces that lies beside it. It must not be run outside a test.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run-without-cgroups", uuid] => {
            forget_cgroups()?;
            become_namespaces(uuid)
        }
        ["gc-forever", _] => {
            let own = std::env::current_exe().context("find this program")?;
            Command::new(own).arg("sleep").spawn().context("start a child")?;
            std::thread::sleep(FOREVER);
            Ok(())
        }
        // A child that its parent's process group does not hold.
        ["sleep"] => {
            rustix::process::setsid().context("start a session")?;
            std::thread::sleep(FOREVER);
            Ok(())
        }
        _ => bail!("`{}` is not understood", words.join(" ")),
    }
}

/// As a stage1 whose author never heard of cgroups: no app joins one.
fn forget_cgroups() -> Result<()> {
    let file = contract::dir::HOST;
    let mut host: contract::host::Host = contract::json::read(std::fs::File::open(file)?).context("read host.json")?;
    host.app_cgroups.clear();
    std::fs::write(file, serde_json::to_vec(&host)?).context("write host.json")
}

fn become_namespaces(uuid: &str) -> Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    Err(Command::new(own.with_file_name("stage1-namespaces")).args(["run", uuid]).exec().into())
}
