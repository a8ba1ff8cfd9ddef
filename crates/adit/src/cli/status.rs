//! `adit status`

use std::{
    io::{self, IsTerminal},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{Places, output};
use crate::{
    Failure, Result,
    api::{self, CallError, Status},
    config, observe,
};

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
Examples:
  adit status                                  all daemons of this host
  adit status --device adit0 --watch           one of them, again each second
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

    /// Show again each second, with rates
    #[arg(long)]
    watch: bool,

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
        if self.watch { self.watch() } else { self.once() }
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
    fn watch(&self) -> Result<()> {
        let redraw = !self.json && io::stdout().is_terminal();
        let mut before: Option<(Instant, Vec<Found>)> = None;
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
            let text: Vec<String> = found
                .iter()
                .map(|found| match &found.answer {
                    _ if self.json => json(found),
                    Ok(status) if redraw => observe::status::render_rates(past(&found.device), status, elapsed),
                    Ok(status) => line(&observe::status::rates_line(past(&found.device), status, elapsed)),
                    Err(_) if redraw => text(found),
                    Err(error) => line(&format!("{}  {error}", found.device)),
                })
                .collect();
            let text = match (redraw, text.is_empty()) {
                (true, true) => screen("no adit daemon is running\n"),
                (true, false) => screen(&text.join("\n")),
                (false, _) => text.concat(),
            };
            if !output::print(&text)? {
                return Ok(());
            }
            before = Some((now, found));
            thread::sleep(PERIOD.saturating_sub(now.elapsed()));
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
            return Err(Failure::failed(format!(
                "no adit daemon is running in {}: start one with `adit up --config FILE`",
                runtime_dir.display()
            )));
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
    let object = match &found.answer {
        Ok(status) => {
            serde_json::to_string(status).unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string())
        }
        Err(error) => json!({ "device": { "name": found.device }, "error": error.to_string() }).to_string(),
    };
    object + "\n"
}

fn line(text: &str) -> String {
    format!("{}  {}\n", humantime::format_rfc3339_seconds(SystemTime::now()), observe::table::clean(text))
}

/// Draws over what is there, line by line, so that nothing flickers (ECMA-48: CUP, EL, ED).
fn screen(text: &str) -> String {
    format!("\u{1b}[H{}\u{1b}[J", text.replace('\n', "\u{1b}[K\n"))
}
