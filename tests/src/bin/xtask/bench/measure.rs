//! Timing whole processes, and printing what came out.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A named command that is made anew for each run.
pub(crate) struct Candidate<'a> {
    /// For the table.
    pub(crate) name: String,
    /// Called with a number that differs each time, for names of containers.
    pub(crate) command: Box<dyn Fn(usize) -> Command + 'a>,
    /// How many of the rounds this one takes part in: slow ones need fewer.
    pub(crate) rounds: usize,
}

/// What was measured of one candidate.
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) median: Duration,
    pub(crate) fastest: Duration,
}

/// Wall time from spawn to exit; the command must end with 0.
pub(crate) fn time(command: &mut Command) -> Result<Duration> {
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let status = child.wait()?;
    let time = begin.elapsed();
    if !status.success() {
        let mut text = String::new();
        let mut stderr = child.stderr.take().expect("stderr is piped");
        std::io::Read::read_to_string(&mut stderr, &mut text)?;
        bail!("{command:?} ended with {status}: {}", text.trim());
    }
    Ok(time)
}

/// Runs all candidates in turns, so that what else the machine does hits all alike; two warm-up rounds are not counted.
pub(crate) fn in_turns(candidates: &[Candidate<'_>]) -> Result<Vec<Measured>> {
    const WARM_UP: usize = 2;
    let rounds = candidates.iter().map(|candidate| candidate.rounds).max().unwrap_or(0) + WARM_UP;
    let mut times = vec![Vec::new(); candidates.len()];
    for round in 0..rounds {
        for (candidate, times) in candidates.iter().zip(&mut times) {
            if round < candidate.rounds + WARM_UP {
                let time = time(&mut (candidate.command)(round)).with_context(|| candidate.name.clone())?;
                if round >= WARM_UP {
                    times.push(time);
                }
            }
        }
    }
    Ok(candidates
        .iter()
        .zip(times)
        .map(|(candidate, times)| Measured {
            name: candidate.name.clone(),
            fastest: times.iter().min().copied().unwrap_or_default(),
            median: median(times),
        })
        .collect())
}

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds with as many digits as mean something.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 100.0 { format!("{millis:.2}") } else { format!("{millis:.0}") }
}

/// Prints a table in which the first candidate is ours: its time over each peer's time is the ratio.
pub(crate) fn print_ratios(title: &str, measured: &[Measured]) {
    println!("{title}\n\n| what | median ms | fastest ms | ours / this |\n|---|---:|---:|---:|");
    let ours = measured.first().map(|first| first.median).unwrap_or_default();
    for row in measured {
        let ratio = ours.as_secs_f64() / row.median.as_secs_f64();
        println!("| {} | {} | {} | {ratio:.2} |", row.name, millis(row.median), millis(row.fastest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), Duration::ZERO);
        let times = [5, 1, 9].map(Duration::from_millis);
        assert_eq!(median(times.to_vec()), Duration::from_millis(5));
        assert_eq!(millis(Duration::from_micros(4321)), "4.32");
        assert_eq!(millis(Duration::from_millis(168)), "168");
    }
}
