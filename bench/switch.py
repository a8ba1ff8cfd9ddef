#!/usr/bin/env python3
"""What a peer that floods an Ethernet takes from the others: TCP between two hosts, while a third sends frames.

    cargo build --release
    sudo bench/switch.py                     # 5 interleaved rounds
    sudo bench/switch.py --rate 3G           # a stream that does not need all of the machine
    sudo bench/switch.py --rounds 1 --seconds 4

Three hosts, each a namespace with a daemon of mode = "tap", sealed. The stream goes from the first to the second. The third sends, at the same pace:
  nothing     (what the rest is compared with)
  ordinary    frames for the first host from one address
  addresses   frames for the first host, each from another address: a flood of its table
  storm       frames for all hosts, from one address; the third daemon has no limit of its own, as an attacker's has none
Whoever floods has a machine of their own to do it with, but here shares our processors: 'ordinary' shows what that alone takes, and
the second ratio is to it. Frames are those that the third host's device took. Needs root, iproute2, iperf3, wireguard-tools.
"""
import argparse, json, os, statistics, subprocess, tempfile, time

NAMES = ["adit-sw-a", "adit-sw-b", "adit-sw-c"]
UNDERLAY = "adit-sw-u"
HERE = os.path.dirname(os.path.abspath(__file__))

# Runs within the third namespace: kind, seconds, frames a second, address of the first host. Says how many frames it sent.
SENDER = r"""
import socket, sys, time
kind, seconds, pace, first = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4].replace(":", ""))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("adit0", 0))
to = b"\xff" * 6 if kind == "storm" else first
frame = bytearray(to + b"\x02\xaa\x00\x00\x00\x00\x88\xb5" + bytes(46))
begin, sent, lost = time.monotonic(), 0, 0
while (now := time.monotonic() - begin) < seconds:
    for _ in range(min(int(now * pace) - sent - lost, 500)):
        if kind == "addresses":
            frame[8:12] = (sent + lost).to_bytes(4, "big")
        try:
            wire.send(frame)
            sent += 1
        except OSError:
            lost += 1
    if sent + lost >= int(now * pace):
        time.sleep(0.0005)
print(sent)
"""


def sh(command, check=True):
    return subprocess.run(command, shell=True, check=check, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def inside(name, command, check=True):
    return sh(f"ip netns exec {name} {command}", check)


def clear():
    for name in NAMES + [UNDERLAY]:
        sh(f"ip netns delete {name}", check=False)


def hosts(directory, adit):
    sh(f"ip netns add {UNDERLAY} && ip -n {UNDERLAY} link add br0 type bridge && ip -n {UNDERLAY} link set br0 up")
    private = [sh("wg genkey").strip() for _ in NAMES]
    public = [subprocess.run(["wg", "pubkey"], input=key, text=True, capture_output=True).stdout.strip() for key in private]
    daemons = []
    for i, name in enumerate(NAMES):
        sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(f"ip -n {name} link add eth0 type veth peer name p{i} netns {UNDERLAY}")
        sh(f"ip -n {UNDERLAY} link set p{i} master br0 up && ip -n {name} address add 192.0.2.{i + 1}/24 dev eth0 && ip -n {name} link set eth0 up")
        base = os.path.join(directory, name)
        os.makedirs(base)
        with open(f"{base}/key", "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(private[i] + "\n")
        limit = "[switch]\nstorm-limit = 1000000\n" if i == 2 else ""
        peers = "".join(f'[[peer]]\nname = "host{j + 1}"\npublic-key = "{public[j]}"\nendpoint = "192.0.2.{j + 1}:7777"\n'
                        for j in range(3) if j != i)
        with open(f"{base}/adit.toml", "w") as file:
            file.write(f'[device]\nname = "adit0"\nmode = "tap"\naddresses = ["10.77.0.{i + 1}/24"]\nprivate-key-file = "{base}/key"\n'
                       f'[transport]\nlisten = "192.0.2.{i + 1}:7777"\n{limit}{peers}')
        daemons.append(subprocess.Popen(["ip", "netns", "exec", name, adit, "up", "--config", f"{base}/adit.toml", "--runtime-dir", f"{base}/run",
                                         "--state-dir", f"{base}/state"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return daemons


def await_ping(source, target):
    for _ in range(100):
        if subprocess.run(["ip", "netns", "exec", source, "ping", "-c1", "-W1", target], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    raise SystemExit(f"{source} does not reach {target}")


def measure(kind, seconds, pace, first, rate):
    server = subprocess.Popen(["ip", "netns", "exec", NAMES[1], "iperf3", "-s", "-1", "-B", "10.77.0.2"], stdout=subprocess.DEVNULL)
    sender = None
    if kind != "nothing":
        sender = subprocess.Popen(["ip", "netns", "exec", NAMES[2], "python3", "-c", SENDER, kind, str(seconds + 3), str(pace), first],
                                  stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    told = json.loads(inside(NAMES[0], f"iperf3 -c 10.77.0.2 -t {seconds} -b {rate} -J"))
    sent = int(sender.communicate()[0]) if sender else 0
    server.wait()
    return told["end"]["sum_received"]["bits_per_second"] / 1e9, sent


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--adit", default=os.path.join(HERE, "../target/release/adit"), help="the program to measure")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=8, help="of each stream")
    p.add_argument("--pace", type=int, default=100_000, help="frames a second that the third host sends, if it can")
    p.add_argument("--rate", default="0", help="what the stream is held to, as iperf3 -b takes it: 3G; 0: as fast as it goes")
    o = p.parse_args()
    adit, kinds = os.path.abspath(o.adit), ["nothing", "ordinary", "addresses", "storm"]
    figures, frames = {kind: [] for kind in kinds}, {kind: 0 for kind in kinds}
    clear()
    with tempfile.TemporaryDirectory() as directory:
        daemons = []
        try:
            daemons = hosts(directory, adit)
            for source, target in ((0, "10.77.0.2"), (2, "10.77.0.1"), (2, "10.77.0.2")):
                await_ping(NAMES[source], target)
            first = json.loads(inside(NAMES[0], "ip -j link show adit0"))[0]["address"]
            for round in range(o.rounds):
                for kind in kinds[round % 4:] + kinds[:round % 4]:
                    figure, sent = measure(kind, o.seconds, o.pace, first, o.rate)
                    figures[kind].append(figure)
                    frames[kind] += sent
            base = os.path.join(directory, NAMES[0])
            status = json.loads(inside(NAMES[0], f"{adit} status --json --runtime-dir {base}/run"))
            switch = status["switch"] if "switch" in status else status[0]["switch"]
        finally:
            for daemon in daemons:
                daemon.terminate()
                daemon.wait()
            clear()
    print(f"{o.rounds} rounds of {o.seconds} s; TCP from the first host to the second, medians; in brackets: each round's ratio\n")
    print("| the third sends | frames | Gb/s | beside nothing | beside ordinary |\n|---|---|---|---|---|")
    for kind in kinds:
        row = [f"{statistics.median(figures[kind]):.2f}"]
        for other in ("nothing", "ordinary"):
            ratios = [a / b for a, b in zip(figures[kind], figures[other])]
            row.append(f"{statistics.median(ratios):.2f} ({' '.join(f'{ratio:.2f}' for ratio in ratios)})")
        print(f"| {kind} | {frames[kind]:,} | {' | '.join(row)} |")
    print(f"\nthe first host's switch then: {json.dumps(switch)}")


if __name__ == "__main__":
    main()
