"""What several test files share: a private cache, the real data where it is, and one small table of mixed columns."""

import csv
import importlib
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test sees or fills the user's own store, and none touches a hub."""
    monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_network(monkeypatch):
    """Where a test names neither preset nor fusion, `fit` trains one network: most tests are about that, and it is quick."""
    monkeypatch.setattr(importlib.import_module("polyfuse.fit"), "DEFAULT", None)


@pytest.fixture
def real_data():
    """The folder of the real data sets; the test is skipped where it is not."""
    if not REAL.is_dir():
        pytest.skip("the real data sets are not beside this checkout (../shared/data)")
    return REAL


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def mixed(tmp_path):
    """mixed(rows, missing, seed) writes a table of image, sound, text, series, numbers and a category, with a planted rule.

    The class is 'hot' where the picture is bright and the number high, else 'cold'; the other columns carry a weaker hint.
    """

    def make(rows=60, missing=0.15, seed=0, name="train.csv"):
        rng = np.random.default_rng(seed)
        folder = tmp_path / "media"
        folder.mkdir(exist_ok=True)
        out = []
        for i in range(rows):
            hot = bool(rng.random() < 0.5)
            Image.fromarray(np.clip(rng.normal(180 if hot else 70, 25, (16, 16)), 0, 255).astype(np.uint8)).save(folder / f"{seed}-{i}.png")
            t = np.arange(800) / 8000
            sound = np.sin(2 * np.pi * (900 if hot else 300) * t) + rng.normal(0, 0.3, len(t))
            with wave.open(str(folder / f"{seed}-{i}.wav"), "wb") as w:
                w.setnchannels(1), w.setsampwidth(2), w.setframerate(8000)
                w.writeframes((sound * 8000).astype("<i2").tobytes())
            row = {
                "row_id": f"r{seed}-{i}",
                "photo": f"media/{seed}-{i}.png",
                "sound": f"media/{seed}-{i}.wav",
                "note": f"{'warm sunny day' if hot else 'cold rainy night'} number {rng.integers(1000)} 天气",
                "trace": json.dumps([round(float(v), 3) for v in rng.normal(1 if hot else -1, 1, rng.integers(5, 12))]),
                "age": round(float(rng.normal(40 if hot else 30, 8)), 2),
                "town": str(rng.choice(["Ulm", "Köln", "北京"])),
            }
            for column in list(row)[1:]:
                if rng.random() < missing:
                    row[column] = ""
            out.append(row | {"label": "hot" if hot else "cold", "degrees": round(float(rng.normal(30 if hot else 5, 2)), 2)})
        return write_csv(tmp_path / name, out)

    return make
