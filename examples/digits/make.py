"""Make the demonstration's data: train.csv, test.csv, images/ and sounds/ beside this file.

    apt-get install espeak-ng        # 1.51 made the files that are kept in the repository
    pip install scikit-learn
    python examples/digits/make.py

Every row is one digit that somebody wrote, said, remarked on and whose pen was measured; each of these is spoiled on
purpose, so that none suffices alone. Where what comes from:
- handwriting: the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak 1998, UCI Machine
  Learning Repository, CC BY 4.0), 1797 real digits of 8 x 8, as scikit-learn carries them; here enlarged, smeared,
  partly covered and grained;
- speech: synthesised by espeak-ng, then buried in noise; no voice of a test row is heard in a training row;
- notes, pen and desk: drawn by this script from what is written below.
A row's draws depend on the seed and its number alone, so the same versions write the same bytes.
"""

import csv
import io
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SEED, TRAIN_ROWS, MISSING = 7, 1200, 0.12
SIDE = 16  # pixels
RATE, SECONDS = 8000, 0.55  # of a recording
SNR_DB = (2.0, 12.0)  # speech against noise, at its loudest and its faintest
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
SPEAKERS = ("m1 m3 m4 m5 m7 f1 f2 f3 f4 f5 klatt2 klatt4 Andy Annie Gene Lee steph quincy").split()

NOTES = {
    "even": ("evn number", "looks even to me", "even i think?", "gerade", "ist gerade, glaub ich", "par, creo", "偶数", "应该是偶数"),
    "odd": ("odd one", "an od number", "odd, prety sure", "ungerade", "wohl ungrade", "impar", "creo que es impar", "奇数", "大概是奇数"),
    "small": ("a smal one", "low number", "less then five", "eher klein", "kleine Zahl", "número pequeño", "比较小", "小于五"),
    "large": ("big one", "five or mor", "high numbr", "eher groß", "grosse Zahl", "bastante grande", "挺大的", "不小于五"),
    "": ("cant read this", "pls check", "smudged!!", "keine Ahnung", "Stift schmiert", "no se ve bien", "看不清", "next please", "???"),
}
STROKES = (1, 1, 1, 1, 2, 2, 1, 2, 1, 1)  # how most people write the digit


def spoil_image(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """8 x 8 real handwriting in 0 .. 16 to a small grey picture that is hard to read."""
    image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image = image.rotate(rng.normal(0, 6), Image.Resampling.BILINEAR, translate=tuple(rng.integers(-1, 2, 2).tolist()))
    x = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))).astype(float) * rng.uniform(0.5, 1.0)
    high, wide = rng.integers(3, 8, 2)
    top, left = rng.integers(0, SIDE - high), rng.integers(0, SIDE - wide)
    x[top : top + high, left : left + wide] = rng.uniform(0, 160)  # something lies on the paper
    return Image.fromarray(np.clip(x + rng.normal(0, 24, x.shape) + 30, 0, 255).astype(np.uint8))


def say(word: str, voice: str, rng: np.random.Generator) -> np.ndarray:
    """One spoken word at RATE, without the silence around it, loudness 1."""
    speed, pitch = rng.integers(130, 230), rng.integers(15, 85)
    made = subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word], capture_output=True, check=True)
    sound, rate = soundfile.read(io.BytesIO(made.stdout))
    sound = soxr.resample(sound, rate, RATE)
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1]
    return sound / np.sqrt(np.mean(sound**2))


def spoil_sound(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The word somewhere in SECONDS of hiss, rumble and hum."""
    length = int(RATE * SECONDS)
    speech = speech[:length]
    sound = np.zeros(length)
    start = rng.integers(0, length - len(speech) + 1)
    sound[start : start + len(speech)] = speech
    noise = np.fft.rfft(rng.normal(size=length)) / np.maximum(np.arange(length // 2 + 1), 8.0) ** rng.uniform(0.0, 0.5)
    noise = np.fft.irfft(noise, length)
    noise = noise / noise.std() + rng.uniform(0, 0.7) * np.sin(2 * np.pi * rng.uniform(45, 400) * np.arange(length) / RATE)
    sound += noise * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return 0.7 * sound / np.abs(sound).max()


def note(digit: int, rng: np.random.Generator) -> str:
    """A remark that hints at parity or size, is wrong now and then, and often says nothing."""
    if rng.random() < 0.25:
        return str(rng.choice(NOTES[""]))
    hints = [["even", "odd"][digit % 2], ["small", "large"][digit >= 5]]
    wrong = {"even": "odd", "odd": "even", "small": "large", "large": "small"}
    told = [hint for hint in hints if rng.random() < 0.65] or hints[:1]
    parts = [str(rng.choice(NOTES[wrong[hint] if rng.random() < 0.1 else hint])) for hint in told]
    return ", ".join(parts if rng.random() < 0.8 else [*parts, str(rng.choice(NOTES[""]))])


def pen(digit: int, pixels: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """What the pad measured: how much ink, how long, how often the pen was set down; and at which desk."""
    ink = pixels.sum() / 16
    strokes = max(1, STROKES[digit] + int(rng.choice([-1, 0, 0, 0, 1])))
    desk = digit // 2 if rng.random() < 0.35 else int(rng.integers(5))
    return {
        "ink_mm": round(2.1 * ink + rng.normal(0, 5), 1),
        "pen_ms": int(260 + 190 * strokes + 6 * ink + rng.normal(0, 90)),
        "tilt_deg": round(rng.normal(44 if digit in (1, 4, 7) else 38, 6), 1),
        "strokes": strokes,
        "desk": ("north", "south", "east", "west", "annex")[desk],
    }


def make_row(row: int, digit: int, pixels: np.ndarray, voices: list[str]) -> dict[str, object]:
    """The row's cells; its picture and recording are written where they are not missing."""
    rng = np.random.default_rng((SEED, row))
    image, voice = spoil_image(pixels, rng), str(rng.choice(voices))
    sound = spoil_sound(say(WORDS[digit], voice, rng), rng)
    cells: dict[str, object] = {"slip": f"s{row:04d}", "image": f"images/{row:04d}.png", "audio": f"sounds/{row:04d}.wav"}
    cells["note"] = note(digit, rng)
    cells |= pen(digit, pixels, rng)
    for lost in [["image"], ["audio"], ["note"], ["ink_mm", "pen_ms", "tilt_deg", "strokes", "desk"]]:
        if rng.random() < MISSING:
            cells |= dict.fromkeys(lost, "")
    if cells["image"]:
        image.save(HERE / str(cells["image"]), optimize=True)
    if cells["audio"]:
        soundfile.write(HERE / str(cells["audio"]), sound, RATE, subtype="GSM610")  # a telephone's codec: 0.9 kB a word
    return cells | {"digit": digit}


def main() -> None:
    digits = load_digits()
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(digits.target))
    voices = rng.permutation([f"{accent}+{speaker}" for accent in ACCENTS for speaker in SPEAKERS]).tolist()
    split = len(voices) * 2 // 3
    for folder in ("images", "sounds"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()

    def work(row: int) -> dict[str, object]:
        at = order[row]
        return make_row(row, int(digits.target[at]), digits.images[at], voices[:split] if row < TRAIN_ROWS else voices[split:])

    with ThreadPoolExecutor() as executor:
        rows = list(executor.map(work, range(len(order))))
    for name, part in (("train.csv", rows[:TRAIN_ROWS]), ("test.csv", rows[TRAIN_ROWS:])):
        with open(HERE / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(part[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(part)


if __name__ == "__main__":
    main()
