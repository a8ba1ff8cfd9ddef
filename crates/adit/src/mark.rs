//! The file that keeps a daemon's timestamps from going back: see [`tunnel::stamp`].
//!
//! One line: the mark in nanoseconds since 1970, then `adit`, so that half a number is no number. It is the one file that outlives a clean
//! stop: without it, a key that was used while the clock was ahead would be refused by its peers until their clocks get there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Failure, Result, files};

/// The file of one device.
#[derive(Debug)]
pub struct MarkFile(PathBuf);

/// What ends the line.
const END: &str = " adit\n";

impl MarkFile {
    /// That of `device`.
    pub fn of(device: &str, state_dir: &Path) -> Self {
        Self(state_dir.join(format!("{device}.mark")))
    }

    /// The mark; zero if there is none. One that cannot be understood is set aside, and answered as none.
    ///
    /// # Errors
    /// The file is there and cannot be read or set aside.
    pub fn read(&self) -> Result<Duration> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Duration::ZERO),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(e) => return Err(self.failed("read", &e)),
        };
        if let Some(nanos) = text.strip_suffix(END).and_then(|number| number.parse().ok()) {
            return Ok(Duration::from_nanos(nanos));
        }
        let aside = self.0.with_extension("mark.damaged");
        tracing::warn!("{} is damaged and was moved to {}", self.0.display(), aside.display());
        fs::rename(&self.0, &aside).map_err(|e| self.failed("set aside", &e))?;
        Ok(Duration::ZERO)
    }

    /// Replaces the mark; it is on disk when this returns.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn write(&self, mark: Duration) -> Result<()> {
        let nanos = u64::try_from(mark.as_nanos()).unwrap_or(u64::MAX);
        files::replace(&self.0, format!("{nanos}{END}").as_bytes(), 0o644).map_err(|e| {
            self.failed("write", &e).with_remedy("make the directory writable, or choose another with --state-dir")
        })
    }

    fn failed(&self, verb: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot {verb} {}: {error}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_half_a_mark_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = MarkFile::of("adit0", &directory.path().join("state"));
        assert_eq!(file.read().unwrap(), Duration::ZERO);
        let mark = Duration::from_nanos(1_795_000_000_123_456_789);
        file.write(Duration::from_secs(1)).unwrap();
        file.write(mark).unwrap();
        assert_eq!(file.read().unwrap(), mark);
        let text = fs::read(&file.0).unwrap();
        for damaged in (0..text.len()).map(|cut| text[..cut].to_vec()).chain([b"\xff adit\n".to_vec()]) {
            fs::write(&file.0, damaged).unwrap();
            assert_eq!(file.read().unwrap(), Duration::ZERO);
            assert!(!file.0.exists() && file.0.with_extension("mark.damaged").exists());
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("file");
        fs::write(&blocked, "").unwrap();
        let error = MarkFile::of("adit0", &blocked.join("state")).write(Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
