//! Kernel settings under `/proc/sys`.
//!
//! A setting is named by its components, not by a dotted string, because device names may contain dots. Those below `net` are
//! the settings of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::{Error, Result};

/// Reads a setting, without the line end: `get(&["net", "ipv4", "ip_forward"])`.
pub fn get(components: &[&str]) -> Result<String> {
    let operation = || format!("read {}", components.join("."));
    let text = fs::read_to_string(path_of(components, operation)?).map_err(|source| Error::new(operation(), source))?;
    Ok(text.trim_end().to_owned())
}

/// Changes a setting: `set(&["net", "ipv4", "conf", "adit0", "rp_filter"], "2")`.
pub fn set(components: &[&str], value: &str) -> Result<()> {
    let operation = || format!("set {} to {value}", components.join("."));
    fs::write(path_of(components, operation)?, value).map_err(|source| {
        let read_only = source.kind() == io::ErrorKind::ReadOnlyFilesystem;
        let error = Error::new(operation(), source);
        if read_only {
            error.with_detail("/proc/sys is mounted read-only, as in an unprivileged container")
        } else {
            error
        }
    })
}

fn path_of(components: &[&str], operation: impl Fn() -> String) -> Result<PathBuf> {
    let sound = |component: &&str| {
        !component.is_empty() && !matches!(*component, "." | "..") && !component.contains(['/', '\0'])
    };
    if components.is_empty() || !components.iter().all(sound) {
        return Err(Error::from_errno(operation(), libc::EINVAL).with_detail("this is not the name of a setting"));
    }
    Ok(std::iter::once("/proc/sys").chain(components.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_without_its_line_end() {
        assert_eq!(get(&["kernel", "ostype"]).unwrap(), "Linux");
    }

    #[test]
    fn nothing_outside_is_reached() {
        for components in
            [&[][..], &[""], &[".."], &["net", "..", "..", "cpuinfo"], &["kernel/ostype"], &["kernel", "os\0type"]]
        {
            assert_eq!(get(components).unwrap_err().errno(), Some(libc::EINVAL), "{components:?}");
            assert_eq!(set(components, "1").unwrap_err().errno(), Some(libc::EINVAL), "{components:?}");
        }
    }

    #[test]
    fn errors_name_setting_and_value() {
        let error = set(&["net", "nothing"], "7").unwrap_err();
        assert_eq!(error.operation(), "set net.nothing to 7");
    }
}
