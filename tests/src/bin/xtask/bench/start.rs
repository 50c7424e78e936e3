//! How long a pod takes from `exec` to exit, and how much memory it holds while it runs.

use super::World;
use super::measure::{Candidate, in_turns, millis, print_ratios, time};
use super::peers::Peers;
use super::pods::Pods;
use anyhow::{Context, Result, bail};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 60;
const ROUNDS_SLOW: usize = 10;

/// `true` in a busybox root: ours from a stored and signed image, the peers' from a directory or their own storage.
pub(crate) fn start(world: &World) -> Result<()> {
    let pods = Pods::new(world, "start")?;
    let peers = Peers::new(world)?;
    fn candidate<'a>(name: &str, rounds: usize, command: impl Fn(usize) -> Command + 'a) -> Candidate<'a> {
        Candidate { name: name.to_owned(), command: Box::new(command), rounds }
    }
    let measured = in_turns(&[
        candidate("**pod run** (signed image, verified)", ROUNDS, |_| pods.run(["/bin/true"])),
        candidate("bwrap", ROUNDS, |_| peers.bwrap()),
        candidate("crun run", ROUNDS, |number| peers.runtime("crun", number)),
        candidate("runc run", ROUNDS, |number| peers.runtime("runc", number)),
        candidate("systemd-nspawn", ROUNDS_SLOW, |_| peers.nspawn()),
        candidate("podman run", ROUNDS_SLOW, |_| peers.podman_run()),
    ])?;
    print_ratios("Start to exit of `true`, `--net=none`, whole process", &measured);
    let runs = ROUNDS + 2;
    let swept = time(&mut pods.pod(["gc", "--grace-period=0s"]))?;
    println!("\n`pod gc` of these {runs} pods: {} ms each", millis(swept / u32::try_from(runs)?));
    Ok(())
}

/// Proportional set size of the supervisor and of PID 1 of a pod that sleeps.
pub(crate) fn memory(world: &World) -> Result<()> {
    let pods = Pods::new(world, "memory")?;
    let mut child = pods.run(["/bin/sleep", "30"]).stdin(Stdio::null()).spawn()?;
    let measured = processes(&mut child);
    child.kill()?;
    child.wait()?;
    time(&mut pods.pod(["gc", "--grace-period=0s"]))?;
    println!("Memory of a running pod\n\n| process | PSS KiB |\n|---|---:|");
    let mut sum = 0;
    for (name, kibibytes) in measured? {
        println!("| {name} | {kibibytes} |");
        sum += kibibytes;
    }
    println!("| together | {sum} |");
    Ok(())
}

/// The supervisor and its child, once that one has a child of its own: the app.
fn processes(child: &mut Child) -> Result<Vec<(String, u64)>> {
    let begin = Instant::now();
    loop {
        let supervisor = child.id();
        if let Some(init) = only_child(supervisor)
            && only_child(init).is_some_and(|app| name_of(app).contains("busybox") || name_of(app).contains("sleep"))
        {
            // What a pod costs is what it holds while it waits; it gives memory back after a second of quiet.
            std::thread::sleep(Duration::from_millis(1500));
            return [supervisor, init].iter().map(|pid| Ok((name_of(*pid), proportional_kibibytes(*pid)?))).collect();
        }
        if begin.elapsed() > Duration::from_secs(10) || child.try_wait()?.is_some() {
            bail!("the pod did not start");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn only_child(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn proportional_kibibytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find(|line| line.starts_with("Pss:")).context("no Pss line")?;
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).context("no number in the Pss line")
}
