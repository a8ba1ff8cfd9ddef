#!/usr/bin/env python3
"""Measure adit beside other tunnels between two network namespaces, in one run.

    cargo build --release
    sudo bench/compare.py                              # everything that is installed
    sudo bench/compare.py vxlan sealed plain           # only these
    sudo bench/compare.py sealed-1 sealed-2            # four streams on two workers against one
    sudo bench/compare.py -u wire -r 5 --json out.json

Systems:
  veth                   the limit: no tunnel at all
  vxlan                  the kernel's tunnel, no encryption
  sealed, wireguard      adit, encrypted: its own transport, and WireGuard's
  sealed-1, sealed-2     the same as sealed with 1 and with 2 workers, whatever the machine has
  sealed-tap             the same as sealed with frames instead of packets: mode = "tap"
  plain                  adit without encryption
  classic                adit without encryption and offloads, one packet per system call: flannel's UDP mode as it was
  sealed-poll, plain-poll  adit that looks for 50 us before it sleeps
  wireguard-go, openvpn, tinc  others in user space, from Debian: sudo apt-get install wireguard-go openvpn openssl tinc
                         (packaging/bench-packages)
  boringtun, gotatun     others in user space, from the Rust registry (packaging/test-crates, which ./test installs)
What is not installed is left out, unless it is named.

Underlays: `virtual` is a veth pair with its offloads (what two VMs or containers on one host see); `wire` is a veth pair
without segmentation offload, so that every datagram crosses alone (nearer to a cable).

Absolute numbers drift from machine to machine and minute to minute: read the ratios. Systems are interleaved, round by
round, and each figure is the median of the rounds; ratios divide by vxlan's figure of the same round.
Noise is 15 to 25 %: use -r 5 or more before believing a small difference. A system that fails makes the exit status 1.

The congestion control is cubic where the kernel lets a namespace choose it (it must be in net.ipv4.tcp_allowed_congestion_control of
the host), else the host's own; the table says which it was.

Needs root, iproute2, iperf3, sockperf, ethtool, iputils-ping, wireguard-tools (packaging/test-packages); traffic stays inside the two namespaces.
"""
import argparse, json, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
A, B = "adit-cmp-a", "adit-cmp-b"
NS = (A, B)
UNDERLAY = ("192.0.2.1", "192.0.2.2")
INNER = ("10.77.0.1", "10.77.0.2")
COLUMNS = [("tcp1", "TCP x1 Gb/s"), ("tcp4", "TCP x4 Gb/s"), ("cpu", "CPU s/GB"), ("kpps", "UDP 64 B kpps"),
           ("p50", "rtt p50 us"), ("p99", "rtt p99 us")]


def sh(command, check=True):
    done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
    return done.stdout


class Bed:
    """Two namespaces joined by a veth pair, and the processes started in them."""

    def __init__(self, underlay, directory, adit):
        self.underlay, self.directory, self.adit, self.running = underlay, directory, adit, []

    def __enter__(self):
        self.clear()
        for ns in NS:
            sh(f"ip netns add {ns} && ip -n {ns} link set lo up")
            sh(f"ip netns exec {ns} sysctl -qw net.ipv4.tcp_congestion_control=cubic", check=False)
        sh(f"ip link add under0 netns {A} type veth peer name under0 netns {B}")
        for ns, address in zip(NS, UNDERLAY):
            sh(f"ip -n {ns} address add {address}/24 dev under0 && ip -n {ns} link set under0 up")
            if self.underlay == "wire":
                sh(f"ip netns exec {ns} ethtool -K under0 tso off gso off gro on tx-udp-segmentation off", check=False)
                sh(f"ip -n {ns} link set under0 gso_max_size 1500 gso_max_segs 1", check=False)
        return self

    def __exit__(self, *_):
        for process in self.running:
            try:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=3)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        self.running.clear()
        self.clear()

    def clear(self):
        for ns in NS:
            sh(f"ip netns delete {ns}", check=False)

    def start(self, ns, command):
        log = open(os.path.join(self.directory, "log"), "a")
        process = subprocess.Popen(f"exec ip netns exec {ns} {command}", shell=True, stdout=log, stderr=log, start_new_session=True)
        self.running.append(process)
        return process

    def address(self, i, device, mtu=None):
        for _ in range(100):
            if subprocess.run(["ip", "-n", NS[i], "link", "show", device], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)
        sh(f"ip -n {NS[i]} address replace {INNER[i]}/24 dev {device}")
        sh(f"ip -n {NS[i]} link set {device} up" + (f" mtu {mtu}" if mtu else ""))

    def reachable(self):
        for _ in range(20):
            if subprocess.run(["ip", "netns", "exec", A, "ping", "-c1", "-W1", INNER[1]], capture_output=True).returncode == 0:
                return True
            time.sleep(0.2)
        return False


