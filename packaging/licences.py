#!/usr/bin/env python3
"""Checks that everything adit links is under a licence that its own (MIT or Apache-2.0) can be combined with.

Reads `cargo metadata`, for Linux and without development dependencies, and fails on the first licence that is not on the list.
"""
import json
import re
import subprocess
import sys

ALLOWED = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "0BSD", "Zlib", "Unicode-3.0",
    "Unlicense", "OpenSSL", "CC0-1.0", "BSL-1.0",
}


def permitted(expression):
    """Whether an SPDX expression can be satisfied with ALLOWED alone: OR of ANDs, with parentheses."""
    expression = expression.replace("/", " OR ")
    names = sorted(set(re.findall(r"[A-Za-z0-9.+-]+(?: WITH [A-Za-z0-9.+-]+)?", expression)) - {"OR", "AND"}, key=len, reverse=True)
    for name in names:
        expression = re.sub(rf"(?<![\w.+-]){re.escape(name)}(?![\w.+-])", str(name in ALLOWED), expression)
    return eval(expression.replace("AND", "and").replace("OR", "or"), {"__builtins__": {}})


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    packages = {p["id"]: p for p in metadata["packages"]}
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    linked, waiting = set(), list(metadata["workspace_members"])
    while waiting:
        current = waiting.pop()
        if current in linked:
            continue
        linked.add(current)
        for dependency in nodes[current]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    bad = []
    for package in sorted((packages[i] for i in linked), key=lambda p: p["name"]):
        licence = package.get("license")
        if not licence or not permitted(licence):
            bad.append(f"{package['name']} {package['version']}: {licence}")
    print(f"{len(linked)} packages looked at, {len(bad)} with a licence that is not on the list")
    for line in bad:
        print(f"  {line}", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
