"""Processor time per training row against a loop written by hand, and the rate of preparing JPEG files against Pillow.

    python benchmarks/throughput.py [--quick]

Training: the same layers and batch size; epochs after the first; the plain loop has all its tensors in memory. For the
figure with a bar, what the plain loop does not do is switched off (augmentation, modality dropout, averaged weights);
the other figure has them on. Preparing: 5,000 files of 256 x 256, hashed, decoded, resized and stored, on the same
number of threads as Pillow, which only decodes and resizes.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plain import PlainNetwork, train_plain
from result import Report, arguments, interleaved, middle, ratio
from tables import mixed, pictures

import polyfuse as pf
from polyfuse.core import Column, codecs
from polyfuse.core.progress import Progress
from polyfuse.data import Opener, Source, Store, prepare, read
from polyfuse.learners import TrainOptions, train
from polyfuse.ready import Ready, Run, make_ready, new_bundle
from polyfuse.recipe import resolve

BATCH, EPOCHS, RATE = 64, 3, 2e-3


def ready_table(path: Path, cache: Path) -> Ready:
    """What `fit` has before its first step."""
    table = read(path)
    schema = pf.look(table, "label").schema
    recipe = resolve(schema, fusion="concat", size="m", seed=0, settings={})
    return make_ready(Run(schema, recipe, table, Progress(True), Store(cache), os.cpu_count() or 1, 0.1, False))


def later_epochs(stamps: list[float]) -> float:
    """Mean processor seconds of the epochs after the first."""
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def epochs_of_ours(ready: Ready, extras: bool) -> float:
    bundle = new_bundle(ready)
    options = {} if extras else {"drop": 0.0, "average": 0.0}
    stamps: list[float] = []
    before = ready.data.codecs
    if not extras:
        ready.data.codecs = {view: _Still() for view in before}
    train(
        bundle.model,
        ready.data,
        ready.rows,
        ready.held[:8],
        TrainOptions(epochs=EPOCHS, batch=BATCH, rate=RATE, **options),
        device="cpu",
        log=lambda _: stamps.append(time.process_time()),
    )
    ready.data.codecs = before
    return later_epochs(stamps)


def epochs_of_plain(ready: Ready, inputs: list[dict[str, torch.Tensor]], labels: torch.Tensor) -> float:
    stamps: list[float] = []
    train_plain(PlainNetwork(new_bundle(ready)), inputs, labels, EPOCHS, BATCH, RATE, 0, lambda: stamps.append(time.process_time()))
    return later_epochs(stamps)


class _Still:
    """Stands in for a codec whose cells are not to be augmented."""

    def augment(self, x: Any, draws: Any) -> Any:
        return x


def training(report: Report, folder: Path, quick: bool) -> None:
    ready = ready_table(mixed(folder / "train.csv", 300 if quick else 2000), folder / "cache")
    whole = ready.data.batch(ready.rows)
    inputs = [{k: v.clone() for k, v in whole.cells[view].x.items()} for view in ready.data.views]
    labels = whole.cells["label"].x["index"][:, 0] - 1  # 0 is "never seen"
    seconds: dict[str, list[float]] = {"plain": [], "ours": [], "extras": []}
    for turn in range(3 if quick else 7):
        order = [
            ("plain", lambda: epochs_of_plain(ready, inputs, labels)),
            ("ours", lambda: epochs_of_ours(ready, False)),
            ("extras", lambda: epochs_of_ours(ready, True)),
        ]
        for name, side in order if turn % 2 else order[::-1]:
            seconds[name].append(side() / len(ready.rows))
    value, spread = middle(seconds["plain"])
    report.add("training: plain loop, a row", value * 1e3, spread * 1e3, "ms")
    report.add("training: polyfuse over the plain loop, same work", *ratio(seconds["ours"], seconds["plain"]), "x", at_most=1.1)
    report.add(
        "training: polyfuse with augmentation, modality dropout and averaging over the plain loop",
        *ratio(seconds["extras"], seconds["plain"]),
        "x",
    )


def preparing(report: Report, folder: Path, quick: bool) -> None:
    count, threads = (200 if quick else 5000), os.cpu_count() or 1
    paths = [folder / "photos" / name for name in pictures(folder / "photos", count, 256)]
    column = Column("photo", "image")
    table = read([{"photo": f"photos/{p.name}"} for p in paths], base=folder)
    codec = codecs.build("image", "photo")
    source = Source(table, Opener(folder), None, threads)
    codec.fit(iter([source.read(codec, f"photos/{paths[0].name}")]))
    side = codec.filler()["pixels"].shape[-1]
    made = iter(range(10**6))

    def ours() -> None:
        prepare(source, column, codec, Store(folder / f"cache-{next(made)}"))

    def pillow(draft: bool) -> None:
        def one(path: Path) -> np.ndarray:
            with Image.open(path) as image:
                if draft:
                    image.draft("RGB", (side, side))
                return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))

        with ThreadPoolExecutor(threads) as executor:
            for _ in executor.map(one, paths):
                pass

    found = interleaved({"ours": ours, "pillow": lambda: pillow(False), "draft": lambda: pillow(True)}, 3 if quick else 7)
    value, spread = middle([count / s for s in found["ours"]])
    report.add(f"preparing {count} JPEG of 256 x 256 to {side} x {side}: polyfuse", value, spread, "files/s")
    report.add("preparing: rate over Pillow's", *ratio(found["pillow"], found["ours"]), "x", at_least=1.3)
    report.add("preparing: rate over Pillow's with draft", *ratio(found["draft"], found["ours"]), "x", at_least=1.0)


def main() -> None:
    quick = arguments(__doc__).quick
    torch.set_num_threads(1)
    report = Report(__file__, quick)
    with tempfile.TemporaryDirectory() as name:
        training(report, Path(name), quick)
        preparing(report, Path(name), quick)
    report.close()


if __name__ == "__main__":
    main()