# ---- the systems: each is a function that ties the two namespaces together -------------------------------------------

def veth(bed):
    for i in (0, 1):
        sh(f"ip -n {NS[i]} address add {INNER[i]}/24 dev under0")


def vxlan(bed):
    for i in (0, 1):
        sh(f"ip -n {NS[i]} link add vx0 type vxlan id 7 dstport 4789 local {UNDERLAY[i]} remote {UNDERLAY[1 - i]} dev under0")
        bed.address(i, "vx0", 1450)


def keys():
    private = [sh("wg genkey").strip() for _ in (0, 1)]
    public = [subprocess.run(["wg", "pubkey"], input=k, text=True, capture_output=True).stdout.strip() for k in private]
    return private, public


def wireguard_userspace(command):
    def system(bed):
        private, public = keys()
        for i in (0, 1):
            bed.start(NS[i], command.format(device=f"awg{i}"))
        for i in (0, 1):
            path = os.path.join(bed.directory, f"awg{i}.conf")
            with open(path, "w") as f:
                f.write(f"[Interface]\nPrivateKey={private[i]}\nListenPort=51820\n[Peer]\nPublicKey={public[1 - i]}\n"
                        f"AllowedIPs=10.77.0.0/24\nEndpoint={UNDERLAY[1 - i]}:51820\n")
            for attempt in range(50):
                if subprocess.run(["ip", "netns", "exec", NS[i], "wg", "setconf", f"awg{i}", path], capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            bed.address(i, f"awg{i}", 1420)
    return system


def adit(transport, extra="", mode="tun"):
    def system(bed):
        private, public = keys()
        for i in (0, 1):
            base = os.path.join(bed.directory, f"adit{i}")
            os.makedirs(base, exist_ok=True)
            with open(f"{base}/key", "w", opener=lambda p, fl: os.open(p, fl, 0o600)) as f:
                f.write(private[i] + "\n")
            with open(f"{base}/adit.toml", "w") as f:
                reached = 'allowed-ips = ["10.77.0.0/24"]\n' if mode == "tun" else ""
                f.write(f'[device]\nname = "adit0"\nmode = "{mode}"\naddresses = ["{INNER[i]}/24"]\nprivate-key-file = "{base}/key"\n'
                        f'[transport]\nlisten = "{UNDERLAY[i]}:7777"\n{extra}\n'
                        f'[[peer]]\nname = "other"\npublic-key = "{public[1 - i]}"\nendpoint = "{UNDERLAY[1 - i]}:7777"\n'
                        f'{reached}transport = "{transport}"\n')
            bed.start(NS[i], f"{bed.adit} up --config {base}/adit.toml --runtime-dir {base}/run --state-dir {base}/state")
        time.sleep(1)
    return system


def openvpn(bed):
    d = bed.directory
    for i in (0, 1):
        sh(f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -keyout {d}/{i}.key -out {d}/{i}.crt -nodes -sha256 -days 30 -subj /CN=h{i}")
    prints = [sh(f"openssl x509 -fingerprint -sha256 -noout -in {d}/{i}.crt").split("=")[1].strip() for i in (0, 1)]
    for i in (0, 1):
        role = "--tls-server --dh none" if i == 0 else "--tls-client"
        bed.start(NS[i], f"openvpn --dev tun0 --dev-type tun --proto udp --local {UNDERLAY[i]} --remote {UNDERLAY[1 - i]} "
                         f"--ifconfig {INNER[i]} {INNER[1 - i]} {role} --cert {d}/{i}.crt --key {d}/{i}.key "
                         f"--peer-fingerprint {prints[1 - i]} --data-ciphers AES-256-GCM --cipher AES-256-GCM --disable-dco --verb 1")
    time.sleep(3)


def tinc(bed):
    for i in (0, 1):
        d = f"{bed.directory}/tinc{i}"
        os.makedirs(f"{d}/hosts", exist_ok=True)
        with open(f"{d}/tinc.conf", "w") as f:
            f.write(f"Name=h{i}\nInterface=ti0\nDeviceType=tun\n" + ("ConnectTo=h0\n" if i else ""))
        with open(f"{d}/hosts/h{i}", "w") as f:
            f.write(f"Address={UNDERLAY[i]}\nSubnet={INNER[i]}/32\nCipher=aes-256-cbc\n")
        with open(f"{d}/tinc-up", "w") as f:
            f.write(f"#!/bin/sh\nip address add {INNER[i]}/24 dev ti0; ip link set ti0 up mtu 1400\n")
        sh(f"chmod +x {d}/tinc-up; yes '' | tincd -c {d} -K2048")
    sh(f"cp {bed.directory}/tinc0/hosts/h0 {bed.directory}/tinc1/hosts/; cp {bed.directory}/tinc1/hosts/h1 {bed.directory}/tinc0/hosts/")
    for i in (0, 1):
        bed.start(NS[i], f"tincd -c {bed.directory}/tinc{i} -D --pidfile={bed.directory}/tinc{i}.pid")
    time.sleep(3)


SYSTEMS = {
    "veth": veth, "vxlan": vxlan,
    "sealed": adit("sealed"), "wireguard": adit("wireguard"), "plain": adit("plain"), "classic": adit("plain", "offload = false"),
    "sealed-1": adit("sealed", "workers = 1"), "sealed-2": adit("sealed", "workers = 2"),
    "sealed-tap": adit("sealed", mode="tap"),
    "sealed-poll": adit("sealed", 'busy-poll = "50us"'), "plain-poll": adit("plain", 'busy-poll = "50us"'),
    "wireguard-go": wireguard_userspace("env WG_PROCESS_FOREGROUND=1 wireguard-go -f {device}"),
    "boringtun": wireguard_userspace("env WG_SUDO=1 boringtun-cli -f --disable-drop-privileges {device}"),
    "gotatun": wireguard_userspace("gotatun -f --disable-drop-privileges {device}"),
    "openvpn": openvpn, "tinc": tinc,
}
ADIT = {"sealed", "wireguard", "plain", "classic", "sealed-1", "sealed-2", "sealed-tap", "sealed-poll", "plain-poll"}
PROGRAM = {"wireguard-go": "wireguard-go", "boringtun": "boringtun-cli", "gotatun": "gotatun", "openvpn": "openvpn", "tinc": "tincd"}


# ---- what is measured ------------------------------------------------------------------------------------------------

def busy_seconds():
    fields = list(map(int, open("/proc/stat").readline().split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def iperf(bed, arguments, seconds):
    server = bed.start(B, "iperf3 -s -1 -p 5201")
    time.sleep(0.3)
    before = busy_seconds()
    text = sh(f"ip netns exec {A} timeout {seconds + 15} iperf3 -c {INNER[1]} -p 5201 -J -t {seconds} {arguments}", check=False)
    busy = busy_seconds() - before
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    try:
        end = json.loads(text)["end"]
        return end, busy
    except (ValueError, KeyError):
        return None, None


def measure(bed, seconds):
    figures = {}
    end, busy = iperf(bed, "", seconds)
    if end:
        received = end["sum_received"]
        figures["tcp1"] = received["bits_per_second"] / 1e9
        figures["cpu"] = busy / (received["bytes"] / 1e9) if received["bytes"] else None
    end, _ = iperf(bed, "-P4", seconds)
    if end:
        figures["tcp4"] = end["sum_received"]["bits_per_second"] / 1e9
    end, _ = iperf(bed, "-u -b 0 -l 64", seconds)
    if end:
        total = end["sum"]
        figures["kpps"] = (total["packets"] - total.get("lost_packets", 0)) / total["seconds"] / 1e3
    bed.start(B, f"sockperf server -i {INNER[1]} -p 11111")
    time.sleep(0.4)
    text = sh(f"ip netns exec {A} sockperf ping-pong -i {INNER[1]} -p 11111 -t 3 -m 64 --full-rtt", check=False)
    for name, mark in (("p50", r"percentile 50\.000 =\s*([\d.]+)"), ("p99", r"percentile 99\.000 =\s*([\d.]+)")):
        found = re.search(mark, text)
        figures[name] = float(found[1]) if found else None
    return figures


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("systems", nargs="*")
    p.add_argument("--adit", default=os.path.join(HERE, "../target/release/adit"), help="the program to measure")
    p.add_argument("-u", "--underlay", choices=("virtual", "wire"), default="virtual")
    p.add_argument("-t", "--seconds", type=int, default=4)
    p.add_argument("-r", "--rounds", type=int, default=1)
    p.add_argument("--json")
    o = p.parse_args()
    names = o.systems or [n for n in SYSTEMS if shutil.which(PROGRAM.get(n, "ip"))]
    unknown = [n for n in names if n not in SYSTEMS]
    if unknown:
        p.error(f"unknown system {', '.join(unknown)}; known: {', '.join(SYSTEMS)}")
    adit_path = os.path.abspath(o.adit)
    if ADIT & set(names) and not os.access(adit_path, os.X_OK):
        p.error(f"{adit_path} is not there: run 'cargo build --release', or name another with --adit")
    rounds, failed, congestion = {n: [] for n in names}, False, "?"
    for r in range(o.rounds):
        for name in names:
            with tempfile.TemporaryDirectory(prefix="adit-cmp-") as directory, Bed(o.underlay, directory, adit_path) as bed:
                try:
                    SYSTEMS[name](bed)
                    if not bed.reachable():
                        raise RuntimeError("no connectivity: " + sh(f"tail -3 {directory}/log", check=False).strip())
                    congestion = sh(f"ip netns exec {A} sysctl -n net.ipv4.tcp_congestion_control", check=False).strip()
                    figures = measure(bed, o.seconds)
                except (RuntimeError, OSError) as e:
                    print(f"{name}: {e}", file=sys.stderr)
                    figures, failed = {}, True
                rounds[name].append(figures)
            print(f"round {r + 1}/{o.rounds} {name}", file=sys.stderr, flush=True)

    def median(name, key):
        values = [f[key] for f in rounds[name] if f.get(key) is not None]
        return statistics.median(values) if values else None

    def against_vxlan(name, key):
        pairs = [a[key] / b[key] for a, b in zip(rounds[name], rounds.get("vxlan", [])) if a.get(key) and b.get(key)]
        return statistics.median(pairs) if pairs else None

    table = {n: {k: median(n, k) for k, _ in COLUMNS} | {"ratios": {k: against_vxlan(n, k) for k, _ in COLUMNS}} for n in names}
    print(f"\nunderlay {o.underlay}, {o.rounds} round(s) of {o.seconds} s, {congestion}; in brackets: divided by vxlan\n")
    print("| system | " + " | ".join(t for _, t in COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for n in names:
        cells = []
        for k, _ in COLUMNS:
            figure, ratio = table[n][k], table[n]["ratios"][k]
            cells.append("-" if figure is None else f"{figure:.2f}" + (f" ({ratio:.2f})" if ratio is not None else ""))
        print(f"| {n} | " + " | ".join(cells) + " |")
    if o.json:
        with open(o.json, "w") as f:
            json.dump({"underlay": o.underlay, "table": table, "rounds": rounds}, f, indent=1)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
