//! What a command sees inside, and what others do with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use linux::netns::NetNs;
use serde_json::json;

use crate::bed::daemon::ADIT;
use crate::bed::traffic::{End, exchange_tcp};
use crate::bed::{PATIENCE, wait_for};
use crate::world::{FIRST, GATEWAY, Program, World};

/// What a shell script says inside.
fn says(program: Program<'_>, options: &[&str], script: &str) -> String {
    program.succeeds(&[&["run"], options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn names_and_resolvers_are_those_of_the_container() {
    let world = World::new();
    let program = world.program();
    let before = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"].map(|path| std::fs::read(path).unwrap());
    let said = says(program, &["--name", "web"], "hostname; cat /etc/hostname /etc/hosts");
    assert_eq!(
        said,
        format!(
            "web\nweb\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{FIRST} web.berlin.adit web\n\
             fd42:0:0:7::2 web.berlin.adit web\n"
        )
    );
    let said = says(program, &["--name", "web", "--hostname", "www.example.org"], "hostname; grep 10.42 /etc/hosts");
    assert_eq!(said, "www.example.org\n10.42.7.3 web.berlin.adit web www.example.org\n");
    let said = says(program, &[], "cat /etc/resolv.conf; echo more >>/etc/hosts");
    assert!(
        said.contains(&format!("nameserver {GATEWAY}\nnameserver fd42:0:0:7::1\nsearch berlin.adit adit")),
        "{said}"
    );
    assert_eq!(before, ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"].map(|path| std::fs::read(path).unwrap()));
    world.is_clean();
}

#[test]
fn a_network_without_names_leaves_them_to_the_host() {
    let world = World::with(&["10.42.7.0/24"], None);
    let said =
        says(world.program(), &["--name", "web"], "grep 10.42 /etc/hosts; grep 10.42 /etc/resolv.conf || echo none");
    assert_eq!(said, format!("{FIRST} web\nnone\n"));
}

/// What a container of `world` says whose host has an `/etc` and a `/run` that this script has made; neither is that of the machine.
fn on_a_host_with(world: &World, script: &str, inside: &str) -> (String, String) {
    let script = format!(
        "set -e; cp -a /etc \"$ETC\"; mount --bind \"$ETC\" /etc; mount -t tmpfs none /run; {script}
         exec \"$ADIT\" run --name web -- sh -c '{inside}'"
    );
    let mut command = world.program().command("unshare", &["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.env("ETC", world.program().path(&format!("etc{}", script.len())));
    let output = world.program().host.namespace.run(|| command.output()).unwrap().unwrap();
    let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{texts:?}");
    texts.into()
}

/// A host of systemd, whose resolver listens on a loopback address and on a socket.
const SYSTEMD: &str = "mkdir -p /run/systemd/resolve; cd /run/systemd/resolve; touch io.systemd.Resolve; \
                       echo nameserver 127.0.0.53 >stub-resolv.conf; echo nameserver 192.0.2.53 >resolv.conf; \
                       ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; cd /;";

#[test]
fn a_resolver_of_the_host_is_not_asked_past_ours() {
    let world = World::new();
    let (said, warned) = on_a_host_with(&world, SYSTEMD, "ls /run/systemd/resolve; grep nameserver /etc/resolv.conf");
    assert_eq!(said, format!("resolv.conf\nstub-resolv.conf\nnameserver {GATEWAY}\nnameserver fd42:0:0:7::1\n"));
    assert_eq!(warned, "");
    world.is_clean();
}

#[test]
fn where_the_network_has_no_names_whoever_the_hosts_resolver_asks_is_asked() {
    let world = World::with(&["10.42.7.0/24"], None);
    let (said, warned) = on_a_host_with(&world, SYSTEMD, "ls /run/systemd/resolve; grep nameserver /etc/resolv.conf");
    assert_eq!(said, "io.systemd.Resolve\nresolv.conf\nstub-resolv.conf\nnameserver 192.0.2.53\n");
    assert_eq!(warned, "");
}

#[test]
fn what_the_host_has_not_is_said_and_not_made() {
    let world = World::new();
    let (said, warned) = on_a_host_with(
        &world,
        "rm /etc/resolv.conf /etc/hostname;",
        "ls /etc | grep -c -e ^resolv.conf -e ^hostname || hostname",
    );
    assert_eq!(said, "0\nweb\n");
    assert!(warned.contains("this host has no /etc/resolv.conf; make one with `touch /etc/resolv.conf`"), "{warned}");
    assert_eq!(warned.lines().count(), 1);
}

#[test]
fn it_sees_its_own_processes_and_devices_and_the_files_of_the_host() {
    let world = World::new();
    let file = world.program().path("file");
    let script = format!(
        "ls /sys/class/net; echo /proc/[0-9]*; ip -o -4 address show dev eth0; ip route; (echo x >/sys/class/net/eth0/mtu) 2>/dev/null || \
         echo read-only; pwd; echo inside >{}; ls /proc/self/fd",
        file.display()
    );
    let said = says(world.program(), &[], &script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["eth0", "lo"]);
    let processes: Vec<&str> = lines[2].split(' ').collect();
    assert!(processes.contains(&"/proc/1") && processes.len() <= 3, "{processes:?}");
    assert!(lines[3].contains(&format!("inet {FIRST}/24 ")), "{said}");
    assert_eq!(lines[4].trim_end(), format!("default via {GATEWAY} dev eth0"));
    assert!(said.contains("\nread-only\n"), "{said}");
    assert!(said.contains(&format!("\n{}\n", std::env::current_dir().unwrap().display())), "{said}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "inside\n");
    let outside = world.program().command("ls", &["/proc/self/fd"]).output().unwrap();
    assert!(
        said.ends_with(&format!("\n{}", String::from_utf8(outside.stdout).unwrap())),
        "no file of ours is open inside: {said}"
    );
}

#[test]
fn what_is_piped_in_comes_out() {
    let world = World::new();
    let mut command = world.program().command(ADIT, &["run", "--", "tr", "a-z", "A-Z"]);
    let mut running = world.program().start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    running.child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let mut said = String::new();
    running.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(running.ends().success());
    assert_eq!(said, "HELLO");
}

#[test]
fn a_published_port_leads_to_it_and_ps_says_so() {
    let world = World::new();
    let program = world.program();
    assert_eq!(program.listed(), Vec::<serde_json::Value>::new());
    let server = "import socket\ns = socket.create_server(('', 80))\nprint('ready', flush=True)\nwhile True: s.accept()[0].send(b'hello')";
    let script = format!("exec python3 -c \"{server}\"");
    let running = program.container("web", &["--publish", "8080:80"], &script);
    for address in [format!("{FIRST}:80"), "192.0.2.1:8080".into(), "127.0.0.1:8080".into()] {
        let address: SocketAddr = address.parse().unwrap();
        let connect = || TcpStream::connect_timeout(&address, PATIENCE);
        let mut stream = program.host.namespace.run(connect).unwrap().unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
    }
    let mut listed = program.listed();
    let one = listed[0].as_object_mut().unwrap();
    let since = one.remove("since").unwrap().as_u64().unwrap();
    assert_eq!(since, program.record("web").created);
    assert_eq!(one.remove("id").unwrap().as_str().map(str::len), Some(16));
    assert_eq!(
        listed,
        [json!({
            "name": "web", "door": "run", "interface": "eth0", "addresses": [format!("{FIRST}/24"), "fd42:0:0:7::2/64"],
            "ports": ["8080:80/tcp"], "isolated": false,
        })]
    );
    let table = program.succeeds(&["ps"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["web", "run", FIRST, "fd42:0:0:7::2", "8080:80/tcp"]);
    running.stop();
    assert_eq!(program.succeeds(&["ps"]), "NAME  DOOR  ADDRESS  PORTS  SINCE\n");
    world.is_clean();
}

#[test]
fn an_address_may_be_asked_for_and_isolation() {
    let world = World::new();
    let program = world.program();
    let _a = program.container("a", &["--ip", "10.42.7.77", "--ip", "fd42:0:0:7::77"], "echo ready; read x");
    let _b = program.container("b", &["--isolated"], "echo ready; read x");
    let _c = program.container("c", &["--isolated"], "echo ready; read x");
    let listed = program.listed();
    let of = |name: &str| listed.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(of("a")["addresses"], json!(["10.42.7.77/24", "fd42:0:0:7::77/64"]));
    assert_eq!([&of("a")["isolated"], &of("b")["isolated"]], [&json!(false), &json!(true)]);
    let ends = ["a", "c"].map(|name| {
        let record = program.record(name);
        (NetNs::open(record.netns.as_ref().unwrap()).unwrap(), record.addresses[0].addr())
    });
    exchange_tcp(End::new(&ends[0].0, ends[0].1), End::new(&ends[1].0, ends[1].1), 100_000, 100_000);
    let exec = |to: &str| program.adit(&["exec", "b", "--", "ping", "-c1", "-W1", to]).status.code();
    assert_eq!(exec(GATEWAY), Some(0));
    assert_eq!(exec(&ends[1].1.to_string()), Some(1), "both are isolated");
}

#[test]
fn one_more_command_runs_in_the_same_namespaces() {
    let world = World::new();
    let program = world.program();
    let mut running = program.container("web", &[], "sleep 1000 & echo ready; read x; exit 5");
    let said = program.succeeds(&[
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "hostname; ls /sys/class/net; cat /proc/1/comm; cat /etc/hostname; pwd",
    ]);
    let here = std::env::current_dir().unwrap();
    assert_eq!(said, format!("web\neth0\nlo\nadit\nweb\n{}\n", here.display()));
    assert_eq!(program.adit(&["exec", "web", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    assert_eq!(program.adit(&["exec", "web", "--", "sh", "-c", "kill -KILL $$"]).status.code(), Some(137));
    // It ends with the container, of which it is a part.
    let mut command = program.command(ADIT, &["exec", "web", "--", "sh", "-c", "echo ready; sleep 1000"]);
    let mut second = program.start(command.stdout(Stdio::piped()));
    let mut line = [0; 6];
    second.child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    running.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(running.ends().code(), Some(5));
    assert_eq!(second.ends().code(), Some(137));
    let said = program.fails(125, &["exec", "web", "--", "true"]);
    assert!(said.contains("there is no container web"), "{said}");
    world.is_clean();
}

#[test]
fn a_killed_exec_takes_its_command_along_and_nothing_else() {
    let world = World::new();
    let program = world.program();
    let running = program.container("web", &[], "echo ready; read x");
    let inside = || crate::world::inhabitants(&program.record("web")).len();
    let before = inside();
    let mut command = program.command(ADIT, &["exec", "web", "--", "sleep", "1000"]);
    let mut second = program.start(&mut command);
    wait_for("the command", || (inside() > before).then_some(()));
    second.child.kill().unwrap();
    second.ends();
    wait_for("its end", || (inside() == before).then_some(()));
    running.stop();
    world.is_clean();
}
