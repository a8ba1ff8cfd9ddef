//! The log: one line on standard error per event, as text or as JSON, and of one cause not more than [`ALLOWANCE`] in [`INTERVAL`].
//!
//! What is withheld is counted, and said in one line when the interval is over: by the next event of any kind, or by [`tell_withheld`], which
//! the control thread calls now and then. Whoever asks for `debug` or `trace` gets all of these.
//!
//! | file | what it is for |
//! |---|---|
//! | `mod.rs` | from an event to a line |
//! | `line.rs` | what a line looks like |
//! | `limits.rs` | how many lines a cause may have |

mod limits;
mod line;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::{Failure, Result};
use limits::{Cause, Limits, More};
use line::Line;

/// Lines of one cause in an [`INTERVAL`]. Enough to see what a handful of peers has in common.
pub const ALLOWANCE: u32 = 20;

/// How long a cause that has had its lines is silent.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Time, level, module, sentence
    #[default]
    Text,
    /// A JSON object
    Json,
}

/// Levels, the gravest first.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// How many lines there were of each of [`LEVELS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that were written.
    pub written: [u64; 5],
    /// Those that were not, since their cause had written enough.
    pub withheld: [u64; 5],
}

static LOG: OnceLock<Log<io::Stderr>> = OnceLock::new();

/// Logs to standard error from now on.
///
/// # Errors
/// `filter` is not what [`EnvFilter`] takes.
pub fn to_stderr(filter: &str, format: Format) -> Result<()> {
    let refuse = |fault: &dyn std::fmt::Display| {
        Failure::usage(format!("--log (ADIT_LOG) {filter:?} is not a level: {fault}"))
            .with_remedy("write error, warn, info, debug or trace, and for a module such as adit::network=debug")
    };
    // To the filter, a word that is no level is a module, of which all is wanted, and of everything else nothing.
    let words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    if let Some(word) = words.clone().find(|word| !word.contains('=') && word.parse::<LevelFilter>().is_err()) {
        return Err(refuse(&format_args!("there is none called {word:?}")));
    }
    let filter = EnvFilter::builder().parse(filter).map_err(|error| refuse(&error))?;
    let colours = format == Format::Text && io::stderr().is_terminal();
    let log = LOG.get_or_init(|| Log::new(io::stderr(), format, colours));
    // Set already only when a test runs several verbs in one process.
    let _ = tracing_subscriber::registry().with(filter).with(Lines(log)).try_init();
    Ok(())
}

/// How many lines there were so far.
pub fn counts() -> Counts {
    LOG.get().map(Log::counts).unwrap_or_default()
}

/// Says what was withheld in intervals that are over.
pub fn tell_withheld() {
    if let Some(log) = LOG.get() {
        log.tell(Instant::now());
    }
}

/// Says all that was withheld so far: the program is about to end.
pub fn tell_all_withheld() {
    if let Some(log) = LOG.get() {
        log.tell(Instant::now() + INTERVAL);
    }
}

/// What takes events for a log.
struct Lines<W: 'static>(&'static Log<W>);

impl<S: Subscriber, W: Write + Send> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.take(event, Instant::now());
    }
}

struct Log<W> {
    state: Mutex<State<W>>,
    format: Format,
    colours: bool,
    written: [AtomicU64; 5],
    withheld: [AtomicU64; 5],
}

struct State<W> {
    limits: Limits,
    out: W,
}

impl<W: Write> Log<W> {
    fn new(out: W, format: Format, colours: bool) -> Self {
        let state = Mutex::new(State { limits: Limits::default(), out });
        Self { state, format, colours, written: <_>::default(), withheld: <_>::default() }
    }

    /// A thread that panicked with the lock has written half a line at most.
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> Counts {
        let read = |counters: &[AtomicU64; 5]| counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
        Counts { written: read(&self.written), withheld: read(&self.withheld) }
    }

    fn take(&self, event: &Event<'_>, now: Instant) {
        let line = Line::of(event);
        let mut state = self.lock();
        self.tell_due(&mut state, now);
        // Who wants to see every step wants to see every step.
        let is_limited = line.level <= Level::INFO;
        let cause = Cause::of(event.metadata(), &line.target);
        if is_limited && !state.limits.allow(cause, now, || line.clone()) {
            count(&self.withheld, line.level);
            return;
        }
        self.write(&mut state, &line);
    }

    fn tell(&self, now: Instant) {
        let mut state = self.lock();
        self.tell_due(&mut state, now);
    }

