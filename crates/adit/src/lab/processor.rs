//! How long processors were busy: all of them, and the threads of one process.

use std::fs;

/// Units of `/proc/stat`: USER_HZ, which is 100 on every architecture that Rust's std runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds that all processors have been busy since the machine started; 0 where the kernel does not tell.
pub(crate) fn busy_seconds() -> f64 {
    fs::read_to_string("/proc/stat").ok().and_then(|text| parse_busy(&text)).unwrap_or(0.0)
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)).
fn parse_busy(text: &str) -> Option<f64> {
    let fields: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8).filter_map(|f| f.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, rest @ ..] = fields.as_slice() else { return None };
    let busy = [user, nice, system].into_iter().chain(rest).fold(0u64, |sum, field| sum.saturating_add(*field));
    Some(busy as f64 / TICKS_PER_SECOND)
}

/// Nanoseconds that the workers of a process (none: of this one) have been on processors since they started, by the kernel's count for each
/// thread; none where the kernel does not tell, or has no such process.
pub(crate) fn worker_nanoseconds(pid: Option<u32>) -> Option<u64> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let mut sum: Option<u64> = None;
    for thread in fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let path = thread.ok()?.path();
        let is_worker = fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("worker-"));
        if is_worker {
            let time = parse_schedstat(&fs::read_to_string(path.join("schedstat")).ok()?)?;
            sum = Some(sum.unwrap_or(0).saturating_add(time));
        }
    }
    sum
}

/// The first number of `schedstat`: time on a processor in nanoseconds (Documentation/scheduler/sched-stats.rst).
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(parse_busy("cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 1\n"), Some(1.71));
        assert_eq!(parse_busy("cpu0 1 2 3"), None);
    }

    #[test]
    fn only_workers_are_counted() {
        assert_eq!(worker_nanoseconds(None), None, "a test has none");
        assert_eq!(worker_nanoseconds(Some(u32::MAX)), None);
        let (began, end) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let work = move || {
            // Some time on a processor, before anybody looks.
            let sum: u64 = (0..2_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
            began.0.send(sum).unwrap();
            let _ = end.1.recv();
        };
        let worker = std::thread::Builder::new().name("worker-9".into()).spawn(work).unwrap();
        began.1.recv().unwrap();
        assert!(worker_nanoseconds(Some(std::process::id())).unwrap() > 0);
        drop(end.0);
        worker.join().unwrap();
    }

    proptest! {
        #[test]
        fn any_schedstat_is_read_without_panic(text in ".*") {
            parse_schedstat(&text);
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            parse_busy(&text);
        }

        #[test]
        fn any_numbers_are_added_without_overflow(numbers in proptest::collection::vec(any::<u64>(), 0..10)) {
            let line: Vec<_> = numbers.iter().map(u64::to_string).collect();
            parse_busy(&format!("cpu  {}", line.join(" ")));
        }
    }
}
