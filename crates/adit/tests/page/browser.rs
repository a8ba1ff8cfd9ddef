//! The page in a browser: Chromium without a window, on a node's host, driven by walk.mjs, which asks for what is to happen in the network.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use linux::netlink::VethEnd;

use crate::bed::attached::{Attached, directories, try_attach};
use crate::bed::traffic::exchange_udp;
use crate::bed::{Bed, Family, Host, wait_for};
use crate::lan::{World, plug};
use crate::visitor::PAGE;
use crate::world::{Daemon, Node};

/// A name as nobody should give it: the page is to show it as it is.
const HOSTILE: &str = "<img src=x onerror=alert(1)><b>web</b>\u{202e}";

/// What the hosts are called.
const NAMES: [&str; 5] = ["oslo", "berlin", "lisbon", "kyoto", "quito"];

/// Where ./test installs what drives the browser.
fn modules() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let place = target.join("page");
    let has = |name: &str| place.join("node_modules").join(name).join("package.json").exists();
    assert!(
        has("playwright-core") && has("axe-core") && Path::new("/usr/bin/chromium").exists(),
        "there is no browser to test with: run `./test page` once, which installs chromium, and playwright-core into {}",
        place.display()
    );
    place
}

/// A network as the walk finds it, and what it may ask for.
struct Stage<'n, 'h> {
    nodes: &'n [Node<'h>],
    daemons: Vec<Option<Daemon<'n, 'h>>>,
    token: String,
    containers: Vec<Attached>,
    pings: Vec<std::process::Child>,
}

impl<'n, 'h> Stage<'n, 'h> {
    /// One node with a page, and one other; the rest may join.
    fn new(nodes: &'n [Node<'h>]) -> Self {
        let said =
            nodes[0].adit(&["init", "--config", &nodes[0].file(), "--name", NAMES[0], "--no-start", "--uses", "9"]);
        let token = said.lines().find_map(|line| line.trim().strip_prefix("adit join ")).unwrap().to_owned();
        nodes[0].configure(&format!("\n[observe]\nlisten = {PAGE:?}\nallow = [\"trace\"]"));
        let daemons = nodes.iter().map(|_| None).collect();
        let mut stage = Self { nodes, daemons, token, containers: Vec::new(), pings: Vec::new() };
        stage.daemons[0] = Some(nodes[0].up());
        stage.join(1);
        stage
    }

    fn join(&mut self, number: usize) {
        let node = &self.nodes[number];
        node.adit(&["join", &self.token, "--config", &node.file(), "--name", NAMES[number], "--no-start"]);
        self.nodes[number].configure("\n[observe]\nallow = [\"trace\"]");
        self.daemons[number] = Some(self.nodes[number].up());
    }

    fn subnet_address(&self, number: usize) -> String {
        self.daemons[number].as_ref().unwrap().subnet().addr().to_string()
    }

    /// Does what the walk asked for; answers what it may want to know.
    fn please(&mut self, wish: &str) -> String {
        let (verb, rest) = wish.split_once(' ').unwrap_or((wish, ""));
        match verb {
            "join" => self.join(rest.parse::<usize>().unwrap() - 1),
            "leave" => {
                let number = rest.parse::<usize>().unwrap() - 1;
                self.nodes[number].adit(&["down", "--device", "adit0", "--purge"]);
                self.daemons[number].take().unwrap().await_end();
            }
            "attach" => {
                let name = if rest == "hostile" { HOSTILE } else { rest };
                let node = &self.nodes[0];
                let made = wait_for("a container", || {
                    try_attach(node.host, &directories(node.directory.path()), rest, |request| {
                        request.name = Some(name.into());
                    })
                    .ok()
                });
                self.containers.push(made);
            }
            "traffic" => {
                let (number, interval) = rest.split_once(' ').unwrap_or((rest, "0.05"));
                let to = self.subnet_address(number.parse::<usize>().unwrap() - 1);
                let ping = || {
                    Command::new("ping").args(["-q", "-i", interval, "-s", "1200", &to]).stdout(Stdio::null()).spawn()
                };
                self.pings.push(self.nodes[0].host.namespace.run(ping).unwrap().unwrap());
            }
            "address" => return self.subnet_address(rest.parse::<usize>().unwrap() - 1),
            "stop" => self.daemons[0].take().unwrap().terminate(),
            "start" => self.daemons[0] = Some(self.nodes[0].up()),
            _ => panic!("what is {wish:?}?"),
        }
        String::new()
    }
}

impl Drop for Stage<'_, '_> {
    fn drop(&mut self) {
        for ping in &mut self.pings {
            let _ = ping.kill();
            let _ = ping.wait();
        }
    }
}

/// Lets the walk go its way on a host; what it asks for is done, and its words are shown if it fails.
fn walk(host: &Host, scenario: &str, mut please: impl FnMut(&str) -> String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/walk.mjs");
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("node");
    command.arg(script).arg(scenario).env("ADIT_MODULES", modules()).env("ADIT_PAGE", format!("http://{PAGE}"));
    command.env("HOME", home.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = host.namespace.run(|| command.spawn()).unwrap().unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        match line.strip_prefix("please ") {
            Some(wish) => {
                let answer = please(wish);
                // Whoever has failed meanwhile says so below.
                let _ = writeln!(answers, "{answer}");
            }
            None => said += &format!("{line}\n"),
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}:\n{said}");
    print!("{said}");
}

#[test]
fn a_browser_shows_the_network_as_it_changes() {
    let bed = Bed::new(3);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let mut stage = Stage::new(&nodes);
    walk(bed.host(1), "story", |wish| stage.please(wish));
}

/// A device that carries frames, on a bridge beside a machine, and a loop that is made and cut.
#[test]
fn a_browser_shows_a_switch_and_its_loop() {
    let world = World::new(2, |number, end| {
        if number == 1 {
            end.device_lines += &format!("[observe]\nlisten = {PAGE:?}\n");
        }
    });
    let _daemons = world.start();
    let [here, there] = [world.machine(1, 1), world.machine(2, 2)];
    exchange_udp(here.end(Family::V4), there.end(Family::V4), [100]);
    walk(world.host(1), "switch", |wish| {
        match wish {
            "cable" => {
                let far = VethEnd { name: "cable", netns: Some(&world.host(2).namespace), ..VethEnd::default() };
                world.host(1).netlink().create_veth(&VethEnd { name: "cable", ..VethEnd::default() }, &far).unwrap();
                for number in [1, 2] {
                    plug(&mut world.host(number).netlink(), "cable", "br0");
                }
            }
            "cut" => drop(world.host(1).run("ip", &["link", "delete", "cable"])),
            _ => panic!("what is {wish:?}?"),
        }
        String::new()
    });
}

/// Not a test of anything but that pictures can be taken: docs/pictures/take runs it, with a place for them.
#[test]
fn pictures_for_the_documents_can_be_taken() {
    let bed = Bed::new(5);
    let nodes: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let mut stage = Stage::new(&nodes);
    let place = tempfile::tempdir().unwrap();
    let wanted = std::env::var_os("ADIT_PICTURES").map_or(place.path().to_owned(), PathBuf::from);
    walk(bed.host(1), &format!("pictures {}", wanted.display()), |wish| stage.please(wish));
    for name in ["page-light.png", "page-dark.png", "page-trace.png"] {
        assert!(fs::metadata(wanted.join(name)).unwrap().len() > 20_000, "{name}");
    }
}
