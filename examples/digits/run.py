"""The demonstration: what each modality reaches alone, what all reach together, and what is left when cells are missing.

    python examples/digits/run.py        # or: make demo

About a minute on two cores. README.md beside this file says what the data is.
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import polyfuse as pf

HERE = Path(__file__).resolve().parent
TRAIN, TEST, TARGET = HERE / "train.csv", HERE / "test.csv", "digit"
MODALITIES = {"image": ["image"], "audio": ["audio"], "note": ["note"], "pen and desk": ["ink_mm", "pen_ms", "tilt_deg", "strokes", "desk"]}
# small and short, about a minute for all five fits; on one thread, so that the figures are the same on every machine
QUICK = {"size": "s", "set": {"train.epochs": 18}, "threads": 1}


def main() -> None:
    start = time.monotonic()
    looked = pf.look(TRAIN, TARGET)
    print("What polyfuse sees in train.csv:\n")
    print("\n".join(looked.lines()))
    print(f"\nTest accuracy on {len(pf.read(TEST))} rows, one cell in eight missing\n")
    print(f"  {'':<34} accuracy  95 % interval", flush=True)

    alone = {}
    for name, columns in MODALITIES.items():
        bundle = pf.fit(TRAIN, schema=looked.schema.only(columns), **QUICK)
        alone[name] = right(bundle)
        tell(f"{name} alone", bundle, TEST)
    out = HERE / "digits.bundle"
    bundle = pf.fit(TRAIN, schema=looked.schema, out=out, overwrite=True, **QUICK)
    together = right(bundle)
    tell("all together", bundle, TEST)
    print("\n  the same model, other test rows")
    for gone in ("image", "audio"):
        tell(f"no row has {gone}", bundle, without([gone], 1.0))
    tell("every second cell missing", bundle, without(list(MODALITIES), 0.5))

    best = max(alone, key=lambda name: alone[name].mean())
    gain = together - alone[best]
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    print(f"\nAll together is {gain.mean():+.3f} above the best modality alone ({best}): {gain.mean() / error:.1f} standard errors.")
    print(f"Done in {time.monotonic() - start:.0f} s. Where to look next:\n")
    installed = Path(sys.executable).with_name("polyfuse")
    command = os.path.relpath(installed) if installed.exists() else "polyfuse"
    print(f"  {command} info {os.path.relpath(out)}")
    print(f"  {command} predict {os.path.relpath(out)} {os.path.relpath(TEST)} --out answers.csv")
    print(f"  {command} fit YOUR.csv --target COLUMN --out your.bundle")
    print("  docs/index.md")


def right(bundle: pf.Bundle) -> np.ndarray:
    """[test rows] 1.0 where the answer is right."""
    truth = pf.read(TEST).column(TARGET).to_pylist()
    return np.array([str(answer) == str(digit) for answer, digit in zip(bundle.predict(TEST).values(), truth)], float)


def tell(what: str, bundle: pf.Bundle, table: object) -> None:
    found = bundle.evaluate(table)["metrics"][TARGET]["accuracy"]
    print(f"  {what:<34} {found['value']:>8.3f}  [{found['low']:.3f}, {found['high']:.3f}]", flush=True)


def without(modalities: Sequence[str], share: float) -> pf.Table:
    """The test rows with this share of the cells of these modalities taken out."""
    rng = np.random.default_rng(0)
    table = pf.read(TEST)
    cells = {name: table.column(name).to_pylist() for name in table.names}
    for modality in modalities:
        gone = rng.random(len(table)) < share
        for column in MODALITIES[modality]:
            cells[column] = [None if lost else cell for lost, cell in zip(gone, cells[column])]
    return pf.read(cells, base=HERE)


if __name__ == "__main__":
    main()
