//! The README's section on networks, as it is written: exactly its lines, with the default paths.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;

use crate::bed::daemon::ADIT;
use crate::bed::{Bed, Host, PATIENCE, wait_for};
use crate::world::Node;

const README: &str = include_str!("../../../../README.md");
const README_ZH: &str = include_str!("../../../../README.zh-CN.md");

/// The code blocks of a section, each as its lines.
fn blocks(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("## {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("\n```").skip(1).step_by(2);
    blocks.map(|block| block.lines().skip(1).map(str::to_owned).collect()).collect()
}

/// A host with an /etc, a /var/lib and a /run of its own, and a name. Daemons are ended when this is dropped.
struct Machine<'a> {
    host: &'a Host,
    name: &'static str,
    directory: TempDir,
    daemons: Vec<Child>,
}

impl<'a> Machine<'a> {
    fn new(host: &'a Host, name: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["etc", "lib", "run", "bin"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for file in ["passwd", "group", "hosts", "nsswitch.conf", "resolv.conf"] {
            fs::copy(Path::new("/etc").join(file), at("etc").join(file)).unwrap();
        }
        std::os::unix::fs::symlink(ADIT, at("bin/adit")).unwrap();
        Self { host, name, directory, daemons: Vec::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A line as it would be typed here, by root.
    fn command(&self, line: &str) -> Command {
        let script = "hostname \"$1\"; mount --bind \"$2/etc\" /etc; mount --bind \"$2/lib\" /var/lib; mount --bind \"$2/run\" /run; \
                      export PATH=\"$2/bin:$PATH\"; cd /; exec sh -c \"$3\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--propagation", "private", "sh", "-ec", script, "sh", self.name]);
        command.arg(self.directory.path()).arg(line).stdin(Stdio::null());
        for name in ["ADIT_RUNTIME_DIR", "ADIT_STATE_DIR", "ADIT_WIREGUARD_DIR", "ADIT_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// Types a line; what it prints. `adit up` stays in the foreground, and is ready when this returns.
    fn types(&mut self, line: &str) -> String {
        eprintln!("{}# {line}", self.name);
        if !line.starts_with("adit up") {
            let output = self.host.namespace.run(|| self.command(line).output()).unwrap().unwrap();
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{line}: {printed}{}", String::from_utf8_lossy(&output.stderr));
            return printed;
        }
        let log = File::options().create(true).append(true).open(self.at("log")).unwrap();
        let mut command = self.command(line);
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = self.host.namespace.run(|| command.spawn()).unwrap().unwrap();
        let stdout = child.stdout.take().unwrap();
        self.daemons.push(child);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut first = String::new();
            let _ = lines.read_line(&mut first);
            let _ = sender.send(first);
            let _ = lines.read_to_end(&mut Vec::new());
        });
        let first = lines.recv_timeout(PATIENCE).unwrap_or_default();
        assert!(first.contains(" is up: "), "{line}: {first}{}", fs::read_to_string(self.at("log")).unwrap());
        first
    }

    /// Waits until something is printed.
    fn sees(&mut self, line: &str, part: &str) {
        wait_for(&format!("{part:?} in what `{line}` prints"), || self.types(line).contains(part).then_some(()));
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- {}:\n{}", self.name, fs::read_to_string(self.at("log")).unwrap_or_default());
        }
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn the_readme_s_lines_make_a_network() {
    let [first, next, further] = &blocks(README, "A network of hosts")[..] else { panic!("three blocks") };
    let bed = Bed::new(3);
    let before: Vec<_> = bed.hosts.iter().map(|host| Node::new(host).state()).collect();
    let names = ["berlin", "oslo", "paris"];
    let mut machines: Vec<_> = bed.hosts.iter().zip(names).map(|(host, name)| Machine::new(host, name)).collect();
    let printed: Vec<_> = first.iter().map(|line| machines[0].types(line)).collect();
    let join = |text: &str| {
        let line = text.lines().find(|line| line.trim().starts_with("adit join ")).unwrap_or_else(|| panic!("{text}"));
        line.trim().to_owned()
    };
    // The line that was printed is the one that is written.
    let line = join(&printed.concat());
    for typed in next {
        let typed = typed.replace("TOKEN", line.strip_prefix("adit join ").unwrap());
        machines[1].types(&typed);
    }
    // "`adit token create` on the first host prints another one"
    assert!(README.contains("`adit token create` on the first host prints another one"));
    let another = join(&machines[0].types("adit token create"));
    machines[2].types(&another);
    machines[2].types("adit up");

    for machine in &mut machines {
        machine.sees("adit status", "2 other nodes");
    }
    for line in further {
        match line.split('#').next().unwrap().trim() {
            "adit status" => assert!(machines[1].types(line).contains("oslo with 10.42.")),
            "cat /run/adit/subnet.env" => {
                let text = machines[1].types(line);
                assert!(
                    text.contains("FLANNEL_NETWORK=10.42.0.0/16\n") && text.contains("FLANNEL_SUBNET=10.42."),
                    "{text}"
                );
            }
            "adit client add phone --qr" => assert!(machines[1].types(line).lines().count() > 20),
            "adit node remove paris" => {
                machines[0].types(line);
                machines[0].sees("adit node list", "oslo");
                for machine in &mut machines[..2] {
                    machine.sees("adit status", "1 other node");
                    assert!(!machine.types("adit node list").contains("paris"));
                }
            }
            "adit down" => {
                for (machine, before) in machines.iter_mut().zip(&before) {
                    machine.types(line);
                    let ended = wait_for("the daemon's end", || machine.daemons[0].try_wait().unwrap());
                    assert!(ended.success());
                    Node::new(machine.host).check_state(before);
                    assert!(machine.at("lib/adit/adit0.network/node.key").exists());
                    assert!(!machine.at("run/adit/subnet.env").exists());
                }
                // "--purge also forgets the network"
                machines[1].types("adit down --purge");
                assert!(!machines[1].at("lib/adit").exists());
            }
            other => panic!("nobody has said what {other:?} is to do"),
        }
    }
}

#[test]
fn both_languages_have_the_same_commands() {
    let commands = |blocks: Vec<Vec<String>>| -> Vec<Vec<String>> {
        let command = |line: &String| line.split(" #").next().unwrap().trim_end().to_owned();
        blocks.iter().map(|block| block.iter().map(command).collect()).collect()
    };
    let one = commands(blocks(README, "A network of hosts"));
    assert_eq!(one, commands(blocks(README_ZH, "由主机组成的网络")));
    assert_eq!(one.len(), 3);
}
