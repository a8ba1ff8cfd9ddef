#!/usr/bin/env python3
"""What many peers cost a daemon: time to be ready, memory, and processor time per packet, beside a daemon with one peer.

    cargo build --release
    sudo bench/peers.py                          # 1 and 10,000 wireguard peers, 5 interleaved rounds
    sudo bench/peers.py --transport sealed --peers 1000

One peer of many is another daemon in a second namespace; the others are keys that nobody has. Per round: one TCP stream of 3 s, and
64-byte UDP datagrams for 3 s as fast as iperf3 sends them; processor time is that of the daemon with many peers.
Needs root, iproute2, iperf3, iputils-ping; traffic stays inside the two namespaces.
"""
import argparse, base64, json, os, statistics, subprocess, tempfile, time

A, B = "adit-peers-a", "adit-peers-b"
HERE = os.path.dirname(os.path.abspath(__file__))


def sh(command, check=True):
    return subprocess.run(command, shell=True, check=check, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def clear():
    for namespace in (A, B):
        sh(f"ip netns delete {namespace}", check=False)


def configuration(directory, number, others):
    text = [f'[device]\naddresses = ["10.77.0.{number}/24"]\nprivate-key-file = "{directory}/key{number}"\n',
            f'[transport]\nlisten = "192.0.2.{number}:7777"\n']
    for name, key, prefix, endpoint in others:
        text.append(f'[[peer]]\nname = "{name}"\npublic-key = "{key}"\nallowed-ips = ["{prefix}"]\ntransport = "{arguments.transport}"\n')
        text.append(f'endpoint = "{endpoint}"\n' if endpoint else "")
    path = f"{directory}/{number}.toml"
    with open(path, "w") as file:
        file.write("".join(text))
    return path


class Daemon:
    def __init__(self, namespace, path, directory):
        began = time.monotonic()
        command = f"exec ip netns exec {namespace} {arguments.adit} up --config {path} --runtime-dir {path}.run --state-dir {path}.state"
        self.process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=open(f"{directory}/log", "a"), text=True)
        if "is up" not in self.process.stdout.readline():
            raise RuntimeError(open(f"{directory}/log").read())
        self.ready = time.monotonic() - began

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def load(options):
    server = subprocess.Popen(["ip", "netns", "exec", B, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if ":5201" in sh(f"ip netns exec {B} ss -Htln", check=False):
                break
            time.sleep(0.02)
        return json.loads(sh(f"ip netns exec {A} iperf3 -c 10.77.0.2 -t 3 -J {options}"))["end"]
    finally:
        server.kill()
        server.wait()


def measure(count):
    clear()
    directory = tempfile.mkdtemp(prefix="adit-peers-")
    daemons = []
    try:
        for namespace in (A, B):
            sh(f"ip netns add {namespace} && ip -n {namespace} link set lo up")
        sh(f"ip link add under0 netns {A} type veth peer name under0 netns {B}")
        public = {}
        for number, namespace in ((1, A), (2, B)):
            sh(f"ip -n {namespace} address add 192.0.2.{number}/24 dev under0 && ip -n {namespace} link set under0 up")
            sh(f"umask 077 && {arguments.adit} keygen > {directory}/key{number}")
            public[number] = sh(f"{arguments.adit} pubkey < {directory}/key{number}").strip()
        key = lambda: base64.b64encode(os.urandom(31) + b"\x40").decode()
        others = [(f"n{i}", key(), f"10.{100 + (i >> 16)}.{i >> 8 & 255}.{i & 255}/32", None) for i in range(count - 1)]
        others.insert(len(others) // 2, ("real", public[2], "10.77.0.2/32", "192.0.2.2:7777"))
        far = configuration(directory, 2, [("many", public[1], "10.77.0.1/32", "192.0.2.1:7777")])
        daemons.append(Daemon(B, far, directory))
        many = Daemon(A, configuration(directory, 1, others), directory)
        daemons.append(many)
        started, idle = many.cpu(), many.memory()
        while "1 received" not in sh(f"ip netns exec {A} ping -c1 -W1 10.77.0.2", check=False):
            pass
        before = many.cpu()
        stream = load("")
        between = many.cpu()
        datagrams = load("-u -b 0 -l 64")
        after = many.cpu()
        return {"ready s": many.ready, "CPU s to be ready": started, "MiB idle": idle, "MiB after": many.memory(),
                "TCP Gb/s": stream["sum_received"]["bits_per_second"] / 1e9,
                "CPU s/GB": (between - before) / stream["sum_received"]["bytes"] * 1e9,
                "CPU us/packet of 64 B": (after - between) / datagrams["sum"]["packets"] * 1e6}
    finally:
        for daemon in daemons:
            daemon.stop()
        clear()
        sh(f"rm -r {directory}", check=False)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--adit", default=os.path.join(HERE, "../target/release/adit"), help="the program to measure")
parser.add_argument("--transport", choices=("wireguard", "sealed"), default="wireguard")
parser.add_argument("--peers", type=int, default=10_000)
parser.add_argument("-r", "--rounds", type=int, default=5)
arguments = parser.parse_args()

rounds = []
for number in range(arguments.rounds):
    rounds.append((measure(1), measure(arguments.peers)))
    print(f"round {number + 1}/{arguments.rounds}", flush=True)
print(f"\n{arguments.transport}, {arguments.rounds} round(s): median (of the ratios in the same round)\n")
print(f"| | 1 peer | {arguments.peers} peers | ratio | rounds |\n|---|---|---|---|---|")
for name in rounds[0][0]:
    one, many = ([pair[i][name] for pair in rounds] for i in (0, 1))
    ratios = [b / a for a, b in zip(one, many)]
    print(f"| {name} | {statistics.median(one):.2f} | {statistics.median(many):.2f} | {statistics.median(ratios):.2f} | {' '.join(f'{r:.2f}' for r in ratios)} |")
