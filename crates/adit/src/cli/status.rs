//! `adit status`

use std::{
    io::{self, IsTerminal},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use linux::{
    poll::{Signals, readable},
    terminal,
};
use serde_json::{Value, json};

use super::{Places, down, output};
use crate::{
    Failure, Result,
    api::{self, CallError, START, Status},
    config,
    observe::{self, watch},
};

/// What is said where there was a daemon and is none.
const NOBODY: &str = "no adit daemon is running";

/// Rows and columns of a terminal that does not say how large it is.
const USUAL_SIZE: (usize, usize) = (24, 80);

const AFTER_HELP: &str = "\
Examples:
  adit status                                  all daemons of this host
  adit status --device adit0 --watch           one of them, again each second
  adit status --watch 10 >> rates              a line each ten seconds
  adit status --json | jq '.peers[].rx_bytes'  for programs; docs/STATUS.md has all fields";

/// Show daemons, their peers, and what they moved and dropped
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Only the daemon of this device
    #[arg(long, value_name = "NAME")]
    device: Option<String>,

    /// Print one JSON object per daemon and line
    #[arg(long)]
    json: bool,

    /// Show again each second, or as often as said, with rates
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = period)]
    watch: Option<Duration>,

    #[command(flatten)]
    places: Places,
}

/// One daemon, or why it does not answer.
struct Found {
    device: String,
    answer: std::result::Result<Status, CallError>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<()> {
        if let Some(device) = &self.device {
            config::check_device(device).map_err(|fault| Failure::usage(format!("{device:?} {fault}")))?;
        }
        match self.watch {
            Some(period) => self.watch(period),
            None => self.once(),
        }
    }

    fn once(&self) -> Result<()> {
        let mut found = self.look()?;
        if !self.json && found.len() == 1 && found.iter().any(|found| found.answer.is_err()) {
            // Its sentence says it all.
            return found.remove(0).answer.map(drop).map_err(Failure::from);
        }
        let text: Vec<String> = found.iter().map(|found| if self.json { json(found) } else { text(found) }).collect();
        output::print(&text.join(if self.json { "" } else { "\n" }))?;
        match found.into_iter().find_map(|found| found.answer.err()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Until the reader leaves or Ctrl-C.
    fn watch(&self, period: Duration) -> Result<()> {
        // A frame is drawn whole before the end: what comes next on the terminal stands below it.
        let signals = (!self.json && io::stdout().is_terminal()).then(Signals::termination).transpose()?;
        let mut before: Option<(Instant, Vec<Found>)> = None;
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            let found = match self.look() {
                // What ran when we began may come back.
                Err(_) if before.is_some() => Vec::new(),
                found => found?,
            };
            let elapsed = before.as_ref().map_or(Duration::ZERO, |(then, _)| now.duration_since(*then));
            let past = |device: &str| {
                let (_, past) = before.as_ref()?;
                past.iter().find(|past| past.device == device)?.answer.as_ref().ok()
            };
            let text = if signals.is_some() {
                let parts = found.iter().map(|found| match &found.answer {
                    Ok(status) => watch::render_rates(past(&found.device), status, elapsed),
                    Err(_) => text(found),
                });
                let parts: Vec<String> = parts.collect();
                let all = if parts.is_empty() { NOBODY.to_owned() + "\n" } else { parts.join("\n") };
                let size = terminal::size(io::stdout().as_fd()).unwrap_or(USUAL_SIZE);
                watch::frame(&all, size, before.is_none())
            } else if found.is_empty() {
                if self.json { timed(json!({ "error": NOBODY })) } else { line(NOBODY) }
            } else {
                let line = |found: &Found| match &found.answer {
                    _ if self.json => timed(object(found)),
                    Ok(status) => line(&watch::rates_line(past(&found.device), status, elapsed)),
                    Err(error) => line(&format!("{}  {error}", found.device)),
                };
                found.iter().map(line).collect()
            };
            if !output::print(&text)? {
                return Ok(());
            }
            before = Some((now, found));
            due = (due + period).max(Instant::now());
            let rest = due.saturating_duration_since(Instant::now());
            match &signals {
                None => thread::sleep(rest),
                Some(signals) => {
                    let [came] = readable([signals.as_fd()], Some(rest))?;
                    if came && signals.take().is_some() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Asks the daemons. At least one is found.
    fn look(&self) -> Result<Vec<Found>> {
        let runtime_dir = &self.places.runtime_dir;
        let devices = match &self.device {
            Some(device) => vec![device.clone()],
            None => api::daemons(runtime_dir)?,
        };
        if devices.is_empty() {
            return Err(down::nobody(runtime_dir, START));
        }
        let mut found = Vec::with_capacity(devices.len());
        for device in devices {
            match api::status(runtime_dir, &device) {
                // A daemon may end between being listed and being asked; one that was named is missed.
                Err(CallError::Absent(_)) if self.device.is_none() => {}
                Err(error @ CallError::Absent(_)) => return Err(error.into()),
                answer => found.push(Found { device, answer }),
            }
        }
        Ok(found)
    }
}

fn text(found: &Found) -> String {
    match &found.answer {
        Ok(status) => observe::status::render(status),
        Err(CallError::Dead(_)) => format!("{}  down: its daemon was killed\n", found.device),
        Err(_) => format!("{}  does not answer\n", found.device),
    }
}

fn json(found: &Found) -> String {
    // In the order of the documentation.
    let text = found.answer.as_ref().ok().and_then(|status| serde_json::to_string(status).ok());
    text.unwrap_or_else(|| object(found).to_string()) + "\n"
}

fn object(found: &Found) -> Value {
    match &found.answer {
        Ok(status) => serde_json::to_value(status).unwrap_or_else(|error| json!({ "error": error.to_string() })),
        Err(error) => json!({ "device": { "name": found.device }, "error": error.to_string() }),
    }
}

/// A line of a series, which says when it was.
fn timed(mut object: Value) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(object) = object.as_object_mut() {
        object.insert("time_s".into(), (since.as_millis() as f64 / 1000.0).into());
    }
    object.to_string() + "\n"
}

fn line(text: &str) -> String {
    format!("{}  {}\n", humantime::format_rfc3339_seconds(SystemTime::now()), observe::table::clean(text))
}

/// A time between two looks.
fn period(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write a number of seconds from 0.1 to 86400".to_owned())
}
