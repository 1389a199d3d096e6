"""Memory while training: a table twenty times larger must not need more.

    python benchmarks/memory.py [--quick]

Every fit is a fresh process that samples its own anonymous memory (what it allocated; pages of memory-mapped files,
which the system may drop at any time, are shown beside it). Linux only; elsewhere it says so.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from result import Report, arguments, middle
from tables import mixed

CHILD = """
import json, sys, threading
import polyfuse
peak = {"RssAnon": 0, "VmHWM": 0}
def sample():
    with open("/proc/self/status") as file:
        for line in file:
            name = line.split(":")[0]
            if name in peak:
                peak[name] = max(peak[name], int(line.split()[1]))
done = threading.Event()
def watch():
    while not done.wait(0.02):
        sample()
watcher = threading.Thread(target=watch)
watcher.start()
polyfuse.fit(sys.argv[1], device="cpu", threads=2, **json.loads(sys.argv[2]))
done.set()
watcher.join()
sample()
print(json.dumps(peak))
"""

EPOCH = {"target": "label", "size": "s", "set": {"train.epochs": 1, "train.batch": 64}}


def peak_mb(table: Path, cache: Path, options: dict[str, Any]) -> dict[str, float]:
    """The most that a process held while it fitted with these options: what it allocated, and with the files it mapped."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "POLYFUSE_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", CHILD, str(table), json.dumps(options)], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {name: kb / 1024 for name, kb in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    quick = arguments(__doc__).quick
    if not Path("/proc/self/status").exists():
        print("memory.py reads /proc, which this system does not have: nothing measured")
        return
    rows, repeats = (300, 1) if quick else (1000, 3)
    report = Report(__file__, quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = (mixed(folder / f"{count}.csv", count, side=32, distinct=300 if quick else None) for count in (rows, 20 * rows))
        found: dict[str, list[dict[str, float]]] = {"small": [], "large": []}
        for turn in range(repeats):
            found["small"].append(peak_mb(small, folder / f"cache-s{turn}", EPOCH))
            found["large"].append(peak_mb(large, folder / f"cache-l{turn}", EPOCH))
    for size, count in (("small", rows), ("large", 20 * rows)):
        report.add(f"peak while training on {count} rows, allocated", *middle([p["RssAnon"] for p in found[size]]), "MB")
        report.add(f"peak while training on {count} rows, with mapped files", *middle([p["VmHWM"] for p in found[size]]), "MB")
    ratios = [b["RssAnon"] / a["RssAnon"] for a, b in zip(found["small"], found["large"])]
    report.add("allocated memory, 20 times the rows", *middle(ratios), "x", at_most=1.2)
    grown = [(b["RssAnon"] - a["RssAnon"]) * 2**20 / (19 * rows) for a, b in zip(found["small"], found["large"])]
    report.add("growth for each further row", *middle(grown), "bytes")
    report.close()


if __name__ == "__main__":
    main()
