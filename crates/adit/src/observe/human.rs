//! Numbers as a person reads them: three digits and a unit.

use std::time::Duration;

/// Steps of 1024, for memory and amounts of data.
const BYTES: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Steps of 1000, for everything else.
const THOUSANDS: &[&str] = &["", "k", "M", "G", "T", "P", "E"];

/// `1.20 GiB`
pub fn bytes(amount: u64) -> String {
    let (number, unit) = scale(amount as f64, 1024.0, BYTES);
    format!("{number} {unit}")
}

/// `103 k`, and `17` as it is.
pub fn count(amount: u64) -> String {
    let (number, unit) = scale(amount as f64, 1000.0, THOUSANDS);
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// `1.21 Gbit/s`, from bytes within a time.
pub fn bit_rate(bytes: u64, within: Duration) -> String {
    let (number, unit) = scale(per_second(bytes, within) * 8.0, 1000.0, THOUSANDS);
    format!("{number} {unit}bit/s")
}

/// `103 k/s`, from a number of things within a time.
pub fn rate(things: u64, within: Duration) -> String {
    let (number, unit) = scale(per_second(things, within), 1000.0, THOUSANDS);
    if unit.is_empty() { format!("{number}/s") } else { format!("{number} {unit}/s") }
}

/// `3 h 12 min`: the two largest units that are not zero.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `1.23 ms`, `980 µs`, `1.20 s`
pub fn microseconds(amount: u64) -> String {
    let (number, unit) = scale(amount as f64, 1000.0, &["µs", "ms", "s"]);
    format!("{number} {unit}")
}

fn per_second(amount: u64, within: Duration) -> f64 {
    let seconds = within.as_secs_f64();
    if seconds > 0.0 { amount as f64 / seconds } else { 0.0 }
}

/// Three digits of `amount` and its unit.
fn scale(mut amount: f64, step: f64, units: &[&'static str]) -> (String, &'static str) {
    let mut units = units.iter().copied();
    let mut unit = units.next().unwrap_or("");
    let mut whole = true;
    // 999.5 would be shown as four digits.
    while amount >= step.min(999.5) {
        let Some(next) = units.next() else { break };
        unit = next;
        amount /= step;
        whole = false;
    }
    let number = match amount {
        _ if whole && amount.fract() == 0.0 => format!("{amount:.0}"),
        small if small < 9.995 => format!("{amount:.2}"),
        medium if medium < 99.95 => format!("{amount:.1}"),
        _ => format!("{amount:.0}"),
    };
    (number, unit)
}

/// As many ports of a container are shown in a table; the rest is counted.
const PORTS: usize = 4;

/// The published ports of a container, for a table.
pub fn ports(all: &[String]) -> String {
    if all.is_empty() {
        return "-".into();
    }
    let mut shown: Vec<String> = all.iter().take(PORTS).cloned().collect();
    if all.len() > PORTS {
        shown.push(format!("and {} more", all.len() - PORTS));
    }
    shown.join(" ")
}

/// How many there are of something whose plural ends with an s.
pub fn several(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trips() {
        for (amount, shown) in
            [(0, "0 µs"), (980, "980 µs"), (1234, "1.23 ms"), (45_600, "45.6 ms"), (1_200_000, "1.20 s")]
        {
            assert_eq!(microseconds(amount), shown);
        }
    }

    #[test]
    fn amounts() {
        for (amount, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 << 20, "10.0 MiB"),
            (1_288_490_189, "1.20 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(amount), shown);
        }
        for (amount, shown) in
            [(0, "0"), (17, "17"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_501, "1.00 M")]
        {
            assert_eq!(count(amount), shown);
        }
    }

    #[test]
    fn rates() {
        assert_eq!(bit_rate(151_250_000, Duration::from_secs(1)), "1.21 Gbit/s");
        assert_eq!(bit_rate(0, Duration::from_secs(1)), "0 bit/s");
        assert_eq!(bit_rate(1000, Duration::ZERO), "0 bit/s");
        assert_eq!(rate(206_000, Duration::from_secs(2)), "103 k/s");
        assert_eq!(rate(3, Duration::from_secs(2)), "1.50/s");
    }

    #[test]
    fn durations() {
        for (seconds, shown) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d 0 h"),
            (u64::MAX, "213503982334601 d 7 h"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }

    proptest! {
        #[test]
        fn numbers_are_short(amount: u64, millis in 1_u64..100_000) {
            let within = Duration::from_millis(millis);
            prop_assert!(bytes(amount).len() <= 8, "{}", bytes(amount));
            prop_assert!(count(amount).len() <= 6, "{}", count(amount));
            prop_assert!(rate(amount >> 10, within).len() <= 9, "{}", rate(amount >> 10, within));
        }
    }
}
