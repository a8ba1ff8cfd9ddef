//! The plugin as `adit cni install` puts it where runtimes look.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::world::{ADIT, Container, Host, ips};

struct Place<'a> {
    host: &'a Host,
}

impl Place<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.host.directory.path().join(name)
    }

    fn adit(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ADIT);
        command.arg("cni").args(arguments);
        command.arg("--conf-dir").arg(self.path("net.d")).arg("--bin-dir").arg(self.path("bin"));
        command.output().unwrap()
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let directories = &self.host.directories;
        let [runtime, state] = [&directories.runtime, &directories.state].map(|path| path.to_str().unwrap());
        self.adit(&[&["install", "--runtime-dir", runtime, "--state-dir", state], arguments].concat())
    }
}

fn said(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_installed_works_as_runtimes_call_it() {
    let host = Host::new();
    let place = Place { host: &host };
    let output = place.install(&[]);
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&fs::read(place.path("net.d/10-adit.conflist")).unwrap()).unwrap();
    // As runtimes make a configuration of a list: name and version of the list, and no capabilities.
    let mut configuration = list["plugins"][0].clone();
    configuration["name"] = list["name"].clone();
    configuration["cniVersion"] = list["cniVersion"].clone();
    configuration.as_object_mut().unwrap().remove("capabilities");
    let program = place.path("bin").join(list["plugins"][0]["type"].as_str().unwrap());
    let container = Container::new("c1");
    let ask = |verb: &str| host.ours(verb, &container).program(&program);
    let answer = ask("ADD").run_with(configuration.to_string().as_bytes());
    assert_eq!(answer.exit_code, Some(0), "{answer:?}");
    let result: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(ips(&result, "address")[0], "10.42.7.2/24");
    let answer = ask("DEL").run_with(configuration.to_string().as_bytes());
    assert_eq!(answer.exit_code, Some(0), "{answer:?}");
    host.assert_clean();
    let output = place.adit(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!program.exists() && !place.path("net.d/10-adit.conflist").exists());
    let output = place.adit(&["uninstall"]);
    assert!(output.status.success(), "twice is no fault: {output:?}");
}

#[test]
fn what_is_another_s_stays() {
    let host = Host::new();
    let place = Place { host: &host };
    fs::create_dir_all(place.path("bin")).unwrap();
    fs::write(place.path("bin/adit"), "another program").unwrap();
    assert!(said(&place.install(&[])).contains("--bin-dir"));
    assert!(!place.path("net.d").exists());
    place.adit(&["uninstall"]);
    assert_eq!(fs::read_to_string(place.path("bin/adit")).unwrap(), "another program");
}

#[test]
fn wrong_words_are_wrong_usage() {
    let host = Host::new();
    let place = Place { host: &host };
    for arguments in [&["--name", "../adit"][..], &["--device", "sixteen-letters-"], &["--name", ""]] {
        let output = place.install(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert!(!place.path("bin").exists() && !place.path("net.d").exists());
}

/// The program is the plugin by whatever name it is called, and whatever its arguments are.
#[test]
fn a_runtime_that_calls_is_answered_as_one() {
    let host = Host::new();
    let name = host.directory.path().join("a name of its own");
    std::os::unix::fs::symlink(ADIT, &name).unwrap();
    let answer = host.of_all("VERSION").program(&name).run_with(b"{\"cniVersion\":\"1.0.0\"}");
    assert!(answer.text.contains("supportedVersions"), "{answer:?}");
    let output = Command::new(ADIT).args(["status", "--help"]).env("CNI_COMMAND", "VERSION").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("supportedVersions"));
}
