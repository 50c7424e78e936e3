//! Many pods: listing a thousand, starting five hundred at once, and what a full data directory costs a start.

use super::World;
use super::measure::{Candidate, in_turns, median, millis, time};
use super::pods::{Pods, busybox};
use anyhow::{Result, bail};
use std::process::{Child, Stdio};
use std::time::Instant;

const MANY: usize = 1000;
const TOGETHER: usize = 500;
const ROUNDS: usize = 20;

/// `pod list` of a thousand exited pods, and a start among them and a thousand images.
pub(crate) fn list(world: &World) -> Result<()> {
    let full = Pods::new(world, "list")?;
    let empty = Pods::new(world, "list-empty")?;
    for number in 0..MANY {
        time(&mut full.run(["/bin/true"]))?;
        // A file of its own makes each image another one; the root is shared.
        let mut recipe = busybox();
        recipe.environment = vec![format!("NUMBER={number}")];
        let image = full.image(&recipe, &format!("example.com/other-{number}:1"), "other")?;
        time(full.pod(["fetch"]).arg(&image))?;
    }
    let candidate = |name: &str, words: &'static [&'static str], pods: &'static str| (name.to_owned(), words, pods);
    let rows = [
        candidate("`pod list`", &["list"], "full"),
        candidate("`pod list --format=json`", &["list", "--format=json"], "full"),
        candidate("`pod image list`", &["image", "list"], "full"),
    ];
    let mut candidates: Vec<Candidate<'_>> = rows
        .iter()
        .map(|(name, words, _)| Candidate {
            name: name.clone(),
            command: Box::new(|_| {
                let mut command = full.pod([]);
                command.args(*words);
                command
            }),
            rounds: ROUNDS,
        })
        .collect();
    for (name, pods) in [("`pod run` there", &full), ("`pod run` in an empty data directory", &empty)] {
        candidates.push(Candidate {
            name: name.to_owned(),
            command: Box::new(|_| pods.run(["/bin/true"])),
            rounds: ROUNDS * 2,
        });
    }
    let measured = in_turns(&candidates)?;
    println!("With {MANY} exited pods and {MANY} images\n\n| what | median ms |\n|---|---:|");
    for row in &measured {
        println!("| {} | {} |", row.name, millis(row.median));
    }
    let [there, alone] = [measured[3].median, measured[4].median];
    println!("| `pod run` there over empty | {:.2} × |", there.as_secs_f64() / alone.as_secs_f64());
    let swept = time(&mut full.pod(["gc", "--grace-period=0s"]))?;
    println!("| `pod gc` of all of them | {} |", millis(swept));
    time(&mut empty.pod(["gc", "--grace-period=0s"])).map(|_| ())
}

/// Five hundred pods at once, per pod and per core, over one alone.
pub(crate) fn together(world: &World) -> Result<()> {
    let pods = Pods::new(world, "together")?;
    let mut alone = Vec::new();
    for _ in 0..ROUNDS {
        alone.push(time(&mut pods.run(["/bin/true"]))?);
    }
    let alone = median(alone);
    let begin = Instant::now();
    let mut children: Vec<Child> = Vec::with_capacity(TOGETHER);
    for _ in 0..TOGETHER {
        let mut command = pods.run(["/bin/true"]);
        children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    }
    let mut failed = 0;
    for child in &mut children {
        failed += usize::from(!child.wait()?.success());
    }
    let together = begin.elapsed();
    if failed > 0 {
        bail!("{failed} of {TOGETHER} pods failed");
    }
    let cores = std::thread::available_parallelism()?.get();
    let each = together * u32::try_from(cores)? / u32::try_from(TOGETHER)?;
    println!("{TOGETHER} pods started at once on {cores} cores\n\n| what | ms |\n|---|---:|");
    println!("| all of them | {} |", millis(together));
    println!("| each, of one core | {} |", millis(each));
    println!("| one alone | {} |", millis(alone));
    println!("| each over alone | {:.2} × |", each.as_secs_f64() / alone.as_secs_f64());
    let swept = time(&mut pods.pod(["gc", "--grace-period=0s"]))?;
    println!("| `pod gc` of all of them | {} |", millis(swept));
    Ok(())
}
