//! `adit status --watch`, on a terminal and elsewhere.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::daemon::{Configuration, Place};
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{Bed, Family, Host};

/// Runs a program (its arguments) on a terminal of so many rows and columns, interrupts it (Ctrl-C) after so many frames, and writes all that the
/// terminal got, and last the exit code.
const TERMINAL: &str = r#"
import fcntl, os, pty, struct, sys, termios
rows, columns, frames = map(int, sys.argv[1:4])
child, terminal = pty.fork()
if child == 0:
    os.read(0, 1)
    os.execvp(sys.argv[4], sys.argv[4:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
os.write(terminal, b"\n")
shown, asked = b"", False
while True:
    try:
        more = os.read(terminal, 65536)
    except OSError:
        break
    if not more:
        break
    shown += more
    if not asked and shown.count(b"\x1b[?2026l") >= frames:
        asked = True
        os.write(terminal, b"\x03")
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.stdout.buffer.write(shown)
print("\nexit", code)
"#;

/// What a terminal of `rows` and `columns` got from `adit status` with these arguments, and its exit code.
fn on_terminal(place: &Place, host: &Host, (rows, columns): (u32, u32), arguments: &[&str]) -> (String, String) {
    let status = place.command("status");
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL, &rows.to_string(), &columns.to_string(), "5"]);
    command.arg(status.get_program()).args(status.get_args()).args(arguments);
    let output = host.namespace.run(|| command.output()).unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (shown, code) = text.trim_end().rsplit_once("\nexit ").unwrap();
    (shown.replace("\r\n", "\n"), code.to_owned())
}

/// What is on the screen after all of that: rows of text, and the row of the cursor.
fn screen(shown: &str, rows: usize) -> (Vec<String>, usize) {
    let (mut lines, mut row, mut column) = (vec![String::new(); rows], 0, 0);
    let mut rest = shown;
    while let Some(letter) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("\u{1b}[") {
            let end = after.find(|letter: char| letter.is_ascii_alphabetic()).unwrap();
            let (code, after) = after.split_at(end + 1);
            match code {
                "H" => (row, column) = (0, 0),
                "K" => lines[row] = lines[row].chars().take(column).collect(),
                "J" => {
                    lines[row] = lines[row].chars().take(column).collect();
                    lines.iter_mut().skip(row + 1).for_each(String::clear);
                }
                "2J" => lines.iter_mut().for_each(String::clear),
                "?2026h" | "?2026l" => {}
                _ => panic!("{code:?}"),
            }
            rest = after;
            continue;
        }
        match letter {
            '\n' => {
                (row, column) = (row + 1, 0);
                assert!(row < rows, "it scrolls");
            }
            letter => {
                let line = &lines[row];
                let before: String = line.chars().take(column).collect();
                let behind: String = line.chars().skip(column + 1).collect();
                lines[row] = format!("{before}{letter}{behind}");
                column += 1;
            }
        }
        rest = &rest[letter.len_utf8()..];
    }
    (lines, row)
}

