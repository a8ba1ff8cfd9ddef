//! The process that may capture. It is started before the daemon gives its rights up, keeps CAP_NET_RAW and nothing else, and answers the
//! daemon over a socket that is its standard input. While nobody traces it has no other socket open and sleeps.
//!
//! What it is asked is `length (u32) | JSON` each way, one question and its answers at a time. Lengths, records and times are bounded on both
//! sides: neither believes the other more than it must.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use linux::poll::readable;
use linux::privilege::{self, Capability};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::capture::{Collected, Run, Watch};
use super::observation::{Fact, Observation};
use super::probe::Sought;
use crate::{Failure, Result};

/// The verb of the program that is this process; hidden, since nobody types it.
pub const VERB: &str = "capture";

/// The longest message either way, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// Observations in one answer: at most 1,000 bytes each.
const PART: usize = 512;

/// How long the daemon waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest time that anything is captured.
pub(super) const LONGEST: Duration = Duration::from_secs(10);

/// How long what was captured is kept after that.
const KEEP: Duration = Duration::from_secs(20);

/// What the daemon asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// Capture these probes, and the headers of datagrams from and to this port, for so many milliseconds.
    Arm { sought: Sought, port: u16, ms: u64 },
    /// Say what was captured: the part with this number, of sealed datagrams those of these runs.
    Collect { wanted: Vec<Run>, part: usize },
    /// Forget it.
    Disarm,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tell {
    Done,
    Refused { sentence: String },
    Part { observations: Vec<Observation>, facts: Vec<Fact>, about_datagrams: Vec<Fact>, lost: u64, more: bool },
}

/// The daemon's end.
#[derive(Debug)]
pub struct Helper {
    stream: Mutex<Option<UnixStream>>,
    child: Child,
}

impl Helper {
    /// Starts the process. To be called while the daemon has the rights that it keeps.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        // This very program, also after the file was replaced by another version.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("adit").args([VERB, "--stdin"]).env_clear();
        // Whoever waits until a daemon has closed its streams does not wait for this one.
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        Ok(Self { stream: Mutex::new(Some(ours)), child })
    }

    /// Begins to capture, instead of what was captured before.
    ///
    /// # Errors
    /// It may not, or the process is gone.
    pub(super) fn arm(&self, sought: Sought, port: u16, time: Duration) -> Result<()> {
        let ms = u64::try_from(time.min(LONGEST).as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Ask::Arm { sought, port, ms })? {
            Tell::Done => Ok(()),
            Tell::Refused { sentence } => Err(Failure::failed(sentence)),
            _ => Err(unexpected()),
        }
    }

    /// All that was captured.
    ///
    /// # Errors
    /// The process is gone.
    pub(super) fn collect(&self, wanted: &[Run]) -> Result<Collected> {
        let mut all = Collected { observations: Vec::new(), facts: Vec::new(), about_datagrams: Vec::new(), lost: 0 };
        for part in 0..=super::capture::MAX_OBSERVATIONS / PART {
            let Tell::Part { observations, facts, about_datagrams, lost, more } =
                self.ask(&Ask::Collect { wanted: wanted.to_vec(), part })?
            else {
                return Err(unexpected());
            };
            all.observations.extend(observations);
            (all.facts, all.about_datagrams, all.lost) = (facts, about_datagrams, lost);
            if !more {
                break;
            }
        }
        Ok(all)
    }

    /// Ends capturing, and forgets what was captured.
    pub(super) fn disarm(&self) {
        if let Err(failure) = self.ask(&Ask::Disarm) {
            tracing::debug!("{failure}");
        }
    }

    fn ask(&self, ask: &Ask) -> Result<Tell> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: &io::Error| Failure::failed(format!("the process that captures does not answer: {error}"));
        let Some(open) = stream.as_mut() else {
            return Err(gone(&io::ErrorKind::BrokenPipe.into()).with_remedy("restart adit to have another"));
        };
        let answer = write_message(open, ask).and_then(|()| read_message(open));
        match answer {
            Ok(Some(tell)) => Ok(tell),
            outcome => {
                // An answer that comes too late would be taken for that of the next question.
                *stream = None;
                Err(gone(&outcome.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
                    .with_remedy("restart adit to have another"))
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends with the connection.
        *self.stream.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.child.wait();
    }
}

fn unexpected() -> Failure {
    Failure::failed("the process that captures answered something else")
}

fn write_message(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX_MESSAGE);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    to.write_all(&[&length.to_le_bytes()[..], &text].concat())
}

