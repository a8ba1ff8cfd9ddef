//! The terminal: lines as things happen, colour where somebody looks, one line of progress that is overwritten. That line goes to standard
//! error, so that it is also there while a program reads standard output.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

/// Where the story is told.
#[derive(Debug)]
pub(crate) struct Screen {
    style: Style,
    silent: bool,
    live: bool,
    progress_shown: Cell<bool>,
}

impl Screen {
    /// Standard output; with `silent`, which is for `--json`, nothing is told.
    pub(crate) fn new(silent: bool) -> Self {
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour =
            able && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let live = able && io::stderr().is_terminal();
        Self { style: Style { colour }, silent, live, progress_shown: Cell::new(false) }
    }

    /// How to emphasise.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Prints text of one or more lines. That nobody listens any more (a closed pipe) does not stop the run, so that it still
    /// cleans up.
    pub(crate) fn say(&self, text: &str) {
        if !self.silent {
            self.clear_progress();
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    }

    /// Prints the heading of a part.
    pub(crate) fn heading(&self, number: usize, text: &str) {
        self.say(&format!("\n{}\n", self.style.bold(&format!("{number}  {text}"))));
    }

    /// Says what is being done, on a terminal only, until the next line is printed.
    pub(crate) fn progress(&self, text: &str) {
        if self.live {
            let _ = write!(io::stderr(), "\r\x1b[2K   {}", self.style.dim(text));
            self.progress_shown.set(true);
        }
    }

    /// Takes the line of progress away.
    pub(crate) fn clear_progress(&self) {
        if self.progress_shown.take() {
            let _ = write!(io::stderr(), "\r\x1b[2K");
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
pub(crate) struct Style {
    pub(crate) colour: bool,
}

impl Style {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For headings and for what matters most.
    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what can be skipped.
    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// For what is adit's.
    pub(crate) fn own(self, text: &str) -> String {
        self.wrap("36", text)
    }

    /// For crossings between kernel and user space, and for warnings.
    pub(crate) fn warm(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// For what came out well.
    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }
}
