//! Ctrl-C: it arrives by a descriptor, is looked for between steps and while waiting, and ends the demo as a failure does.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use linux::poll::{Signals, readable};

use crate::{Failure, Result};

/// Looks for the signals that ask us to stop.
#[derive(Debug)]
pub(super) struct Watch {
    signals: Signals,
}

impl Watch {
    /// Takes SIGINT and SIGTERM out of normal delivery. To be called before the first thread starts.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { signals: Signals::termination()? })
    }

    /// Fails once a signal has arrived.
    pub(super) fn check(&self) -> Result<()> {
        match self.signals.take() {
            Some(_) => Err(Failure::failed("interrupted; everything was removed")),
            None => Ok(()),
        }
    }

    /// Waits that long; fails as soon as a signal arrives.
    pub(super) fn pause(&self, duration: Duration) -> Result<()> {
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
    pub(super) fn until<T>(
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
    pub(super) fn enter_or_signal(&self) -> Result<()> {
        let stdin = io::stdin();
        let mut open = true;
        loop {
            let typed = if open {
                let [typed, _] = readable([stdin.as_fd(), self.signals.as_fd()], None)?;
                typed
            } else {
                readable([self.signals.as_fd()], None)?;
                false
            };
            if self.signals.take().is_some() {
                return Ok(());
            }
            if typed {
                let mut byte = [0];
                match stdin.lock().read(&mut byte) {
                    Ok(1..) if byte == *b"\n" => return Ok(()),
                    Ok(1..) => {}
                    Ok(0) | Err(_) => open = false,
                }
            }
        }
    }
}
