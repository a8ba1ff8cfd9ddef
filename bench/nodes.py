#!/usr/bin/env python3
"""What a network of a thousand nodes costs one of them, beside a network of two: time until all are in force, memory, processor time at rest and per packet.

    cargo build --release && cargo build --release -p registry --example crowd
    sudo bench/nodes.py                          # 2 and 1,000 nodes, 5 interleaved rounds
    sudo bench/nodes.py --nodes 100 -r 1

Two nodes are daemons in namespaces of their own; the first one holds the registry. The others are in its registry alone (`crates/registry/examples/crowd`):
16 writers put their records there as fast as they can. Per round: one TCP stream of 3 s from the first node to the second, and 64-byte UDP datagrams for 3 s as fast
as iperf3 sends them; processor time is that of the first daemon, which the others' records came to. Then it is stopped and started again.
Needs root, iproute2, iperf3, iputils-ping; traffic stays inside the two namespaces.
"""
import argparse, json, os, statistics, subprocess, tempfile, time

A, B = "adit-nodes-a", "adit-nodes-b"
HERE = os.path.dirname(os.path.abspath(__file__))
IDLE = 10


def sh(command, check=True):
    return subprocess.run(command, shell=True, check=check, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def clear():
    for namespace in (A, B):
        sh(f"ip netns delete {namespace}", check=False)


class Node:
    def __init__(self, namespace, directory):
        self.namespace, self.directory, self.process = namespace, f"{directory}/{namespace}", None
        os.mkdir(self.directory)
        self.places = f"--runtime-dir {self.directory}/run --state-dir {self.directory}/state"

    def adit(self, verb, more=""):
        return sh(f"ip netns exec {self.namespace} {arguments.adit} {verb} {self.places} {more}")

    def up(self):
        began = time.monotonic()
        command = f"exec ip netns exec {self.namespace} {arguments.adit} up --config {self.directory}/adit.toml {self.places}"
        self.process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=open(f"{self.directory}/log", "a"), text=True)
        if "is up" not in self.process.stdout.readline():
            raise RuntimeError(open(f"{self.directory}/log").read())
        return time.monotonic() - began

    def status(self):
        return json.loads(self.adit("status", "--json"))

    def await_peers(self, count):
        while len(self.status()["peers"]) < count:
            time.sleep(0.05)

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

    def address(self):
        return self.status()["network"]["subnets"][0].split("/")[0]

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=60)


def load(to, options):
    server = subprocess.Popen(["ip", "netns", "exec", B, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if ":5201" in sh(f"ip netns exec {B} ss -Htln", check=False):
                break
            time.sleep(0.02)
        return json.loads(sh(f"ip netns exec {A} iperf3 -c {to} -t 3 -J {options}"))["end"]
    finally:
        server.kill()
        server.wait()


def measure(count):
    clear()
    directory = tempfile.mkdtemp(prefix="adit-nodes-")
    nodes, crowd, others = [], None, count - 2
    try:
        for namespace in (A, B):
            sh(f"ip netns add {namespace} && ip -n {namespace} link set lo up")
        sh(f"ip link add under0 netns {A} type veth peer name under0 netns {B}")
        for number, namespace in ((1, A), (2, B)):
            sh(f"ip -n {namespace} address add 192.0.2.{number}/24 dev under0 && ip -n {namespace} link set under0 up")
            nodes.append(Node(namespace, directory))
        first, second = nodes
        said = first.adit("init", f"--config {first.directory}/adit.toml --name one --no-start --network 10.64.0.0/12 --subnet-len 24")
        token = next(line.split()[-1] for line in said.splitlines() if "adit join" in line)
        first.up()
        second.adit("join", f"{token} --config {second.directory}/adit.toml --name two --no-start")
        second.up()
        first.await_peers(1)
        settled = one_more = one_more_cpu = storm_cpu = 0.0
        if others:
            command = [arguments.crowd, f"{first.directory}/state/adit0.network/authority", "192.0.2.1:7780", str(others)]
            crowd = subprocess.Popen(["ip", "netns", "exec", A] + command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert crowd.stdout.readline() == "admitted\n"
            began, before = time.monotonic(), first.cpu()
            crowd.stdin.write("\n"); crowd.stdin.flush()
            assert crowd.stdout.readline() == "published\n"
            first.await_peers(count - 2)
            settled, storm_cpu = time.monotonic() - began, first.cpu() - before
            began, before = time.monotonic(), first.cpu()
            crowd.stdin.write("\n"); crowd.stdin.flush()
            assert crowd.stdout.readline() == "published\n"
            first.await_peers(count - 1)
            one_more, one_more_cpu = time.monotonic() - began, first.cpu() - before
            second.await_peers(count - 1)
        time.sleep(3)
        before = first.cpu()
        time.sleep(IDLE)
        idle, memory = (first.cpu() - before) / IDLE, first.memory()
        to = second.address()
        while "1 received" not in sh(f"ip netns exec {A} ping -c1 -W1 {to}", check=False):
            pass
        before = first.cpu()
        stream = load(to, "")
        between = first.cpu()
        datagrams = load(to, "-u -b 0 -l 64")
        after = first.cpu()
        first.stop()
        again = first.up()
        first.await_peers(count - 1)
        return {"all in force s": settled, "CPU s for that": storm_cpu, "one more in force s": one_more, "CPU s for that one": one_more_cpu,
                "MiB idle": memory, "% of a CPU idle": 100 * idle,
                "TCP Gb/s": stream["sum_received"]["bits_per_second"] / 1e9,
                "CPU s/GB": (between - before) / stream["sum_received"]["bytes"] * 1e9,
                "CPU us/packet of 64 B": (after - between) / datagrams["sum"]["packets"] * 1e6,
                "ready again s": again}
    finally:
        if crowd:
            crowd.kill()
            crowd.wait()
        for node in nodes:
            node.stop()
        clear()
        sh(f"rm -r {directory}", check=False)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--adit", default=os.path.join(HERE, "../target/release/adit"), help="the program to measure")
parser.add_argument("--crowd", default=os.path.join(HERE, "../target/release/examples/crowd"), help="what makes the other nodes")
parser.add_argument("--nodes", type=int, default=1000)
parser.add_argument("-r", "--rounds", type=int, default=5)
arguments = parser.parse_args()

rounds = []
for number in range(arguments.rounds):
    rounds.append((measure(2), measure(arguments.nodes)))
    print(f"round {number + 1}/{arguments.rounds}", flush=True)
print(f"\n{arguments.rounds} round(s): median (and the ratios in the same round)\n")
print(f"| | 2 nodes | {arguments.nodes} nodes | ratio | rounds |\n|---|---|---|---|---|")
for name in rounds[0][0]:
    few, many = ([pair[i][name] for pair in rounds] for i in (0, 1))
    ratios = [b / a for a, b in zip(few, many) if a]
    ratio, each = (f"{statistics.median(ratios):.2f}", " ".join(f"{r:.2f}" for r in ratios)) if len(ratios) == len(few) else ("", " ".join(f"{b:.2f}" for b in many))
    print(f"| {name} | {statistics.median(few):.2f} | {statistics.median(many):.2f} | {ratio} | {each} |")
