//! The state of daemons as it changes: what moved since the last look, and frames that are drawn over each other.

use std::time::Duration;

use super::human;
use super::status::{endpoint_of, handshake_of, head, problems, traffic, transport_of};
use super::table::{Table, clean};
use crate::api::Status;
use crate::api::status::PeerStatus;

/// A daemon's state with what moved since `before`, which was `elapsed` ago.
pub fn render_rates(before: Option<&Status>, status: &Status, elapsed: Duration) -> String {
    let handshakes = status.peers.iter().any(|peer| peer.secure);
    let mut titles =
        vec!["PEER", "TRANSPORT", "ENDPOINT", "HANDSHAKE", "ROUND TRIP", "RECEIVING", "SENDING", "RECEIVED", "SENT"];
    titles.retain(|title| handshakes || !["HANDSHAKE", "ROUND TRIP"].contains(title));
    let mut table = Table::new(&titles);
    for peer in &status.peers {
        let moved = moved(before.and_then(|before| find(before, peer)), peer);
        let mut row = vec![peer.name.clone(), transport_of(peer), endpoint_of(peer)];
        if handshakes {
            let round_trip = peer.round_trip_us.filter(|_| peer.session == "up");
            row.extend([handshake_of(peer), round_trip.map_or_else(|| "-".to_owned(), human::microseconds)]);
        }
        row.extend([
            traffic(human::bit_rate(moved.rx_bytes, elapsed), human::rate(moved.rx_packets, elapsed)),
            traffic(human::bit_rate(moved.tx_bytes, elapsed), human::rate(moved.tx_packets, elapsed)),
            human::bytes(peer.rx_bytes),
            human::bytes(peer.tx_bytes),
        ]);
        table.row(row);
    }
    let total = format!("  total      {}\n", total(before, status, elapsed));
    format!("{}{total}\n{}{}{}", head(status), table.render(2), problems(status), drops(before, status, elapsed))
}

/// What moved through a daemon since `before`, on one line.
pub fn rates_line(before: Option<&Status>, status: &Status, elapsed: Duration) -> String {
    format!("{}  {}", clean(&status.device.name), total(before, status, elapsed))
}

fn total(before: Option<&Status>, status: &Status, elapsed: Duration) -> String {
    let mut sum = Moved::default();
    for peer in &status.peers {
        let moved = moved(before.and_then(|before| find(before, peer)), peer);
        sum.rx_bytes = sum.rx_bytes.saturating_add(moved.rx_bytes);
        sum.tx_bytes = sum.tx_bytes.saturating_add(moved.tx_bytes);
        sum.rx_packets = sum.rx_packets.saturating_add(moved.rx_packets);
        sum.tx_packets = sum.tx_packets.saturating_add(moved.tx_packets);
    }
    let dropped: u64 = moved_drops(before, status).map(|(_, _, moved)| moved).fold(0, u64::saturating_add);
    let secure = status.peers.iter().filter(|peer| peer.secure).count();
    let up = status.peers.iter().filter(|peer| peer.secure && peer.session == "up").count();
    let sessions = if secure == 0 { String::new() } else { format!("  sessions {up} of {secure}") };
    format!(
        "receiving {}  sending {}  dropping {}{sessions}",
        traffic(human::bit_rate(sum.rx_bytes, elapsed), human::rate(sum.rx_packets, elapsed)),
        traffic(human::bit_rate(sum.tx_bytes, elapsed), human::rate(sum.tx_packets, elapsed)),
        human::rate(dropped, elapsed),
    )
}

/// What is dropped now stands first, with its rate; then what once was.
fn drops(before: Option<&Status>, status: &Status, elapsed: Duration) -> String {
    let mut reasons: Vec<_> = moved_drops(before, status).filter(|(_, packets, _)| *packets > 0).collect();
    if reasons.is_empty() {
        return String::new();
    }
    reasons.sort_by_key(|(reason, packets, moved)| (std::cmp::Reverse((*moved, *packets)), *reason));
    let shown = reasons.iter().map(|(reason, packets, moved)| {
        let rate = if *moved > 0 { format!(" ({})", human::rate(*moved, elapsed)) } else { String::new() };
        format!("{} {}{rate}", clean(reason), human::count(*packets))
    });
    format!("\n  dropped    {}\n", shown.collect::<Vec<_>>().join(", "))
}

/// Each reason with the packets dropped so far, and those since `before`. Without a moment before, nothing is known to have moved.
fn moved_drops<'a>(before: Option<&'a Status>, status: &'a Status) -> impl Iterator<Item = (&'a str, u64, u64)> {
    status.drops.iter().map(move |(reason, packets)| {
        let past = before.map_or(*packets, |before| before.drops.get(reason).copied().unwrap_or(0));
        (reason.as_str(), *packets, packets.saturating_sub(past))
    })
}

/// What moved between two moments. A daemon that was started anew in between counts from zero.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moved {
    rx_bytes: u64,
    tx_bytes: u64,
    rx_packets: u64,
    tx_packets: u64,
}

fn find<'a>(status: &'a Status, peer: &PeerStatus) -> Option<&'a PeerStatus> {
    status.peers.iter().find(|other| other.name == peer.name)
}

fn moved(before: Option<&PeerStatus>, now: &PeerStatus) -> Moved {
    let Some(before) = before else { return Moved::default() };
    Moved {
        rx_bytes: now.rx_bytes.saturating_sub(before.rx_bytes),
        tx_bytes: now.tx_bytes.saturating_sub(before.tx_bytes),
        rx_packets: now.rx_packets.saturating_sub(before.rx_packets),
        tx_packets: now.tx_packets.saturating_sub(before.tx_packets),
    }
}

