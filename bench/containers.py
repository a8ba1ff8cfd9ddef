#!/usr/bin/env python3
"""What the way of a container costs, beside the least it could be.

    cargo build --release
    sudo bench/containers.py                 # 20 interleaved pairs each
    sudo bench/containers.py --pairs 3 --seconds 1

same host: TCP from container to container on one node (veth, bridge, packet filters on the veth), beside two namespaces on a bare veth pair
and bridge without any rule. across: TCP from a container on one node to one on another (veth, bridge, routing, tunnel), beside the same nodes'
own device to device. Each pair measures both, one right after the other, in alternating order; the ratio is the geometric mean of the pairs'
ratios with its 95 % interval (Student's t). A namespace begins with net.bridge.bridge-nf-call-iptables=1, as hosts of Docker and Kubernetes have it: then
frames between containers pass the host's packet filters and connection tracking, which the bare bridge has none of; --no-bridge-nf is a host without. Processor time is that of the whole machine, per gigabyte carried: keep it quiet.
Needs root, iproute2, iperf3; traffic stays inside the namespaces.
"""
import argparse, json, os, statistics, subprocess, tempfile, time

from pairs import interval

NAMES = ["adit-ct-a", "adit-ct-b", "adit-ct-bare"]
HERE = os.path.dirname(os.path.abspath(__file__))


def sh(command, check=True, **more):
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


def clear():
    for name in sh("ip netns list").split():
        if name.startswith("adit-ct-"):
            sh(f"ip netns delete {name}", check=False)


def namespace(name):
    sh(f"ip netns add {name} && ip -n {name} link set lo up")
    sh(f"ip netns exec {name} sysctl -qw net.ipv4.tcp_congestion_control=cubic", check=False)
    if arguments.no_bridge_nf:
        sh(f"ip netns exec {name} sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0", check=False)
    return name


class Node:
    """A daemon in a namespace, and containers on it by its CNI plugin."""

    def __init__(self, name, directory):
        self.name, self.directory, self.daemon = name, f"{directory}/{name}", None
        os.mkdir(self.directory)
        self.run_dir, self.state = f"{self.directory}/run", f"{self.directory}/state"
        self.places = f"--runtime-dir {self.run_dir} --state-dir {self.state}"

    def adit(self, words):
        return sh(f"ip netns exec {self.name} {arguments.adit} {words} {self.places}")

    def up(self):
        command = f"exec ip netns exec {self.name} {arguments.adit} up --config {self.directory}/adit.toml {self.places}"
        log = open(f"{self.directory}/log", "a")
        self.daemon = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=log, text=True)
        if "is up" not in self.daemon.stdout.readline():
            raise RuntimeError(open(f"{self.directory}/log").read())

    def status(self):
        return json.loads(self.adit("status --json"))

    def address(self):
        return self.status()["network"]["subnets"][0].split("/")[0]

    def container(self, name):
        inside = namespace(f"adit-ct-{name}")
        conf = {"cniVersion": "1.0.0", "name": "adit", "type": "adit", "runtimeDir": self.run_dir, "stateDir": self.state}
        environment = dict(os.environ, CNI_COMMAND="ADD", CNI_CONTAINERID=name, CNI_NETNS=f"/run/netns/{inside}",
                           CNI_IFNAME="eth0", CNI_PATH="/opt/cni/bin")
        command = f"ip netns exec {self.name} {arguments.adit}"
        done = subprocess.run(command, shell=True, input=json.dumps(conf), env=environment, text=True, stdout=subprocess.PIPE)
        result = json.loads(done.stdout)
        if done.returncode:
            raise RuntimeError(done.stdout)
        return inside, result["ips"][0]["address"].split("/")[0]

    def stop(self):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(timeout=30)


def bare():
    """Two namespaces on a bridge, and nothing else."""
    host = namespace("adit-ct-bare")
    sh(f"ip -n {host} link add br0 type bridge && ip -n {host} link set br0 up mtu {arguments.mtu}")
    ends = []
    for n in (2, 3):
        inside = namespace(f"adit-ct-bare{n}")
        sh(f"ip -n {host} link add v{n} mtu {arguments.mtu} type veth peer name eth0 netns {inside} mtu {arguments.mtu}")
        sh(f"ip -n {host} link set v{n} master br0 up")
        sh(f"ip -n {inside} address add 10.99.0.{n}/24 dev eth0 && ip -n {inside} link set eth0 up")
        ends.append((inside, f"10.99.0.{n}"))
    return ends


