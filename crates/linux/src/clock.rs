//! What time it is: clock_gettime(2), which needs no system call where the kernel maps its clocks into the process (vdso(7)).

use std::time::Duration;

use crate::syscall::syscall;

/// Nanoseconds since the machine started, those included in which it slept (CLOCK_BOOTTIME). Never goes back.
#[inline]
#[must_use]
pub fn boottime() -> u64 {
    nanos(read(libc::CLOCK_BOOTTIME))
}

/// Nanoseconds since some point in the past, those not included in which the machine slept (CLOCK_MONOTONIC). Never goes back.
#[inline]
#[must_use]
pub fn monotonic() -> u64 {
    nanos(read(libc::CLOCK_MONOTONIC))
}

/// The time of day as time since 1970-01-01 00:00 UTC, leap seconds not counted (CLOCK_REALTIME); zero before that. May jump
/// either way.
#[inline]
#[must_use]
pub fn realtime() -> Duration {
    read(libc::CLOCK_REALTIME)
}

/// Whether a time service keeps the time of day, as adjtimex(2) has it; nothing if the kernel does not say.
#[must_use]
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: an all-zero `timex` is a valid value of this plain structure; it asks for no change.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // The pointer is to a structure that outlives the call.
    let answer = syscall!(adjtimex(&raw mut state)).ok()?;
    Some(answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

#[inline]
fn nanos(time: Duration) -> u64 {
    // 584 years.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[inline]
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which lives on this stack frame. It cannot fail for clocks that every kernel
    // of ours has (CLOCK_BOOTTIME since 2.6.39); if it did, the time would be zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanos)) => Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn clocks_go_on_and_never_back() {
        for clock in [boottime, monotonic] {
            let first = clock();
            assert!(first > 0);
            let (mut last, started) = (first, Instant::now());
            while last - first < 1_000_000 {
                let now = clock();
                assert!(now >= last && started.elapsed() < Duration::from_secs(10));
                last = now;
            }
            assert!(started.elapsed() >= Duration::from_micros(900), "nanoseconds");
        }
    }

    #[test]
    fn sleep_counts_for_the_machines_age_only() {
        // Read in this order, the one that includes sleep is the later one by any account.
        let monotonic = monotonic();
        assert!(boottime() >= monotonic);
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = text.split(' ').next().unwrap().parse().unwrap();
        assert!((boottime() as f64 / 1e9 - uptime).abs() < 5.0, "{uptime}");
    }

    #[test]
    fn whether_the_clock_is_kept_is_known() {
        assert!(is_synchronised().is_some());
    }

    #[test]
    fn the_time_of_day_is_that_of_the_standard_library() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = realtime();
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(before <= now && now <= after, "{before:?} {now:?} {after:?}");
    }
}