    fn tell_due(&self, state: &mut State<W>, now: Instant) {
        for More { count, last } in state.limits.due(now) {
            let what = if count == 1 { "one more of these".to_owned() } else { format!("{count} more of these") };
            let message = format!("and {what}, the last: {}", last.message);
            self.write(state, &Line { message, ..last });
        }
    }

    fn write(&self, state: &mut State<W>, line: &Line) {
        let text = match self.format {
            Format::Text => line.text(SystemTime::now(), self.colours),
            Format::Json => line.json(SystemTime::now(), std::thread::current().name()),
        };
        count(&self.written, line.level);
        // There is nobody to tell that nobody can be told.
        let _ = state.out.write_all(text.as_bytes());
    }
}

fn count(counters: &[AtomicU64; 5], level: Level) {
    let place = match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    };
    if let Some(counter) = counters.get(place) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of events, with a log of its own.
    fn logged(format: Format, events: impl FnOnce(&'static Log<Vec<u8>>)) -> (String, Counts) {
        let log: &'static Log<Vec<u8>> = Box::leak(Box::new(Log::new(Vec::new(), format, false)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Lines(log)), || events(log));
        let text = String::from_utf8(log.lock().out.clone()).unwrap();
        (text, log.counts())
    }

    fn warn(reason: &str) {
        tracing::warn!("the registry cannot be reached: {reason}");
    }

    #[test]
    fn a_flood_of_one_cause_is_a_few_lines_and_a_number_and_others_are_heard() {
        let (text, counts) = logged(Format::Text, |log| {
            for number in 0..10_000 {
                warn(&format!("connection {number} refused"));
                tracing::debug!("every step");
            }
            tracing::error!("the disk is full");
            log.tell(Instant::now());
            assert!(!String::from_utf8(log.lock().out.clone()).unwrap().contains("more of these"), "not yet");
            log.tell(Instant::now() + INTERVAL);
            log.tell(Instant::now() + INTERVAL);
        });
        let of = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!((of("cannot be reached"), of("every step"), of("the disk is full")), (21, 10_000, 1), "{text}");
        let last = text.lines().last().unwrap();
        let end = "  WARN adit::logging::tests: and 9980 more of these, the last: \
            the registry cannot be reached: connection 9999 refused";
        assert!(last.ends_with(end), "{last}");
        assert_eq!(counts.written, [1, 21, 0, 10_000, 0]);
        assert_eq!(counts.withheld, [0, 9980, 0, 0, 0]);
    }

    #[test]
    fn an_interval_later_it_is_heard_again_and_the_number_comes_first() {
        let (text, _) = logged(Format::Text, |log| {
            for _ in 0..ALLOWANCE + 1 {
                warn("a");
            }
            log.tell(Instant::now() + INTERVAL);
            for _ in 0..ALLOWANCE {
                warn("b");
            }
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len() as u32, 2 * ALLOWANCE + 1);
        assert!(lines[ALLOWANCE as usize].contains("and one more of these"), "{text}");
    }

    #[test]
    fn json_is_an_object_on_a_line_whatever_is_said() {
        let (text, _) = logged(Format::Json, |_| {
            tracing::error!(count = 3, cause = "no \"answer\"", is_bad = true, "two\nlines \u{1b}[2J");
        });
        assert_eq!(text.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&object["level"], &object["target"]), (&"error".into(), &"adit::logging::tests".into()));
        assert_eq!(object["message"], "two\nlines \u{1b}[2J");
        assert_eq!(object["fields"], serde_json::json!({ "count": 3, "cause": "no \"answer\"", "is_bad": true }));
        assert!(humantime::parse_rfc3339(object["time"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn a_text_of_others_makes_no_lines_and_steers_no_terminal() {
        let (text, _) =
            logged(Format::Text, |_| tracing::warn!(name = "a\nb", "x\r\n2026-01-01 ERROR y\u{1b}[2J\u{9b}"));
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(text.trim_end_matches('\n').chars().all(|letter| !letter.is_control()), "{text:?}");
        assert!(text.ends_with("x\\r\\n2026-01-01 ERROR y\\u{1b}[2J\\u{9b} name=\"a\\nb\"\n"), "{text}");
    }

    #[test]
    fn a_log_level_that_is_none_is_wrong_usage() {
        for wrong in ["adit=loud", "banana", "info,banana", "adit"] {
            let failure = to_stderr(wrong, Format::Text).unwrap_err();
            assert!(
                failure.exit_code() == 2 && failure.sentence().contains("adit::network=debug"),
                "{wrong}: {failure}"
            );
        }
        for right in ["warn,adit=debug", "off", "WARN", ""] {
            assert!(to_stderr(right, Format::Text).is_ok(), "{right:?}");
        }
    }
}