def busy():
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def tcp(client, server, address):
    """Gigabits a second, and processor seconds per gigabyte."""
    listener = subprocess.Popen(["ip", "netns", "exec", server, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if ":5201" in sh(f"ip netns exec {server} ss -Htln"):
                break
            time.sleep(0.02)
        before = busy()
        end = json.loads(sh(f"ip netns exec {client} iperf3 -c {address} -t {arguments.seconds} -J"))["end"]
        spent, received = busy() - before, end["sum_received"]
        return received["bits_per_second"] / 1e9, spent / (received["bytes"] / 1e9)
    finally:
        listener.kill()
        listener.wait()


def compare(title, ours, least):
    speeds, costs, both = [], [], []
    for pair in range(arguments.pairs):
        order = [ours, least] if pair % 2 == 0 else [least, ours]
        figures = {id(way): tcp(*way) for way in order}
        a, b = figures[id(ours)], figures[id(least)]
        both.append((a, b))
        speeds.append(a[0] / b[0])
        # The less is spent, the better: above 1 is good, as with speed.
        costs.append(b[1] / a[1])
    a, b = ([statistics.median(pair[side][n] for pair in both) for n in (0, 1)] for side in (0, 1))
    print(f"{title}: {a[0]:.1f} Gb/s and {a[1]:.2f} s/GB beside {b[0]:.1f} Gb/s and {b[1]:.2f} s/GB (medians of {arguments.pairs} pairs)")
    for what, values in (("throughput", speeds), ("bytes per processor second", costs)):
        mean, low, high = interval(values)
        print(f"  {what:27} x {mean:.3f}  [{low:.3f}, {high:.3f}]")
    return {"ours": a, "least": b, "throughput": interval(speeds), "efficiency": interval(costs)}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--adit", default=f"{HERE}/../target/release/adit")
parser.add_argument("--pairs", type=int, default=20)
parser.add_argument("--seconds", type=int, default=2)
parser.add_argument("--no-bridge-nf", action="store_true", help="frames between containers do not pass the host's packet filters")
parser.add_argument("--json", metavar="FILE")
arguments = parser.parse_args()
arguments.adit = os.path.abspath(arguments.adit)

clear()
nodes = []
with tempfile.TemporaryDirectory() as directory:
    try:
        os.chmod(directory, 0o755)
        for n, name in enumerate(NAMES[:2], 1):
            namespace(name)
            nodes.append(Node(name, directory))
        sh(f"ip -n {NAMES[0]} link add under0 type veth peer name under0 netns {NAMES[1]}")
        for n, name in enumerate(NAMES[:2], 1):
            sh(f"ip -n {name} address add 192.0.2.{n}/24 dev under0 && ip -n {name} link set under0 up")
        first, second = nodes
        said = first.adit(f"init --config {first.directory}/adit.toml --name one --no-start --network 10.42.0.0/16")
        token = next(line.split()[-1] for line in said.splitlines() if "adit join" in line)
        first.up()
        second.adit(f"join {token} --config {second.directory}/adit.toml --name two --no-start")
        second.up()
        while not all(node.status()["peers"] for node in nodes):
            time.sleep(0.05)
        one, two, three = first.container("one"), first.container("two"), second.container("three")
        arguments.mtu = first.status()["device"]["mtu"]
        ends = bare()
        for client, _, address in ((first.name, second.name, second.address()), (one[0], three[0], three[1])):
            sh(f"ip netns exec {client} ping -c 1 -W 5 {address}")
        results = {
            "same host": compare("same host", (one[0], two[0], two[1]), (ends[0][0], ends[1][0], ends[1][1])),
            "across": compare("across", (one[0], three[0], three[1]), (first.name, second.name, second.address())),
        }
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(results, file, indent=1)
    finally:
        for node in nodes:
            node.stop()
        clear()
