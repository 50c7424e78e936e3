//! MicroVMs: from command to first output and to the end, over the time that the same kernel needs with a bare init under qemu.
//! Measured here, and in the testbed VM, where `/dev/kvm` can run kernels and so our own hypervisor: one program for both.

use super::World;
use super::bare::Bare;
use super::measure::{median, millis};
use super::pods::{IMAGE, Pods};
use crate::build::kernel;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::testbed::{self, Job};

const ROUNDS: usize = 9;
/// Memory of the guests, in KiB.
const GUEST_KIB: u64 = 512 << 10;
/// No start takes as long.
const START_SECS_MAX: i64 = 60;
/// The app says how long its machine ran when it began, and since when it is there itself.
const APP: [&str; 4] = ["/bin/busybox", "cat", "/proc/uptime", "/proc/self/stat"];

/// Prints the tables of this machine and of the testbed.
pub(crate) fn vm(world: &World) -> Result<()> {
    kernel()?;
    println!("MicroVMs on this machine\n");
    rows(world)?;
    if let Some(reason) = testbed::missing() {
        bail!("{reason}");
    }
    println!("\nMicroVMs in the testbed, which is itself emulated in software\n");
    let own = std::env::current_exe()?;
    let words = [own.as_path(), Path::new("bench-inside"), &world.executables].map(|word| word.display().to_string());
    let report = testbed::run(&Job::new(&words.each_ref().map(String::as_str)))?;
    print!("{}", String::from_utf8_lossy(&report.stdout));
    anyhow::ensure!(report.code == Some(0), "{}{}", String::from_utf8_lossy(&report.stderr), report.console);
    Ok(())
}

/// The part of the testbed.
pub(crate) fn inside(executables: &Path) -> Result<()> {
    rows(&World { executables: executables.to_owned(), scratch: tempfile::tempdir()? })
}

/// One start: to the first output, which has a certain text, and to the end.
struct Start {
    output: Duration,
    end: Duration,
    text: String,
}

fn start(command: &mut Command, first: &str) -> Result<Start> {
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    end_in_time(&child)?;
    let mut stdout = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
    let mut text = String::new();
    // A kernel may complain before.
    while !text.contains(first) && stdout.read_line(&mut text)? > 0 {}
    let output = begin.elapsed();
    stdout.read_to_string(&mut text)?;
    let status = child.wait()?;
    let end = begin.elapsed();
    if !status.success() || text.is_empty() {
        let mut errors = String::new();
        child.stderr.take().context("stderr is a pipe")?.read_to_string(&mut errors)?;
        bail!("{command:?} ended with {status}: {}", errors.trim());
    }
    Ok(Start { output, end, text })
}

/// A machine that hangs ends the measurement, not the day.
fn end_in_time(child: &Child) -> Result<()> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    std::thread::spawn(move || {
        let time = Timespec { tv_sec: START_SECS_MAX, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&time)) == Ok(0) {
            let _ = pidfd_send_signal(&process, Signal::KILL); // It may have ended just now.
        }
    });
    Ok(())
}

fn pod<const N: usize>(pods: &Pods<'_>, hypervisor: &str, words: [&str; N]) -> Command {
    let mut command = pods.pod(["run", "--stage1=kvm", "--net=none"]);
    command.arg(format!("--hypervisor={hypervisor}")).arg(format!("--vm-memory={GUEST_KIB}K"));
    command.args([IMAGE, "--"]).args(words);
    command
}

fn rows(world: &World) -> Result<()> {
    let pods = Pods::new(world, "vm")?;
    let probe = Command::new(world.executables.join("stage1-kvm")).arg("probe").stderr(Stdio::null()).status()?;
    let hypervisors: &[&str] = if probe.success() { &["builtin", "qemu"] } else { &["qemu"] };
    let (mut running, process) = waiting(&pods, "qemu")?;
    let bare = Bare::beside(process, world.scratch.path());
    end(&mut running)?;
    let bare = bare?;
    let mut starts: Vec<Vec<Start>> = hypervisors.iter().map(|_| Vec::new()).collect();
    let mut bares = Vec::new();
    // In turns, the first round for warming up.
    for round in 0..=ROUNDS {
        let sample = start(&mut bare.command(), "bare init")?;
        if round > 0 {
            bares.push(sample);
        }
        for (name, starts) in hypervisors.iter().zip(&mut starts) {
            let sample = start(&mut pod(&pods, name, APP), "\n")?;
            if round > 0 {
                starts.push(sample);
            }
        }
    }
    println!("| what | first output ms | fastest ms | over bare | then to the end ms |\n|---|---:|---:|---:|---:|");
    let base = row("the same kernel and a bare init, `qemu -M microvm`", &bares, None);
    for (name, starts) in hypervisors.iter().zip(&starts) {
        row(&format!("**pod run**, {name}"), starts, Some(base));
    }
    println!("\n| where it goes, ms | before the guest's clock | kernel and init | app |\n|---|---:|---:|---:|");
    for (name, starts) in hypervisors.iter().zip(&starts) {
        phases(name, starts)?;
    }
    println!(
        "\n| memory of a waiting pod, KiB | supervisor | hypervisor beyond guest RAM | guest RAM touched |\n|---|---:|---:|---:|"
    );
    for name in hypervisors {
        memory(&pods, name)?;
    }
    Ok(())
}

