"""How long one waits for the first sign of life: import, --help, the first training step after process start.

    python benchmarks/start.py [--quick]

Every measurement is the processor time of a fresh process. The plain script reads the same table, builds a network of
the same kind by hand and makes one step; the difference is what polyfuse adds.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from result import Report, arguments, middle
from tables import mixed

IMPORT = """
import time, sys
start = time.process_time()
import polyfuse
print(time.process_time() - start)
assert "torch" not in sys.modules
"""

STEP = """
import os, sys, time
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
def first_step(*_):
    print(time.process_time(), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(first_step)
import polyfuse
polyfuse.fit(sys.argv[1], "label", device="cpu", threads=1)
"""

PLAIN = """
import csv, os, sys, time
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torch import nn
torch.set_num_threads(1)
with open(sys.argv[1], newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
base = Path(sys.argv[1]).parent
numbers = torch.tensor([[float(v) for k, v in r.items() if k[0] == "n"] for r in rows])
numbers = (numbers - numbers.mean(0)) / numbers.std(0)
names = [k for k in rows[0] if k[0] == "c"]
index = {k: {v: i for i, v in enumerate(sorted({r[k] for r in rows}))} for k in names}
towns = torch.tensor([[index[k][r[k]] for k in names] for r in rows])
vocabulary = {w: i for i, w in enumerate(sorted({w for r in rows for w in r["text"].split()}))}
text = torch.tensor([[vocabulary[w] for w in r["text"].split()] for r in rows])
images = torch.from_numpy(np.stack([np.asarray(Image.open(base / r["image"]).convert("RGB").resize((64, 64))) for r in rows]))
images = images.permute(0, 3, 1, 2).float() / 255
labels = torch.tensor([int(r["label"] == "yes") for r in rows])
class Network(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
                                   nn.Conv2d(64, width, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.words = nn.EmbeddingBag(len(vocabulary), width)
        self.towns = nn.ModuleList(nn.Embedding(len(index[k]), 16) for k in names)
        self.table = nn.Linear(numbers.shape[1] + 16 * len(names), width)
        self.head = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, 2))
    def forward(self, image, words, towns, numbers):
        table = torch.cat([numbers, *(e(towns[:, i]) for i, e in enumerate(self.towns))], 1)
        return self.head(torch.cat([self.image(image), self.words(words), self.table(table)], 1))
network = Network()
optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
b = torch.randperm(len(rows))[:16]
nn.functional.cross_entropy(network(images[b], text[b], towns[b], numbers[b]), labels[b]).backward()
optimizer.step()
print(time.process_time(), flush=True)
os._exit(0)
"""


def printed(code: str, *given: str, env: dict[str, str]) -> float:
    """The number a fresh process prints last."""
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.split()[-1])


def spent(*command: str, env: dict[str, str]) -> float:
    """Processor seconds, own and system's, of a command."""
    before = os.times()
    subprocess.run(command, capture_output=True, check=True, env=env)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    quick = arguments(__doc__).quick
    repeats = 3 if quick else 9
    report = Report(__file__, quick)
    with tempfile.TemporaryDirectory() as folder:
        table = str(mixed(Path(folder) / "table.csv", 200))
        found: dict[str, list[float]] = {"import": [], "help": [], "step": [], "plain": []}
        for turn in range(repeats + 1):
            env = {**os.environ, "OMP_NUM_THREADS": "1", "POLYFUSE_CACHE": f"{folder}/cache{turn}"}
            made = {
                "import": printed(IMPORT, env=env),
                "help": spent(sys.executable, "-m", "polyfuse.cli", "--help", env=env),
                "step": printed(STEP, table, env=env),
                "plain": printed(PLAIN, table, env=env),
            }
            if turn:  # the first round fills the disk's cache and writes bytecode
                for name, value in made.items():
                    found[name].append(value)
    print(json.dumps({k: [round(v, 3) for v in values] for k, values in found.items()}))
    report.add("import polyfuse, without torch", *middle(found["import"]), "s", at_most=0.15)
    report.add("polyfuse --help", *middle(found["help"]), "s", at_most=0.25)
    report.add("plain script: process start to first training step", *middle(found["plain"]), "s")
    report.add(
        "polyfuse: the same, more than the plain script", *middle([a - b for a, b in zip(found["step"], found["plain"])]), "s", at_most=1.2
    )
    report.close()


if __name__ == "__main__":
    main()