#[test]
fn a_terminal_shows_rates_in_place_and_is_clean_after_ctrl_c() {
    let bed = Bed::new(2);
    let [one, two] = Configuration::pair([bed.host(1), bed.host(2)], Family::V4, "sealed");
    let places = [Place::new(bed.host(1), &one), Place::new(bed.host(2), &two)];
    let _daemons = places.each_ref().map(Place::start);
    let ends = [1, 2].map(|n| End::new(&bed.host(n).namespace, bed.host(n).inner(Family::V4)));
    exchange_tcp(ends[0], ends[1], 1000, 1000);
    let ping = || Command::new("ping").args(["-i", "0.02", "10.77.0.2"]).stdout(Stdio::null()).spawn();
    let mut ping = bed.host(1).namespace.run(ping).unwrap().unwrap();
    let (shown, code) = on_terminal(&places[0], bed.host(1), (30, 132), &["--watch", "0.2"]);
    ping.kill().unwrap();
    ping.wait().unwrap();
    assert_eq!(code, "0", "{shown:?}");
    let frames: Vec<&str> = shown.split_inclusive("\u{1b}[?2026l").collect();
    assert!(frames.len() >= 5, "{shown:?}");
    // Nothing is cleared but once, so that nothing flickers; each frame begins at the top.
    assert_eq!(shown.matches("\u{1b}[2J").count(), 1);
    assert!(frames[..5].iter().all(|frame| frame.matches("\u{1b}[H").count() == 1 && frame.contains("host2")));
    let whole = shown.rfind("\u{1b}[?2026l").unwrap() + "\u{1b}[?2026l".len();
    let echo = &shown[whole..];
    assert!(["", "^C"].contains(&echo.trim()), "a whole frame is last: {echo:?}");
    let (lines, cursor) = screen(&shown.replace("^C", ""), 30);
    assert!(lines[0].starts_with("adit0  up "), "{lines:#?}");
    let total = lines.iter().find(|line| line.starts_with("  total ")).unwrap();
    assert!(total.contains("sessions 1 of 1") && !total.contains("receiving 0 bit/s"), "{total}");
    let peer = lines.iter().find(|line| line.starts_with("  host2 ")).unwrap();
    assert!(peer.contains("sealed ") && peer.contains("kbit/s (") && peer.contains(" ago "), "{peer}");
    assert!(lines[cursor].is_empty() && lines[cursor..].iter().all(String::is_empty), "the cursor is below it");
}

#[test]
fn a_small_terminal_is_not_scrolled_and_a_daemon_that_ends_is_said_to() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    let daemon = place.start();
    let (shown, code) = on_terminal(&place, host, (5, 40), &["--watch", "0.1"]);
    assert_eq!(code, "0");
    let (lines, _) = screen(&shown.replace("^C", ""), 5);
    assert!(lines.iter().all(|line| line.chars().count() < 40), "{lines:#?}");
    assert!(lines[3].starts_with("  and ") && lines[3].contains("more lines"), "{lines:#?}");

    let mut watch = place.command("status");
    watch.args(["--watch", "0.1"]).stdout(Stdio::piped());
    let mut child = host.namespace.run(|| watch.spawn()).unwrap().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("adit0  receiving 0 bit/s"));
    daemon.terminate();
    assert!(lines.any(|line| line.ends_with("  no adit daemon is running")));
    let _again = place.start();
    assert!(lines.any(|line| line.contains("adit0  receiving ")), "it goes on when there is one again");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn json_is_a_line_per_sample_with_its_time() {
    let bed = Bed::new(2);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    let _daemon = place.start();
    let mut watch = place.command("status");
    watch.args(["--json", "--watch", "0.3"]).stdout(Stdio::piped());
    let mut child = host.namespace.run(|| watch.spawn()).unwrap().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let began = Instant::now();
    let samples: Vec<Value> = lines.take(6).map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    child.kill().unwrap();
    child.wait().unwrap();
    let times: Vec<f64> = samples.iter().map(|sample| sample["time_s"].as_f64().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| b - a > 0.2), "{times:?}");
    assert!(samples.iter().all(|sample| sample["device"]["name"] == "adit0" && sample["peers"][0]["name"] == "host2"));
}

#[test]
fn a_rhythm_that_is_none_is_wrong_usage() {
    let bed = Bed::new(1);
    let host = bed.host(1);
    let place = Place::new(host, &Configuration::new(host, &[2], Family::V4));
    for rhythm in ["0", "0.01", "-1", "fast", "NaN", "inf", "100000"] {
        let output = place.run("status", &[&format!("--watch={rhythm}")]);
        assert_eq!(output.status.code(), Some(2), "{rhythm}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("a number of seconds from 0.1 to 86400"),
            "{output:?}"
        );
    }
}
