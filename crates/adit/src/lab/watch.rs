//! Ctrl-C: it arrives by a descriptor, is looked for between steps and while waiting, and ends a run as a failure does.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use linux::poll::{Signals, readable};

use crate::{Failure, Result};

/// Looks for the signals that ask us to stop.
#[derive(Debug)]
pub(crate) struct Watch {
    signals: Signals,
    /// A signal comes once, and is to end every step that is still to come.
    came: Cell<bool>,
}

impl Watch {
    /// Takes SIGINT and SIGTERM out of normal delivery. To be called before the first thread starts.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { signals: Signals::termination()?, came: Cell::new(false) })
    }

    /// Fails once a signal has arrived.
    pub(crate) fn check(&self) -> Result<()> {
        if self.signals.take().is_some() {
            self.came.set(true);
        }
        if self.came.get() { Err(Failure::failed("interrupted")) } else { Ok(()) }
    }

    /// Waits that long; fails as soon as a signal arrives.
    pub(crate) fn pause(&self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        loop {
            self.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            readable([self.signals.as_fd()], Some(left))?;
        }
    }

    /// Asks `condition` again and again until it has something; `None` after `limit`.
    pub(crate) fn until<T>(
        &self,
        limit: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = condition()? {
                return Ok(Some(value));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.pause(Duration::from_millis(5))?;
        }
    }

    /// Waits for a line on standard input or for a signal, whichever comes first; neither is a failure here. Where standard
    /// input has nothing to give, only a signal ends the wait.
    pub(crate) fn enter_or_signal(&self) -> Result<()> {
        // Not by `io::stdin()`: what its buffer had taken in would not be seen by waiting for the descriptor.
        let mut stdin = io::stdin().as_fd().try_clone_to_owned().ok().map(File::from);
        loop {
            let typed = match &stdin {
                Some(open) => readable([open.as_fd(), self.signals.as_fd()], None)?.first().copied().unwrap_or(false),
                None => readable([self.signals.as_fd()], None).map(|_| false)?,
            };
            if self.signals.take().is_some() {
                return Ok(());
            }
            let mut buffer = [0; 256];
            match stdin.as_mut().filter(|_| typed).map(|open| open.read(&mut buffer)) {
                Some(Ok(length @ 1..)) if buffer.get(..length).unwrap_or_default().contains(&b'\n') => return Ok(()),
                Some(Ok(1..)) | None => {}
                Some(Ok(0) | Err(_)) => stdin = None,
            }
        }
    }
}