fn row(name: &str, starts: &[Start], base: Option<Duration>) -> Duration {
    let outputs: Vec<Duration> = starts.iter().map(|start| start.output).collect();
    let fastest = outputs.iter().min().copied().unwrap_or_default();
    let output = median(outputs);
    let tail = median(starts.iter().map(|start| start.end - start.output).collect());
    let over = output.as_secs_f64() / base.unwrap_or(output).as_secs_f64();
    println!("| {name} | {} | {} | {over:.2} | {} |", millis(output), millis(fastest), millis(tail));
    output
}

/// By the guest's clock, which begins with its kernel: when the app was made, and when it spoke.
fn phases(name: &str, starts: &[Start]) -> Result<()> {
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for start in starts {
        let (uptime, stat) = start.text.split_once('\n').context("the app printed no uptime")?;
        let spoke = Duration::try_from_secs_f64(uptime.split(' ').next().unwrap_or_default().parse()?)?;
        // proc(5): field 22, and the name before the parenthesis is two fields.
        let ticks: u64 =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).context("no time")?.parse()?;
        let made = Duration::from_millis(ticks * 10);
        for (part, time) in parts.iter_mut().zip([start.output.saturating_sub(spoke), made, spoke.saturating_sub(made)])
        {
            part.push(time);
        }
    }
    let [before, kernel, app] = parts.map(|part| millis(median(part)));
    println!("| {name} | {before} | {kernel} | {app} |");
    Ok(())
}

/// A pod whose app waits, and the process of its hypervisor.
fn waiting(pods: &Pods<'_>, hypervisor: &str) -> Result<(Child, u32)> {
    let words = ["/bin/busybox", "sh", "-c", "echo ready; exec sleep 600"];
    let mut child = pod(pods, hypervisor, words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    end_in_time(&child)?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("stdout is a pipe")?).read_line(&mut line)?;
    let pid = child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let process = children.split_whitespace().next().context("the pod has no hypervisor")?.parse()?;
    Ok((child, process))
}

fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn memory(pods: &Pods<'_>, name: &str) -> Result<()> {
    let (mut child, process) = waiting(pods, name)?;
    // What a pod costs is what it holds while it waits.
    std::thread::sleep(Duration::from_secs(3));
    let sizes = mappings(child.id()).and_then(|own| Ok((own, mappings(process)?)));
    end(&mut child)?;
    let (own, hypervisor) = sizes?;
    let sum = |mappings: &[Mapping]| mappings.iter().map(|mapping| mapping.pss).sum::<u64>();
    let guest = sum(guest(&hypervisor)?);
    println!("| {name} | {} | {} | {guest} |", sum(&own), sum(&hypervisor) - guest);
    Ok(())
}

/// A range of addresses, in KiB, and its proportional share of memory.
#[derive(Clone, Copy)]
struct Mapping {
    start: u64,
    end: u64,
    pss: u64,
}

/// proc(5), `/proc/pid/smaps`
fn mappings(process: u32) -> Result<Vec<Mapping>> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let mut mappings = Vec::new();
    for line in text.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let kib = |text| u64::from_str_radix(text, 16).map(|address| address >> 10);
            mappings.push(Mapping { start: kib(start)?, end: kib(end)?, pss: 0 });
        } else if let (Some(mapping), Some(pss)) = (mappings.last_mut(), line.strip_prefix("Pss:")) {
            mapping.pss = pss.trim_end_matches("kB").trim().parse()?;
        }
    }
    Ok(mappings)
}

/// The guest's memory: mappings side by side that together have its size, for pieces of it may be of files.
fn guest(mappings: &[Mapping]) -> Result<&[Mapping]> {
    for (first, begin) in mappings.iter().enumerate() {
        let mut end = begin.start;
        for (last, mapping) in mappings.iter().enumerate().skip(first) {
            if mapping.start != end || mapping.end > begin.start + GUEST_KIB {
                break;
            }
            end = mapping.end;
            if end == begin.start + GUEST_KIB {
                return Ok(&mappings[first..=last]);
            }
        }
    }
    bail!("no memory of the guest's size is mapped")
}