/// The next message; none where the other end has closed.
fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// What the process does: gives up all rights but one, and serves whoever is at the other end of its standard input until that is closed.
///
/// # Errors
/// It was not started by a daemon.
pub fn serve() -> Result<()> {
    let failed = |error: io::Error| {
        Failure::usage(format!("adit {VERB} is started by adit up, not by hand: standard input is no socket: {error}"))
    };
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut stream = UnixStream::from(input);
    stream.peer_addr().map_err(failed)?;
    // A test bed may not let us; then we keep what we have, as the daemon does.
    let limited = privilege::keep_capabilities(&[Capability::NetRaw])
        .and_then(|()| privilege::forbid_new_privileges())
        .and_then(|()| privilege::forbid_dumps());
    if let Err(error) = limited {
        tracing::warn!("{error}; capturing with more rights than needed");
    }
    let mut armed: Option<Armed> = None;
    loop {
        let now = Instant::now();
        armed = armed.filter(|armed| now < armed.forget);
        if let Some(armed) = armed.as_mut().filter(|armed| now >= armed.until) {
            armed.watch.end();
        }
        let open = armed.as_ref().and_then(|armed| Some((armed.watch.capture()?, armed.until)));
        let asked = match (&armed, open) {
            (_, Some((capture, until))) => {
                let [asked, passed] =
                    readable([stream.as_fd(), capture.as_fd()], Some(until.saturating_duration_since(now)))?;
                if passed && let Some(armed) = &mut armed {
                    armed.watch.look();
                }
                asked
            }
            (Some(Armed { forget, .. }), None) => {
                let [asked] = readable([stream.as_fd()], Some(forget.saturating_duration_since(now)))?;
                asked
            }
            (None, None) => readable([stream.as_fd()], None)? == [true],
        };
        if asked {
            match read_message::<Ask>(&mut stream) {
                Ok(Some(ask)) => {
                    let tell = answer(ask, &mut armed);
                    if write_message(&mut stream, &tell).is_err() {
                        return Ok(());
                    }
                }
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }
}

struct Armed {
    watch: Watch,
    until: Instant,
    forget: Instant,
    /// As it is handed out in parts.
    collected: Option<Collected>,
}

fn answer(ask: Ask, armed: &mut Option<Armed>) -> Tell {
    match ask {
        Ask::Arm { sought, port, ms } => match Watch::open(sought, port) {
            Ok(watch) => {
                let until = Instant::now() + Duration::from_millis(ms).min(LONGEST);
                *armed = Some(Armed { watch, until, forget: until + KEEP, collected: None });
                Tell::Done
            }
            Err(error) => Tell::Refused { sentence: error.to_string() },
        },
        Ask::Collect { wanted, part } => {
            let (observations, facts, about_datagrams) = (Vec::new(), Vec::new(), Vec::new());
            let nothing = Tell::Part { observations, facts, about_datagrams, lost: 0, more: false };
            let Some(Armed { watch, collected, .. }) = armed else { return nothing };
            if part == 0 {
                *collected = Some(watch.collect(&wanted));
            }
            let Some(collected) = collected else { return nothing };
            let (first, last) = (part.saturating_mul(PART), part.saturating_add(1).saturating_mul(PART));
            Tell::Part {
                observations: collected.observations.iter().skip(first).take(PART).cloned().collect(),
                facts: collected.facts.clone(),
                about_datagrams: collected.about_datagrams.clone(),
                lost: collected.lost,
                more: collected.observations.len() > last,
            }
        }
        Ask::Disarm => {
            *armed = None;
            Tell::Done
        }
    }
}