/// A text drawn over what is on a terminal of `rows` and `columns`, line by line, so that nothing flickers and nothing scrolls; the cursor is
/// below it in the end, where whoever comes next may write. (ECMA-48: CUP, EL, ED. Terminals that know it show all of it at once: mode 2026.)
pub fn frame(text: &str, (rows, columns): (usize, usize), is_first: bool) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The last row is the cursor's.
    let room = rows.saturating_sub(1).max(1);
    let mut shown: Vec<String> = lines.iter().take(room).map(|line| cut(line, columns)).collect();
    let hidden = lines.len() - shown.len();
    if hidden > 0
        && let Some(last) = shown.last_mut()
    {
        *last = cut(
            &format!("  and {} more lines: make the window taller, or name one daemon with --device", hidden + 1),
            columns,
        );
    }
    let begin = if is_first { "\u{1b}[2J" } else { "" };
    let body: String = shown.iter().map(|line| format!("{line}\u{1b}[K\n")).collect();
    format!("\u{1b}[?2026h{begin}\u{1b}[H{body}\u{1b}[J\u{1b}[?2026l")
}

/// As much of a line as fits. A line that is as long as the terminal is wide would take the row after it on some.
fn cut(line: &str, columns: usize) -> String {
    let room = columns.saturating_sub(1).max(1);
    if line.chars().count() <= room {
        return line.to_owned();
    }
    line.chars().take(room - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::status::tests::sample;
    use crate::observe::status::tests::encrypted;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rates_are_of_what_moved() {
        let before = sample();
        let mut now = sample();
        now.peers[0].rx_bytes += 125_000_000;
        now.peers[0].rx_packets += 100_000;
        now.drops.insert("malformed".into(), 2);
        let line = rates_line(Some(&before), &now, SECOND);
        assert_eq!(line, "adit0  receiving 1.00 Gbit/s (100 k/s)  sending 0 bit/s (0/s)  dropping 2/s");
        let shown = render_rates(Some(&before), &now, SECOND);
        assert!(shown.contains("1.00 Gbit/s (100 k/s)  0 bit/s (0/s)"), "{shown}");
        assert!(shown.ends_with("\n  dropped    malformed 2 (2/s), no_route 17\n"), "{shown}");
        // Without a moment before, and after a restart, nothing is known to have moved.
        assert!(
            rates_line(None, &now, SECOND).contains("receiving 0 bit/s (0/s)  sending 0 bit/s (0/s)  dropping 0/s")
        );
        assert!(rates_line(Some(&now), &before, SECOND).contains("receiving 0 bit/s"));
        let half = rates_line(Some(&before), &now, SECOND * 2);
        assert!(half.contains("500 Mbit/s (50.0 k/s)") && half.contains("dropping 1/s"), "{half}");
    }

    #[test]
    fn sessions_and_round_trips_are_shown() {
        let mut status = encrypted();
        (status.peers[0].round_trip_us, status.peers[1].round_trip_us) = (Some(1234), None);
        let shown = render_rates(None, &status, SECOND);
        let expected = "
  total      receiving 0 bit/s (0/s)  sending 0 bit/s (0/s)  dropping 0/s  sessions 1 of 2

  PEER    TRANSPORT              ENDPOINT           HANDSHAKE  ROUND TRIP  RECEIVING       SENDING         RECEIVED  SENT
  berlin  sealed AES-256-GCM     192.0.2.2:7777     12 s ago   1.23 ms     0 bit/s (0/s)   0 bit/s (0/s)   1.20 GiB  2.40 GiB
  oslo    wireguard              -                  never      -           0 bit/s (0/s)   0 bit/s (0/s)   0 B       0 B
"
        .replace("(0/s)   ", "(0/s)  ")
        .replace("RECEIVING       SENDING         ", "RECEIVING      SENDING        ");
        assert!(shown.contains(&expected), "{shown}");
        status.peers[0].problem = Some("it refused".into());
        assert!(render_rates(None, &status, SECOND).contains("  problem    berlin: it refused\n"));
    }

    #[test]
    fn a_foreign_text_cannot_steer_the_terminal() {
        let mut status = sample();
        status.version = "\u{1b}[2J".into();
        status.peers[0].name = "x\u{1b}]0;y".into();
        status.drops = [("no\rroute".to_owned(), 1)].into();
        status.device.name = "\u{7}".into();
        let text = render_rates(None, &status, SECOND) + &rates_line(None, &status, SECOND);
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    }

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let first = frame("a\nb\n", (24, 80), true);
        assert_eq!(first, "\u{1b}[?2026h\u{1b}[2J\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J\u{1b}[?2026l");
        let next = frame("a\n", (24, 80), false);
        assert!(!next.contains("[2J") && next.ends_with("a\u{1b}[K\n\u{1b}[J\u{1b}[?2026l"), "{next:?}");
        let tall = frame(&"x\n".repeat(50), (10, 80), false);
        assert!(tall.contains("and 42 more lines"), "{tall:?}");
    }

    proptest! {
        #[test]
        fn a_frame_scrolls_nothing(lines in prop::collection::vec("[a-zé ]{0,120}", 0..60), rows in 0usize..50, columns in 0usize..130) {
            let text: String = lines.iter().map(|line| line.clone() + "\n").collect();
            let frame = frame(&text, (rows, columns), false);
            prop_assert!(frame.matches('\n').count() < rows.max(2));
            for line in frame.split('\n') {
                let plain = ["\u{1b}[?2026h", "\u{1b}[?2026l", "\u{1b}[H", "\u{1b}[K", "\u{1b}[J"].iter().fold(line.to_owned(), |line, code| line.replace(code, ""));
                prop_assert!(plain.chars().count() < columns.max(2), "{plain:?}");
            }
        }
    }
}
