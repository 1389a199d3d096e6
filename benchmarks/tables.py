"""Made-up tables for the speed benchmarks: pictures, text, numbers and categories with a rule that can be learned."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

WORDS = (
    "red blue green old new big small light heavy soft hard plain round square sharp quiet loud warm cold dry fresh "
    "wooden metal glass paper stone chair table lamp box book cup clock shirt bag door window"
).split()
TOWNS = ("Ulm", "Köln", "Graz", "Bern", "Lyon", "Oslo", "北京", "Quito", "Hanoi", "Accra")


def pictures(folder: Path, count: int, side: int, seed: int = 0) -> list[str]:
    """JPEG files with smooth structure, about as hard to decode as photographs. -> their names below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = []
    for i in range(count):
        small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
        grain = rng.normal(0, 6, (side, side, 3))
        names.append(f"{i}.jpg")
        Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).save(folder / names[-1], quality=85)
    return names


def mixed(
    path: Path, rows: int, *, numbers: int = 10, categories: int = 5, side: int = 64, distinct: int | None = None, seed: int = 0
) -> Path:
    """A CSV with a picture, a text, numbers n0.., categories c0.. and the target `label`.

    Args:
        distinct: how many different pictures there are; all by default.
    """
    rng = np.random.default_rng(seed)
    names = pictures(path.parent / f"{path.stem}-images", distinct or rows, side, seed) if side else []
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [*(["image"] if side else []), "text", *(f"n{i}" for i in range(numbers)), *(f"c{i}" for i in range(categories)), "label"]
        )
        for row in range(rows):
            values = rng.normal(size=numbers)
            words = rng.choice(WORDS, 12)
            label = "yes" if values[0] + ("red" in words) > 0.3 else "no"
            picture = [f"{path.stem}-images/{names[row % len(names)]}"] if side else []
            writer.writerow([*picture, " ".join(words), *(f"{v:.4f}" for v in values), *rng.choice(TOWNS, categories), label])
    return path


def rows_of(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows if columns is None else [{c: r[c] for c in columns} for r in rows]
