#!/usr/bin/env python3
"""What it costs a tunnel that somebody looks: the page open, with a state each second, and metrics scraped each second, against neither.

    cargo build --release
    sudo bench/observe.py                    # 20 interleaved pairs
    sudo bench/observe.py --control          # and what the lookers alone cost
    sudo bench/observe.py --pairs 2 --seconds 1

TCP from device to device of two daemons, sealed, each in a namespace; both daemons have [observe] in both runs. Looked at are both, by a program that
listens to /events as a browser does and asks for /metrics once a second; what a browser spends on drawing is not the daemon's. Each pair measures both
ways, one right after the other, in alternating order; the ratio is the geometric mean of the pairs' ratios with its 95 % interval (Student's t).
Processor time is that of the two daemons, per gigabyte carried. The lookers share the processors with what is measured; --control adds a second tunnel
that carries nothing and, to each pair, a third run in which they look at that one: what is lost there too is not due to the looked-at daemons' own work.
Keep the machine quiet. Needs root, iproute2, iperf3; traffic stays inside the namespaces.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

from pairs import interval

NAMES = ["adit-ob-a", "adit-ob-b", "adit-ob-c", "adit-ob-d"]
HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = "127.0.0.1:7790"

# Runs within a namespace: listens, scrapes, and says at its end how often it got both.
LOOKER = r"""
import http.client, signal, sys, threading, time
host, port = sys.argv[1].rsplit(":", 1)
states, scrapes, size, ending = 0, 0, 0, threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ending.set())

def listen():
    global states
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    while line := answer.readline():
        states += line.startswith(b"data: ")

threading.Thread(target=listen, daemon=True).start()
connection = http.client.HTTPConnection(host, int(port))
while True:
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    scrapes, size = scrapes + 1, len(text)
    if scrapes == 1:
        print("looking", flush=True)
    if ending.wait(1):
        break
print(states, scrapes, size, flush=True)
"""


def sh(command, check=True, **more):
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


def clear():
    for name in sh("ip netns list").split():
        if name.startswith("adit-ob-"):
            sh(f"ip netns delete {name}", check=False)


class Node:
    """A daemon in a namespace."""

    def __init__(self, number, directory):
        self.number, self.name, self.directory, self.daemon = number, NAMES[number], f"{directory}/{number}", None
        os.mkdir(self.directory)
        sh(f"ip netns add {self.name} && ip -n {self.name} link set lo up")
        sh(f"ip netns exec {self.name} sysctl -qw net.ipv4.tcp_congestion_control=cubic", check=False)
        key = sh(f"umask 077; {arguments.adit} keygen | tee {self.directory}/key | {arguments.adit} pubkey")
        self.public = key.strip()
        self.places = f"--runtime-dir {self.directory}/run --state-dir {self.directory}/state"

    def up(self, other):
        with open(f"{self.directory}/adit.toml", "w") as file:
            file.write(f"""[device]
