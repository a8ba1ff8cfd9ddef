//! A configuration by name: `adit up office` is `/etc/adit/office.toml`, as `wg-quick up office` is `/etc/wireguard/office.conf`.

use std::path::{Path, PathBuf};

use crate::{Failure, Result};

/// Where files are looked for, and how they may end, in this order.
const PLACES: [&str; 2] = ["/etc/adit", "/etc/wireguard"];
const ENDINGS: [&str; 2] = ["toml", "conf"];

/// The file that is meant: what is a file, or could only be one, is itself; a mere name is the first file of that name in [`PLACES`].
///
/// # Errors
/// There is none of that name.
pub(super) fn file(typed: &Path) -> Result<PathBuf> {
    file_in(&PLACES.map(Path::new), typed)
}

fn file_in(places: &[&Path], typed: &Path) -> Result<PathBuf> {
    let is_name = typed.components().count() == 1 && typed.file_name().is_some();
    if !is_name || typed.exists() {
        return Ok(typed.into());
    }
    let candidates = places.iter().flat_map(|place| {
        ENDINGS.map(|ending| {
            // Not as an extension, which would take the place of another: `office.old` is a name too.
            let mut name = typed.as_os_str().to_owned();
            name.push(".");
            name.push(ending);
            place.join(name)
        })
    });
    if let Some(found) = candidates.clone().find(|path| path.exists()) {
        return Ok(found);
    }
    // Who typed an ending meant a file: it is missed under that name.
    if typed.extension().is_some_and(|typed| ENDINGS.iter().any(|ending| typed == *ending)) {
        return Ok(typed.into());
    }
    let looked: Vec<String> = candidates.map(|path| path.display().to_string()).collect();
    Err(Failure::usage(format!(
        "there is no configuration {}: no file of this name here, nor {}",
        typed.display(),
        looked.join(", ")
    ))
    .with_remedy("write one of these, or name a file by its path"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_is_looked_for_and_a_path_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let [ours, wireguard] = ["adit", "wireguard"].map(|name| directory.path().join(name));
        for path in [&ours, &wireguard] {
            fs::create_dir(path).unwrap();
        }
        let try_to = |typed: &str| file_in(&[&ours, &wireguard], Path::new(typed));
        let find = |typed: &str| try_to(typed).unwrap();
        let written = |path: PathBuf| {
            fs::write(&path, "").unwrap();
            path
        };
        let missed = try_to("office").unwrap_err();
        assert_eq!(missed.exit_code(), 2);
        for part in ["configuration office", "adit/office.toml, ", "adit/office.conf, ", "wireguard/office.conf"] {
            assert!(missed.sentence().contains(part), "{missed}");
        }
        assert_eq!(find("office.toml"), Path::new("office.toml"), "so that the error names what was typed");
        let last = written(wireguard.join("office.conf"));
        assert_eq!(find("office"), last);
        let second = written(ours.join("office.conf"));
        assert_eq!(find("office"), second);
        let first = written(ours.join("office.toml"));
        assert_eq!(find("office"), first);
        assert!(try_to("office.old").is_err());
        let old = written(ours.join("office.old.toml"));
        assert_eq!(find("office.old"), old);
        for path in ["./office", "a/office", "/office", "..", "/"] {
            assert_eq!(find(path), Path::new(path));
        }
    }
}
