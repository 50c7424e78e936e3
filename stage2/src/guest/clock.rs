//! The guest's clock.

use anyhow::{Context, Result};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// A difference below this is the boot's own duration, and the kernel's source is the better one.
const TRUSTED_SECS: i64 = 5;

/// Sets the clock to what it was on the host when the machine was started, plus the time since; unless the kernel
/// has a source that agrees (a paravirtual clock).
pub(super) fn set(started_unix_nanos: u64) -> Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    let host = host_time(started_unix_nanos, clock_gettime(ClockId::Boottime));
    if started_unix_nanos == 0 || (now.tv_sec - host.tv_sec).abs() < TRUSTED_SECS {
        return Ok(());
    }
    clock_settime(ClockId::Realtime, host).context("set the clock")
}

fn host_time(started_unix_nanos: u64, since: Timespec) -> Timespec {
    let nanos = i128::from(started_unix_nanos) + i128::from(since.tv_sec) * 1_000_000_000 + i128::from(since.tv_nsec);
    let tv_sec = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
    let tv_nsec = i64::try_from(nanos % 1_000_000_000).unwrap_or(0);
    Timespec { tv_sec, tv_nsec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_carry() {
        let time = host_time(1_900_000_000, Timespec { tv_sec: 3, tv_nsec: 200_000_000 });
        assert_eq!((time.tv_sec, time.tv_nsec), (5, 100_000_000));
    }
}
