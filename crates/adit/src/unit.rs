//! The unit of systemd that starts a configuration, for what people are told to type (packaging/ has the units).

use std::path::{Path, PathBuf};

use crate::config;

/// Where units find configurations: `adit@NAME.service` in both, as `adit up NAME` does.
const PLACES: [&str; 2] = [PLACE, "/etc/wireguard"];
const PLACE: &str = "/etc/adit";

/// The configuration of the node of this host, which has a unit of its own.
const NODE: &str = "adit.toml";

/// Where systemd says that it is the one that runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Whether systemd runs here.
pub fn is_booted() -> bool {
    Path::new(BOOTED).is_dir()
}

/// The unit that starts just this configuration, if there is one.
pub fn of_file(config: &Path) -> Option<String> {
    let place = config.parent()?;
    let name = config.file_stem()?.to_str()?;
    if place == Path::new(PLACE) && config.file_name()? == NODE {
        return Some("adit.service".into());
    }
    let ending = config.extension()?;
    let is_found = PLACES.iter().any(|known| place == Path::new(known)) && (ending == "toml" || ending == "conf");
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    (is_found && is_plain).then(|| format!("adit@{name}.service"))
}

/// The configuration that has a device, where it is a usual one.
pub fn usual_file(device: &str) -> Option<PathBuf> {
    usual_file_in(Path::new(PLACE), device)
}

fn usual_file_in(place: &Path, device: &str) -> Option<PathBuf> {
    let files = [place.join(NODE), place.join(format!("{device}.toml")), place.join(format!("{device}.conf"))];
    files.into_iter().find(|file| config::device_name(file).is_ok_and(|name| name == device))
}

/// The unit that starts the daemon of a device, where its configuration is a usual one.
pub fn of_device(device: &str) -> Option<String> {
    of_file(&usual_file(device)?)
}

/// How the daemon of a device is started.
pub fn how_to_start(device: &str) -> String {
    match of_device(device) {
        Some(unit) => format!("`adit up`, or `systemctl start {unit}`"),
        None => "`adit up`".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_configuration_has_the_unit_that_finds_it() {
        for (file, unit) in [
            ("/etc/adit/adit.toml", Some("adit.service")),
            ("/etc/adit/lab.toml", Some("adit@lab.service")),
            ("/etc/wireguard/office.conf", Some("adit@office.service")),
            ("/etc/wireguard/adit.toml", Some("adit@adit.service")),
            ("/etc/adit/a b.toml", None),
            ("/etc/adit/lab", None),
            ("/root/adit.toml", None),
            ("", None),
        ] {
            assert_eq!(of_file(Path::new(file)).as_deref(), unit, "{file}");
        }
    }

    #[test]
    fn the_file_of_a_device_is_the_one_that_names_it() {
        let place = tempfile::tempdir().unwrap();
        let file = |device: &str| Some(usual_file_in(place.path(), device)?.file_name()?.to_str()?.to_owned());
        assert_eq!(file("adit0"), None);
        fs::write(place.path().join("adit1.toml"), "[device]\nname = \"adit1\"\n").unwrap();
        fs::write(place.path().join("adit2.toml"), "[device]\nname = \"other\"\n").unwrap();
        fs::write(place.path().join("adit.toml"), "[network]\nregistry = \"embedded\"\n").unwrap();
        assert_eq!(file("adit0").as_deref(), Some("adit.toml"));
        assert_eq!(file("adit1").as_deref(), Some("adit1.toml"));
        assert_eq!((file("adit2"), file("a/b")), (None, None));
    }
}
