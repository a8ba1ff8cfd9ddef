//! What a distribution ships beside the program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

use std::fs;
use std::path::Path;
use std::process::Command;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/adit@.service");
const ADIT: &str = env!("CARGO_BIN_EXE_adit");

fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    // It looks whether the program is there.
    let unit = fs::read_to_string(UNIT).unwrap().replace("/usr/bin/adit", ADIT);
    fs::write(directory.path().join("adit@.service"), &unit).unwrap();
    let verify = |name: &str| {
        let path = directory.path().join(name);
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(path);
        let output = command.output().expect("systemd-analyze is one of packaging/test-packages");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (understood, said) = verify("adit@office.service");
    assert!(understood && !said.contains("adit@"), "{said}");
    // And it would tell if it did not.
    fs::write(directory.path().join("adit@.service"), unit.replace("WatchdogSec=60s", "WatchdogSec=often")).unwrap();
    assert!(verify("adit@office.service").1.contains("often"));
}

#[test]
fn the_unit_calls_the_program_as_it_is_called() {
    let unit = fs::read_to_string(UNIT).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (key, word) in [("ExecStart", "up"), ("ExecReload", "reload")] {
        let [line] = &values(&unit, key)[..] else { panic!("one {key}") };
        let mut words = line.replace("%i", "no-such-tunnel").split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!((words.remove(0).as_str(), words[0].as_str()), ("/usr/bin/adit", word));
        let output = Command::new(ADIT).args(&words).current_dir(directory.path()).output().unwrap();
        // The command line is understood: what is missing is the file.
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no-such-tunnel: the configuration cannot be read"), "{said}");
    }
}

#[test]
fn the_unit_gives_what_a_daemon_needs_and_tells_the_watchdog() {
    let unit = fs::read_to_string(UNIT).unwrap();
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "DeviceAllow"), ["/dev/net/tun rw"]);
    let capabilities = values(&unit, "CapabilityBoundingSet").join(" ");
    assert!(capabilities.contains("CAP_NET_ADMIN") && !capabilities.contains("CAP_SYS_ADMIN"), "{capabilities}");
    assert_eq!(values(&unit, "RuntimeDirectory"), ["adit wireguard"]);
    assert!(values(&unit, "WatchdogSec").len() == 1 && Path::new(UNIT).exists());
}
