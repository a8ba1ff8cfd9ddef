#!/usr/bin/env python3
"""How long a container's ADD and DEL take by our CNI plugin, beside the stock bridge with host-local on the same host: interleaved, p50 and p99.

    cargo build --release
    sudo bench/cni.py                            # 500 pairs, one at a time
    sudo bench/cni.py --at-once 16               # 16 runtimes at the same time
    sudo bench/cni.py --containers 200           # on a host that has 200 already
    sudo bench/cni.py --json results.json

Each pair is two fresh namespaces: one is added and removed by ours, the other by the stock plugins, in an order that is drawn anew each time. What is timed is the
plugin from its start to its end, as a runtime waits for it. The ratio is that of the medians and of the p99, with a 95 % interval by resampling the pairs. Both keep
their records on the same file system. Needs root, iproute2, containernetworking-plugins; all is inside one namespace, and nothing is left.
"""
import argparse, concurrent.futures, json, os, random, shutil, subprocess, sys, tempfile, threading, time

HOST = "adit-bench-cni"
HERE = os.path.dirname(os.path.abspath(__file__))


def sh(command, check=True):
    return subprocess.run(command, shell=True, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Plugin:
    """A plugin, with its configuration of one network."""

    def __init__(self, name, program, configuration):
        self.name, self.program, self.configuration = name, program, json.dumps(configuration)

    def call(self, verb, container):
        environment = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0", "CNI_PATH": arguments.stock, "PATH": os.environ["PATH"],
        }
        began = time.perf_counter()
        process = subprocess.Popen([self.program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(self.configuration)
        took = (time.perf_counter() - began) * 1000
        if process.returncode != 0:
            raise RuntimeError(f"{self.name} {verb}: {out}{err}")
        return took


def plugins(directory):
    node = {
        "device": "adit0", "name": "berlin", "domain": None, "bridge": "adit-br0", "networks": ["10.42.0.0/16"],
        "subnets": ["10.42.64.0/20"], "mtu": 1420, "clients": [],
    }
    os.makedirs(f"{directory}/run")
    with open(f"{directory}/run/adit0.node", "w") as file:
        json.dump(node, file)
    ours = {"cniVersion": "1.0.0", "name": "bench", "type": "adit", "runtimeDir": f"{directory}/run", "stateDir": f"{directory}/state"}
    stock = {
        "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "mtu": 1420,
        "ipam": {"type": "host-local", "dataDir": f"{directory}/host-local", "ranges": [[{"subnet": "10.43.64.0/20"}]]},
    }
    return Plugin("ours", arguments.adit, ours), Plugin("stock", f"{arguments.stock}/bridge", stock)


def pair(number, both, times, lock):
    """Adds and removes a container by each of both, in an order that is drawn."""
    for plugin in random.sample(both, 2):
        container = f"{HOST}-{number}-{plugin.name}"
        sh(f"ip netns add {container}")
        try:
            added = plugin.call("ADD", container)
            removed = plugin.call("DEL", container)
        finally:
            sh(f"ip netns delete {container}", check=False)
        with lock:
            times[plugin.name, "ADD"][number] = added
            times[plugin.name, "DEL"][number] = removed


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def interval(ours, stock, q, rounds=1000):
    """The ratio of the quantiles, and where 95 % of those lie that resampled pairs have."""
    pairs = list(zip(ours, stock))
    ratios = []
    for _ in range(rounds):
        sample = random.choices(pairs, k=len(pairs))
        ratios.append(quantile([a for a, _ in sample], q) / quantile([b for _, b in sample], q))
    ratios.sort()
    return quantile(ours, q) / quantile(stock, q), ratios[int(0.025 * rounds)], ratios[int(0.975 * rounds)]


def inside():
    """All of it, in a namespace that is the host."""
    directory = tempfile.mkdtemp(prefix="adit-bench-cni-", dir=arguments.directory)
    standing = []
    try:
        sh("ip link set lo up && ip tuntap add adit0 mode tun && ip link set adit0 up")
        both = plugins(directory)
        for number in range(arguments.containers):
            for plugin in both:
                container = f"{HOST}-standing-{number}-{plugin.name}"
                sh(f"ip netns add {container}")
                standing.append(container)
                plugin.call("ADD", container)
        if not arguments.containers:
            # Bridges come and go with the first and the last container: a host at work has them.
            for plugin in both:
                container = f"{HOST}-standing-{plugin.name}"
                sh(f"ip netns add {container}")
                standing.append(container)
                plugin.call("ADD", container)
        times = {(plugin.name, verb): {} for plugin in both for verb in ("ADD", "DEL")}
        lock = threading.Lock()
        with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
            for done in [pool.submit(pair, number, both, times, lock) for number in range(arguments.pairs)]:
                done.result()
        report(times)
    finally:
        for container in standing:
            sh(f"ip netns delete {container}", check=False)
        shutil.rmtree(directory, ignore_errors=True)


def report(times):
    result = {"pairs": arguments.pairs, "at_once": arguments.at_once, "containers": arguments.containers, "program": arguments.adit}
    print(f"{arguments.pairs} pairs, {arguments.at_once} at once, {arguments.containers} containers there already")
    print(f"{'':12}{'ours ms':>10}{'stock ms':>10}{'ratio':>8}  95 % interval")
    for verb in ("ADD", "DEL"):
        numbers = sorted(times["ours", verb])
        ours, stock = ([times[name, verb][number] for number in numbers] for name in ("ours", "stock"))
        for word, q in (("p50", 0.5), ("p99", 0.99)):
            ratio, low, high = interval(ours, stock, q)
            print(f"{verb + ' ' + word:12}{quantile(ours, q):10.1f}{quantile(stock, q):10.1f}{ratio:8.2f}  {low:.2f} to {high:.2f}")
            result[f"{verb} {word}"] = {"ours_ms": quantile(ours, q), "stock_ms": quantile(stock, q), "ratio": ratio, "low": low, "high": high}
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=1)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adit", default=os.path.join(HERE, "../target/release/adit"), help="the program")
    parser.add_argument("--stock", default="/usr/lib/cni", help="where the stock plugins are")
    parser.add_argument("-n", "--pairs", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="how many runtimes call plugins at the same time")
    parser.add_argument("--containers", type=int, default=0, metavar="N", help="how many containers each plugin has made before")
    parser.add_argument("--directory", default="/var/tmp", help="where both keep their records")
    parser.add_argument("--json", help="a file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    arguments.adit = os.path.abspath(arguments.adit)
    if os.geteuid() != 0:
        sys.exit("run this as root")
    if os.environ.get("ADIT_BENCH_INSIDE") == HOST:
        inside()
    else:
        sh(f"ip netns delete {HOST}", check=False)
        sh(f"ip netns add {HOST}")
        try:
            environment = {**os.environ, "ADIT_BENCH_INSIDE": HOST}
            command = ["nsenter", f"--net=/run/netns/{HOST}", sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
            sys.exit(subprocess.run(command, env=environment).returncode)
        finally:
            sh(f"ip netns delete {HOST}", check=False)
