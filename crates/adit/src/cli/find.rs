//! A configuration by name: `adit up office` is `/etc/adit/office.toml`, as `wg-quick up office` is `/etc/wireguard/office.conf`.

use std::path::{Path, PathBuf};

/// Where files are looked for, and how they may end, in this order.
const PLACES: [&str; 2] = ["/etc/adit", "/etc/wireguard"];
const ENDINGS: [&str; 2] = ["toml", "conf"];

/// The file that is meant: what is a file, or could only be one, is itself; a mere name is the first file of that name in [`PLACES`].
pub(super) fn file(typed: &Path) -> PathBuf {
    file_in(&PLACES.map(Path::new), typed)
}

fn file_in(places: &[&Path], typed: &Path) -> PathBuf {
    let is_name = typed.components().count() == 1 && typed.file_name().is_some();
    if !is_name || typed.exists() {
        return typed.into();
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
    candidates.into_iter().find(|path| path.exists()).unwrap_or_else(|| typed.into())
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
        let find = |typed: &str| file_in(&[&ours, &wireguard], Path::new(typed));
        let written = |path: PathBuf| {
            fs::write(&path, "").unwrap();
            path
        };
        assert_eq!(find("office"), Path::new("office"), "so that the error names what was typed");
        let last = written(wireguard.join("office.conf"));
        assert_eq!(find("office"), last);
        let second = written(ours.join("office.conf"));
        assert_eq!(find("office"), second);
        let first = written(ours.join("office.toml"));
        assert_eq!(find("office"), first);
        assert_eq!(find("office.old"), Path::new("office.old"));
        let old = written(ours.join("office.old.toml"));
        assert_eq!(find("office.old"), old);
        for path in ["./office", "a/office", "/office", "..", "/"] {
            assert_eq!(find(path), Path::new(path));
        }
    }
}
