//! What a distribution ships beside the program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging");
const ADIT: &str = env!("CARGO_BIN_EXE_adit");

/// Both units, with the instance that is verified.
const UNITS: [(&str, &str); 2] = [("adit.service", "adit.service"), ("adit@.service", "adit@office.service")];

/// What systemd makes of a unit that keeps as little as a daemon needs, port 53 among it, and sees the processes of others, by which live containers are told
/// from abandoned ones, and may capture for traces (CAP_NET_RAW, AF_PACKET): beyond it an option was lost.
const EXPOSURE: f64 = 2.5;
/// That of the server for Docker, which is started beside a node's.
const DOCKER: &str = "adit-docker.service";

fn packaged(name: &str) -> String {
    fs::read_to_string(Path::new(PACKAGING).join(name)).unwrap()
}

fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

/// Runs a program to its end, which is to succeed; answers what it prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is one of packaging/test-packages: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let verify = |name: &str| {
        let path = directory.path().join(name);
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(path);
        let output = command.output().expect("systemd-analyze is one of packaging/test-packages");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for (name, instance) in UNITS.into_iter().chain([(DOCKER, DOCKER)]) {
        // It looks whether the program is there.
        let unit = packaged(name).replace("/usr/bin/adit", ADIT);
        fs::write(directory.path().join(name), &unit).unwrap();
        let (understood, said) = verify(instance);
        assert!(understood && !said.contains("adit@") && !said.contains(name), "{said}");
        // And it would tell if it did not.
        fs::write(directory.path().join(name), unit.replace("RestartSec=500ms", "RestartSec=often")).unwrap();
        assert!(verify(instance).1.contains("often"));
    }
}

#[test]
fn the_units_expose_no_more_than_a_daemon_needs() {
    for name in UNITS.map(|(name, _)| name).into_iter().chain([DOCKER]) {
        let path = Path::new(PACKAGING).join(name);
        let report = run("systemd-analyze", &["security", "--offline=true", "--no-pager", path.to_str().unwrap()]);
        let (_, level) = report.rsplit_once("Overall exposure level").unwrap();
        let level: f64 = level.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(level <= EXPOSURE, "{name}: {report}");
        // Whoever is not shown processes cannot tell that a container's has ended.
        assert!(values(&packaged(name), "ProtectProc").is_empty(), "{name}");
    }
}

#[test]
fn the_units_call_the_program_as_it_is_called() {
    let directory = tempfile::tempdir().unwrap();
    for (name, _) in UNITS {
        let unit = packaged(name);
        for (key, word) in [("ExecStart", "up"), ("ExecReload", "reload")] {
            let [line] = &values(&unit, key)[..] else { panic!("one {key}") };
            let line = line.replace("%i", "no-such-tunnel").replace("/etc/adit/adit.toml", "no-such-tunnel");
            let mut words = line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            assert_eq!((words.remove(0).as_str(), words[0].as_str()), ("/usr/bin/adit", word));
            let output = Command::new(ADIT).args(&words).current_dir(directory.path()).output().unwrap();
            // The command line is understood: what is missing is the file.
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("there is no configuration no-such-tunnel"), "{said}");
        }
    }
}

#[test]
fn the_units_give_what_a_daemon_needs_and_tell_the_watchdog() {
    for (name, _) in UNITS {
        let unit = packaged(name);
        assert_eq!(values(&unit, "Type"), ["notify"]);
        assert_eq!(values(&unit, "DeviceAllow"), ["/dev/net/tun rw"]);
        assert_eq!(values(&unit, "CapabilityBoundingSet"), ["CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW"]);
        assert!(values(&unit, "RestrictAddressFamilies")[0].contains("AF_PACKET"), "for traces");
        assert_eq!(values(&unit, "RuntimeDirectory"), ["adit wireguard"]);
        assert_eq!(values(&unit, "StateDirectory"), ["adit"]);
        assert_eq!(values(&unit, "Group"), ["adit"]);
        assert_eq!(values(&unit, "WatchdogSec").len(), 1);
        // Settings of devices, beside those that are protected.
        let writable = values(&unit, "ReadWritePaths").join(" ");
        assert!(writable.split(' ').any(|path| path == "/proc/sys/net"), "{writable}");
        // What stops a daemon is a signal: a node stays where it is, a tunnel from a file goes.
        assert!(values(&unit, "ExecStop").is_empty() && values(&unit, "KillSignal").is_empty());
    }
}

#[test]
fn the_unit_for_docker_starts_the_server_before_the_engine() {
    let unit = packaged(DOCKER);
    assert_eq!(values(&unit, "ExecStart"), ["/usr/bin/adit docker-plugin"]);
    assert_eq!(
        (values(&unit, "Type"), values(&unit, "Before")),
        (vec!["notify".into()], vec!["docker.service".into()])
    );
    assert!(Command::new(ADIT).args(["docker-plugin", "--help"]).output().unwrap().status.success());
}

