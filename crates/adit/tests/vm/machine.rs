//! A real machine: QEMU with a stock kernel, started and configured by what `adit vm-tap` prints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use linux::netns::NetNs;
use serde_json::Value;

use crate::bed::packet::Random;
use crate::bed::traffic::End;
use crate::bed::{Bed, Host, wait_at_most};
use crate::kernel::Kernel;
use crate::nodes::{Node, network};
use crate::played::strings;
use crate::world::Program;

/// How long the machine may take for anything: it is emulated, on a host with other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// As many bytes go each way.
const BYTES: usize = 2_000_003;

/// QEMU with what its console says. It ends with this value.
struct Machine {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Machine {
    fn start(host: &Host, card: &Value, kernel: &Kernel, files: &std::path::Path) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(
            "-M q35 -accel tcg -cpu max -m 256 -nodefaults -display none -no-reboot -serial stdio -kernel".split(' '),
        );
        command.arg(kernel.image()).arg("-initrd").arg(files).args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.args(strings(&card["qemu_arguments"])).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = host.namespace.run(|| command.spawn()).unwrap().unwrap();
        let console = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in console.split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line that begins so; answers the rest of it.
    fn await_line(&mut self, begin: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the machine does not say {begin:?}, but:\n{}", self.said.join("\n"))
            };
            if let Some((_, rest)) = line.split_once(begin) {
                return rest.trim().to_owned();
            }
            self.said.push(line);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn checksum(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_machine_of_qemu_and_a_container_of_another_host_exchange_tcp() {
    let kernel = Kernel::get();
    let bed = Bed::new(2);
    let hosts: Vec<Node<'_>> = bed.hosts.iter().map(Node::new).collect();
    let _daemons = network(&hosts, &["--network", "10.42.0.0/16"]);
    let [here, there] = [0, 1].map(|n: usize| Program { host: hosts[n].host, directory: hosts[n].directory.path() });
    let running = there.container("web", &[], "echo ready; read x");
    let record = there.record("web");
    let container = NetNs::open(record.netns.as_ref().unwrap()).unwrap();
    let end = End::new(&container, record.addresses[0].addr());
    let card: Value = serde_json::from_str(&here.succeeds(&["vm-tap", "db", "--json"])).unwrap();
    let address = strings(&card["addresses"])[0].split('/').next().unwrap().parse().unwrap();

    let mut random = Random::new(7);
    let [theirs, ours] = [random.bytes(BYTES), random.bytes(BYTES)];
    let listener = end.listen();
    // It sends a file by name and port, then takes one, and says what it is.
    let script = format!(
        "{}\necho SIZE $(cat /sys/class/net/eth0/mtu)\nnc web.host2.adit {} </blob\necho SENT\nnc -l -p 7002 >/got &\n\
         until grep -q :1B5A /proc/net/tcp /proc/net/tcp6; do :; done\necho LISTENS\nwait\necho SUM $(sha256sum </got)\npoweroff -f\n",
        strings(&card["guest"]).join("\n"),
        listener.local_addr().unwrap().port()
    );
    let files = here.path("files");
    std::fs::write(&files, kernel.files(&script, &[("blob", &theirs)])).unwrap();
    let mut machine = Machine::start(here.host, &card, &kernel, &files);

    assert_eq!(machine.await_line("SIZE "), card["mtu"].to_string());
    listener.set_nonblocking(true).unwrap();
    let (mut stream, from) = wait_at_most(PATIENCE, "a connection of the machine", || listener.accept().ok());
    assert_eq!(from.ip(), address, "it is itself, and nobody stands between");
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = vec![0; BYTES];
    stream.read_exact(&mut got).unwrap();
    assert!(checksum(&got) == checksum(&theirs), "other bytes arrive");
    drop(stream);
    machine.await_line("SENT");
    machine.await_line("LISTENS");
    let to = SocketAddr::new(address, 7002);
    let mut stream = container.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&ours).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(machine.await_line("SUM ").split(' ').next().unwrap(), checksum(&ours));
    wait_at_most(PATIENCE, "the end of the machine", || machine.child.try_wait().unwrap());
    here.succeeds(&["vm-tap", "db", "--delete"]);
    running.stop();
}
