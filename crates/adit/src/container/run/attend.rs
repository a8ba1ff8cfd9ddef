//! Waiting for a program in the foreground: signals go on to it, and the terminal is lent to it.
//!
//! What somebody sends to us is passed on. What the terminal sends has reached the program already, since it is in the foreground: either its group
//! was put there, or it is in our group. But that a terminal is gone is told to the leader of its session alone, which we may be: that is passed on.
//!
//! The terminal is lent where input and output are the terminal: then a shell inside can manage its jobs. In a pipe (`adit run -- CMD | less`) all
//! stay in one group, so that our neighbours in the pipe keep the terminal too.

use std::io::{IsTerminal, Read, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus};

use linux::poll::readable;
use linux::sandbox::{self, Change, Signals, Terminal};

use crate::Result;

/// What a person who gives up sends: SIGHUP, SIGINT, SIGQUIT, SIGTERM.
const ENDING: [i32; 4] = [1, 2, 3, 15];
const SIGHUP: i32 = 1;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;

/// Who waits for a program in the foreground. The terminal is taken back when this is dropped.
pub(super) struct Attendant<'a> {
    signals: &'a Signals,
    /// Where it is lent: the terminal.
    terminal: Option<Terminal>,
}

impl<'a> Attendant<'a> {
    pub(super) fn new(signals: &'a Signals) -> Self {
        let is_all = stdin().is_terminal() && stdout().is_terminal();
        let terminal = Terminal::controlling().filter(|terminal| is_all && terminal.is_ours());
        Self { signals, terminal }
    }

    /// Whether the terminal will be lent to the program, which must lead a group of its own then.
    pub(super) fn lends(&self) -> bool {
        self.terminal.is_some()
    }

    /// Lends the terminal to the group of this child, if it is to be lent.
    pub(super) fn lend(&self, pid: u32) -> Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| terminal.lend(pid)).map_err(Into::into)
    }

    /// Lends the terminal to a program from its first instruction on, if it is to be lent: it may read at once.
    pub(super) fn lend_to(&self, command: &mut Command) {
        if let Some(terminal) = &self.terminal {
            terminal.lent_to(command);
        }
    }

    /// The number of a signal that somebody sent while there was no program yet to take it.
    pub(super) fn asked_to_end(&self) -> Option<u8> {
        while let Some(arrival) = self.signals.take() {
            if ENDING.contains(&arrival.number) {
                return u8::try_from(arrival.number).ok();
            }
        }
        None
    }

    /// Waits until a child ends. Where it is not the program itself but stands for it, `stops` becomes readable each time that the program was stopped.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn wait(&self, pid: u32, stops: Option<&UnixStream>) -> Result<ExitStatus> {
        let mut stops = stops;
        loop {
            while let Some((who, change)) = sandbox::reap() {
                match change {
                    Change::Ended(status) if who == pid => return Ok(status),
                    Change::Stopped if who == pid => self.pause(pid)?,
                    _ => {}
                }
            }
            let told = match stops {
                Some(socket) => {
                    let [_, told] = readable([self.signals.as_fd(), socket.as_fd()], None)?;
                    told
                }
                None => {
                    readable([self.signals.as_fd()], None)?;
                    false
                }
            };
            if let Some(mut socket) = stops.filter(|_| told) {
                match socket.read(&mut [0; 16]) {
                    Ok(0) | Err(_) => stops = None,
                    Ok(_) => self.pause(pid)?,
                }
            }
            self.pass_on(pid);
        }
    }

    /// Passes on what has arrived; answers whether somebody has continued us.
    fn pass_on(&self, pid: u32) -> bool {
        let mut continued = false;
        while let Some(arrival) = self.signals.take() {
            match arrival.number {
                SIGCHLD => {}
                SIGCONT => {
                    continued = true;
                    self.resume(pid);
                }
                // One that has ended in this moment needs no signal.
                number if arrival.sent || number == SIGHUP => {
                    let _ = sandbox::send(pid, false, number);
                }
                _ => {}
            }
        }
        continued
    }

    /// The program was stopped, by Ctrl-Z for example: so are we, until somebody continues us.
    fn pause(&self, pid: u32) -> Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let lent = terminal.is_lent_to(pid);
        if lent {
            terminal.take_back()?;
        }
        sandbox::stop_own_group()?;
        // Nobody was there to continue us, so the kernel has not stopped us: the program goes on too. One that was stopped because it may not use the
        // terminal would be stopped again at once.
        if !self.pass_on(pid) && lent {
            self.resume(pid);
        }
        Ok(())
    }

    /// The program goes on; in the foreground, if that is where we are.
    fn resume(&self, pid: u32) {
        let Some(terminal) = &self.terminal else { return };
        if terminal.is_ours() {
            let _ = terminal.lend(pid);
        }
        let _ = sandbox::send(pid, true, SIGCONT);
    }
}

impl Drop for Attendant<'_> {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            // Where it is gone, there is nothing to take.
            let _ = terminal.take_back();
        }
    }
}