addresses = ["10.77.0.{self.number + 1}/24"]
private-key-file = "key"
[[peer]]
name = "other"
public-key = "{other.public}"
endpoint = "192.0.2.{other.number + 1}:7777"
allowed-ips = ["10.77.0.{other.number + 1}/32"]
[observe]
listen = "{PAGE}"
""")
        command = ["ip", "netns", "exec", self.name, arguments.adit, "up", "--config", f"{self.directory}/adit.toml", *self.places.split()]
        log = open(f"{self.directory}/log", "a")
        environment = dict(os.environ, ADIT_WIREGUARD_DIR=f"{self.directory}/wireguard")
        self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        if "is up" not in self.daemon.stdout.readline():
            raise RuntimeError(open(f"{self.directory}/log").read())

    def spent(self):
        """Processor seconds of the daemon so far."""
        fields = open(f"/proc/{self.daemon.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def look(self):
        looker = subprocess.Popen(["ip", "netns", "exec", self.name, sys.executable, "-c", LOOKER, PAGE], stdout=subprocess.PIPE, text=True)
        if looker.stdout.readline().strip() != "looking":
            raise RuntimeError(f"the page of {self.name} is not served:\n{open(f'{self.directory}/log').read()}")
        return looker

    def stop(self):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(timeout=30)


def tcp(nodes, looked_at):
    """Gigabits a second through a tunnel of two nodes, and processor seconds of its daemons per gigabyte, while somebody looks at some nodes."""
    listener = subprocess.Popen(["ip", "netns", "exec", nodes[1].name, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    lookers = [node.look() for node in looked_at]
    try:
        for _ in range(200):
            if ":5201" in sh(f"ip netns exec {nodes[1].name} ss -Htln"):
                break
            time.sleep(0.02)
        before = sum(node.spent() for node in nodes)
        end = json.loads(sh(f"ip netns exec {nodes[0].name} iperf3 -c 10.77.0.2 -t {arguments.seconds} -J"))["end"]
        spent, received = sum(node.spent() for node in nodes) - before, end["sum_received"]
        return received["bits_per_second"] / 1e9, spent / (received["bytes"] / 1e9)
    finally:
        for looker in lookers:
            looker.terminate()
            said = looker.communicate(timeout=10)[0].split()
            if len(said) != 3 or int(said[0]) < 1 or int(said[1]) < 1:
                raise RuntimeError(f"a looker saw nothing: {said}")
            seen.append([int(word) for word in said])
        listener.kill()
        listener.wait()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--adit", default=f"{HERE}/../target/release/adit")
parser.add_argument("--pairs", type=int, default=20)
parser.add_argument("--seconds", type=int, default=3)
parser.add_argument("--control", action="store_true")
parser.add_argument("--json", metavar="FILE")
arguments = parser.parse_args()
arguments.adit = os.path.abspath(arguments.adit)

clear()
nodes, seen = [], []
with tempfile.TemporaryDirectory() as directory:
    try:
        os.chmod(directory, 0o755)
        nodes = [Node(n, directory) for n in range(4 if arguments.control else 2)]
        for one, other in zip(nodes[::2], nodes[1::2]):
            sh(f"ip -n {one.name} link add under0 type veth peer name under0 netns {other.name}")
            for node in (one, other):
                sh(f"ip -n {node.name} address add 192.0.2.{node.number + 1}/24 dev under0 && ip -n {node.name} link set under0 up")
            one.up(other)
            other.up(one)
        tunnel, bystanders = nodes[:2], nodes[2:]
        sh(f"ip netns exec {NAMES[0]} ping -c 1 -W 10 10.77.0.2")
        tcp(tunnel, [])
        ways = {"looked at": tunnel, "otherwise": [], **({"bystanders looked at": bystanders} if bystanders else {})}
        rounds = []
        for number in range(arguments.pairs):
            # Each of the ways is first, second and last as often as the others.
            order = [list(ways)[(number + at) % len(ways)] for at in range(len(ways))]
            rounds.append({way: tcp(tunnel, ways[way]) for way in order})
    finally:
        for node in nodes:
            node.stop()
        clear()

for way in ways:
    speed, cost = (statistics.median(round[way][n] for round in rounds) for n in (0, 1))
    print(f"{way:21} {speed:6.2f} Gb/s  {cost:.3f} s/GB (medians of {arguments.pairs})")
result = {}
for way, base in [("looked at", "otherwise"), ("bystanders looked at", "otherwise"), ("looked at", "bystanders looked at")][: 3 if bystanders else 1]:
    print(f"{way} against {base}:")
    # The less is spent, the better: above 1 is good, as with speed.
    for what, ratios in (
        ("throughput", [round[way][0] / round[base][0] for round in rounds]),
        ("bytes per processor second", [round[base][1] / round[way][1] for round in rounds]),
    ):
        mean, low, high = result[f"{way} / {base}: {what}"] = interval(ratios)
        print(f"  {what:27} x {mean:.3f}  [{low:.3f}, {high:.3f}]")
print(f"per run and daemon: {statistics.mean(s[0] for s in seen):.1f} states, {statistics.mean(s[1] for s in seen):.1f} scrapes of {seen[-1][2]} bytes")
if arguments.json:
    with open(arguments.json, "w") as file:
        json.dump({"rounds": rounds, "ratios": result}, file, indent=1)