#[test]
fn others_are_kept_off_our_devices() {
    let networkd = packaged("networkd/10-adit.network");
    assert_eq!((values(&networkd, "Name"), values(&networkd, "Unmanaged")), (vec!["adit*".into()], vec!["yes".into()]));
    let manager = packaged("NetworkManager/10-adit.conf");
    assert!(manager.contains("[keyfile]\nunmanaged-devices+=interface-name:adit*\n"), "{manager}");
    // What a device and a bridge are called if nobody says.
    let config = tempfile::NamedTempFile::new().unwrap();
    assert!(adit::config::device_name(config.path()).unwrap().starts_with("adit"));
    for device in ["adit0", "adit1", "office", "headquarters"] {
        assert!(adit::config::Network::bridge_of(device).starts_with("adit"));
    }
}

#[test]
fn the_group_is_made() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let file = Path::new(PACKAGING).join("sysusers.d/adit.conf");
    run("systemd-sysusers", &[&format!("--root={}", root.path().display()), file.to_str().unwrap()]);
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    assert!(groups.lines().any(|line| line.starts_with("adit:x:")), "{groups}");
    assert!(!root.path().join("etc/passwd").exists());
}

/// A package of the program under test; answers where it is.
fn build(directory: &Path) -> PathBuf {
    let script = Path::new(PACKAGING).join("build");
    let said = run(script.to_str().unwrap(), &["--binary", ADIT, "--output", directory.to_str().unwrap()]);
    let [program, package] = &said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!(Path::new(program), directory.join("adit"));
    PathBuf::from(package)
}

#[test]
fn the_package_holds_what_is_to_be_installed() {
    let directory = tempfile::tempdir().unwrap();
    let package = build(directory.path());
    let package = package.to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for (field, value) in
        [("Package", "adit"), ("Version", version), ("Architecture", run("dpkg", &["--print-architecture"]).trim())]
    {
        assert_eq!(run("dpkg-deb", &["--field", package, field]).trim(), value);
    }
    // Linked statically it needs nothing.
    assert_eq!(run("dpkg-deb", &["--field", package, "Depends"]).trim(), "");
    let listing = run("dpkg-deb", &["--contents", package]);
    assert!(listing.lines().all(|line| line.contains(" root/root ")), "{listing}");
    assert!(
        listing
            .lines()
            .all(|line| line.starts_with("drwxr-xr-x") || line.starts_with("-rw-r--r--") || line.ends_with("/adit"))
    );

    let root = directory.path().join("root");
    run("dpkg-deb", &["--extract", package, root.to_str().unwrap()]);
    let at = |path: &str| root.join(path);
    let text = |path: &str| fs::read_to_string(at(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o755);
    let program = at("usr/bin/adit");
    assert_eq!(run(program.to_str().unwrap(), &["--version"]).trim(), format!("adit {version}"));
    for (path, source) in [
        ("usr/lib/systemd/system/adit.service", "adit.service"),
        ("usr/lib/systemd/system/adit@.service", "adit@.service"),
        ("usr/lib/systemd/system/adit-docker.service", "adit-docker.service"),
        ("usr/lib/systemd/network/10-adit.network", "networkd/10-adit.network"),
        ("usr/lib/NetworkManager/conf.d/10-adit.conf", "NetworkManager/10-adit.conf"),
        ("usr/lib/sysusers.d/adit.conf", "sysusers.d/adit.conf"),
        ("etc/default/adit", "deb/adit.default"),
        ("usr/share/adit/grafana/adit.json", "grafana/adit.json"),
        ("usr/share/doc/adit/copyright", "deb/copyright"),
    ] {
        assert_eq!(text(path), packaged(source), "{path}");
    }
    assert!(at("etc/adit").is_dir());
    for page in ["adit", "adit-up", "adit-down", "adit-status"] {
        let page = run("gzip", &["-dc", at(&format!("usr/share/man/man1/{page}.1.gz")).to_str().unwrap()]);
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    for completions in [
        "usr/share/bash-completion/completions/adit",
        "usr/share/zsh/vendor-completions/_adit",
        "usr/share/fish/vendor_completions.d/adit.fish",
    ] {
        assert!(text(completions).contains("purge"), "{completions}");
    }

    // What dpkg does with it.
    let control = directory.path().join("control");
    run("dpkg-deb", &["--control", package, control.to_str().unwrap()]);
    let conffiles = fs::read_to_string(control.join("conffiles")).unwrap();
    let mut in_etc: Vec<_> =
        listing.lines().filter_map(|line| line.split(" ./").nth(1)).filter(|p| p.starts_with("etc/")).collect();
    in_etc.retain(|path| !path.ends_with('/'));
    assert_eq!(conffiles.lines().collect::<Vec<_>>(), in_etc.iter().map(|path| format!("/{path}")).collect::<Vec<_>>());
    for script in ["postinst", "prerm", "postrm"] {
        let path = control.join(script);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755, "{script}");
        run("sh", &["-n", path.to_str().unwrap()]);
    }
    let sums = fs::read_to_string(control.join("md5sums")).unwrap();
    assert!(sums.lines().any(|line| line.ends_with("  usr/bin/adit")) && !sums.contains("DEBIAN"), "{sums}");
}

#[test]
fn the_package_is_the_same_every_time() {
    let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = [&one, &two].map(|directory| fs::read(build(directory.path())).unwrap());
    assert!(first == second);
}
