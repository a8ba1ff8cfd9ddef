//! The file that says that resolvers were set, and how.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::way::Way;
use crate::{Failure, Result, files};

/// The file of one device.
#[derive(Debug)]
pub(super) struct Record(PathBuf);

impl Record {
    /// That of `device`.
    pub(super) fn of(device: &str, state_dir: &Path) -> Self {
        Self(state_dir.join(format!("{device}.dns")))
    }

    /// What was set; `None` if there is no file. One that cannot be understood is set aside.
    pub(super) fn read(&self) -> Result<Option<Way>> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(e) => return Err(self.failed("read", &e)),
        };
        if let Some(way) = Way::from_line(&text) {
            return Ok(Some(way));
        }
        let aside = self.0.with_extension("dns.damaged");
        tracing::warn!(
            "{} is damaged and was moved to {}: look whether DNS servers of a tunnel are still set",
            self.0.display(),
            aside.display()
        );
        fs::rename(&self.0, &aside).map_err(|e| self.failed("set aside", &e))?;
        Ok(None)
    }

    /// Replaces the record; it is on disk when this returns.
    pub(super) fn write(&self, way: &Way) -> Result<()> {
        files::replace(&self.0, way.line().as_bytes(), 0o644).map_err(|e| {
            self.failed("write", &e).with_remedy("make the directory writable, or choose another with --state-dir")
        })
    }

    /// Removes the record.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &e)),
            _ => Ok(()),
        }
    }

    fn failed(&self, verb: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot {verb} {}: {error}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_damaged_one_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::of("wg0", &directory.path().join("state"));
        assert_eq!(record.read().unwrap(), None);
        for way in [Way::Resolved, Way::Resolvconf { entry: "tun.wg0".into() }] {
            record.write(&way).unwrap();
            assert_eq!(record.read().unwrap(), Some(way.clone()));
            let text = fs::read(&record.0).unwrap();
            for cut in 0..text.len() {
                fs::write(&record.0, &text[..cut]).unwrap();
                assert_eq!(record.read().unwrap(), None, "{cut} bytes of {way:?}");
                assert!(fs::read_dir(directory.path().join("state")).unwrap().count() == 1, "set aside");
            }
        }
        record.remove().unwrap();
        record.remove().unwrap();
    }
}
