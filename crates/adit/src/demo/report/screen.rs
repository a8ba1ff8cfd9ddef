//! The terminal: lines as things happen, colour where somebody looks, one line of progress that is overwritten.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

/// Where the story is told.
#[derive(Debug)]
pub(in crate::demo) struct Screen {
    style: Style,
    silent: bool,
    live: bool,
    progress_shown: Cell<bool>,
}

impl Screen {
    /// Standard output; with `silent`, which is for `--json`, nothing is told.
    pub(in crate::demo) fn new(silent: bool) -> Self {
        let terminal = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { style: Style { colour }, silent, live: terminal && !silent, progress_shown: Cell::new(false) }
    }

    /// How to emphasise.
    pub(in crate::demo) fn style(&self) -> Style {
        self.style
    }

    /// Prints text of one or more lines. That nobody listens any more (a closed pipe) does not stop the demo, so that it still
    /// cleans up.
    pub(in crate::demo) fn say(&self, text: &str) {
        if !self.silent {
            self.clear_progress();
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    }

    /// Prints the heading of a part.
    pub(in crate::demo) fn heading(&self, number: usize, text: &str) {
        self.say(&format!("\n{}\n", self.style.bold(&format!("{number}  {text}"))));
    }

    /// Says what is being done, on a terminal only, until the next line is printed.
    pub(in crate::demo) fn progress(&self, text: &str) {
        if self.live {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\x1b[2K   {}", self.style.dim(text)).and_then(|()| out.flush());
            self.progress_shown.set(true);
        }
    }

    fn clear_progress(&self) {
        if self.progress_shown.take() {
            let _ = write!(io::stdout(), "\r\x1b[2K");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear_progress();
        let _ = io::stdout().flush();
    }
}

/// Emphasis by terminal escapes, or none. To be applied after padding: escapes have no width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::demo) struct Style {
    pub(in crate::demo) colour: bool,
}

impl Style {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For headings and for what matters most.
    pub(in crate::demo) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what can be skipped.
    pub(in crate::demo) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// For what is adit's.
    pub(in crate::demo) fn own(self, text: &str) -> String {
        self.wrap("36", text)
    }

    /// For crossings between kernel and user space, and for warnings.
    pub(in crate::demo) fn warm(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// For what came out well.
    pub(in crate::demo) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }
}
