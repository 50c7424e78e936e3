//! The rate of the host's time stamp counter, which a guest in software emulation reads as its own.

use crate::sys::rdtsc;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// As long as the measurement takes: reading both clocks is uncertain by some 100 ns, so the rate by 10 parts in a million,
/// which is what a quartz is.
const MEASURED: Duration = Duration::from_millis(10);

/// The rate in kHz; none where the counter stops or changes its rate.
pub(super) fn tsc_khz() -> Option<u64> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = cpu.lines().find(|line| line.starts_with("flags"))?;
    let has = |name| flags.split_ascii_whitespace().any(|flag| flag == name);
    if !has("constant_tsc") || !has("nonstop_tsc") {
        return None;
    }
    let (tsc, nanos) = sample()?;
    // Nothing to wait for: the measurement is of time itself.
    std::thread::sleep(MEASURED);
    let (tsc_after, nanos_after) = sample()?;
    rate(tsc_after.checked_sub(tsc)?, nanos_after.checked_sub(nanos)?)
}

/// Both clocks at one moment: of some tries, the one that was least disturbed.
fn sample() -> Option<(u64, u64)> {
    let now = || {
        let time = clock_gettime(ClockId::MonotonicRaw);
        Some(u64::try_from(time.tv_sec).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?)
    };
    let tries = (0..5).filter_map(|_| {
        let before = rdtsc();
        let nanos = now()?;
        Some((rdtsc().wrapping_sub(before), before, nanos))
    });
    tries.min().map(|(cost, before, nanos)| (before.wrapping_add(cost / 2), nanos))
}

fn rate(ticks: u64, nanos: u64) -> Option<u64> {
    let khz = u128::from(ticks) * 1_000_000 / u128::from(nanos.max(1));
    // Outside of this no processor counts, and the clocks were tampered with between the samples.
    u64::try_from(khz).ok().filter(|khz| (100_000..20_000_000).contains(khz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (ticks, nanos, khz) in [
            (21_000_000, 10_000_000, Some(2_100_000)),
            (0, 10_000_000, None),
            (1, 0, Some(1_000_000)),
            (u64::MAX, 1, None),
        ] {
            assert_eq!(rate(ticks, nanos), khz);
        }
    }

    #[test]
    fn two_measurements_agree() {
        let (Some(one), Some(other)) = (tsc_khz(), tsc_khz()) else { return };
        assert!(one.abs_diff(other) * 1000 < one, "{one} {other}");
    }
}
