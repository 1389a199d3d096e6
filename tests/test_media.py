"""Pictures, sounds and clips: every usual form is read alike, everything broken is refused in words, nothing eats memory."""

import io
import json
import struct
import sys
import tracemalloc
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageOps

try:
    import av
except ImportError:
    av = None

from polyfuse.core import Column, DataError, Draws
from polyfuse.data import Opener, Source, Store, fit_codec, prepare, read
from polyfuse.modalities.audio import AudioCodec
from polyfuse.modalities.image import ImageCodec
from polyfuse.modalities.video import VideoCodec

needs_av = pytest.mark.skipif(av is None, reason="clips in containers need PyAV (the extra 'video')")
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (16, 16, 3), np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(64) * a, np.arange(64) * b) for a, b in ((3, 0), (1, 2), (0, 3))], -1).astype(np.uint8)


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, form, **options)
    return file.getvalue()


def moving(form, arrays=None, **options):
    first, *rest = [Image.fromarray(a) for a in (RNG.integers(0, 256, (6, 20, 20, 3), np.uint8) if arrays is None else arrays)]
    return encoded(first, form, save_all=True, append_images=rest, duration=50, **options)


def fitted(codec, *cells):
    codec.fit(codec.read(c) for c in cells)
    return codec


def pixels(cell, size=16, channels=3):
    """[C, S, S] of a cell with one picture."""
    codec = ImageCodec("photo", size=size, channels=channels)
    got = codec.collate([codec.clean(codec.read(cell))])
    assert got["pixels"].dtype == torch.uint8 and got["mask"].all() and got["pixels"].shape == (1, 1, channels, size, size)
    return got["pixels"][0, 0].numpy()


def flat(array):
    return array.transpose(2, 0, 1)


def by_words(value):
    """Names a case by what it matches, not by the bytes of its file."""
    return value if isinstance(value, str) else type(value).__name__


@contextmanager
def within(most_bytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def refuses(codec, cell, match):
    """Read and cleaned, the cell is refused with the column, what is wrong and what was expected; little memory is taken."""
    with within(20e6), pytest.raises(DataError, match=match) as error:
        codec.clean(codec.read(cell))
    assert f"column '{codec.column}'" in str(error.value) and "Expected" in str(error.value)


def png(width, height, body=b"", depth=8, colour=2):
    """A PNG whose header claims a size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


# pictures


def test_every_mode_of_one_picture_is_that_picture():
    grey = NOISE[..., 0]
    three = np.repeat(grey[None], 3, 0)
    assert (pixels(encoded(NOISE)) == flat(NOISE)).all()
    assert (pixels(encoded(grey)) == three).all()
    assert (pixels(encoded(grey), channels=1) == grey).all()
    assert (pixels(encoded(grey > 99)) == (three > 99) * 255).all(), "one bit"
    few = Image.fromarray(NOISE).quantize(16)
    assert (pixels(encoded(few)) == flat(np.asarray(few.convert("RGB")))).all()
    for form in ("BMP", "TIFF", "PPM"):
        assert (pixels(encoded(NOISE, form)) == flat(NOISE)).all()
    assert (pixels(encoded(NOISE, "WEBP", lossless=True)) == flat(NOISE)).all()
    inks = Image.fromarray(SMOOTH).convert("CMYK")
    for form in ("TIFF", "JPEG"):
        off = np.abs(pixels(encoded(inks, form), size=64).astype(int) - flat(np.asarray(inks.convert("RGB")).astype(int)))
        assert off.mean() < 5, form


def test_what_is_transparent_is_white():
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    shown = np.where(alpha[..., None] > 0, NOISE, 255)
    assert (pixels(encoded(np.dstack([NOISE, alpha]))) == flat(shown)).all()
    assert (pixels(np.dstack([NOISE, alpha])) == flat(shown)).all()
    assert (pixels(encoded(Image.fromarray(np.dstack([NOISE[..., 0], alpha]), "LA")), channels=1) == shown[..., 0]).all()
    few = Image.fromarray((np.arange(256).reshape(16, 16) % 4).astype(np.uint8), "P")
    few.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    got = pixels(encoded(few, transparency=0))
    assert (got[:, 0, :4].T == [[255] * 3, [200, 0, 0], [0, 200, 0], [0, 0, 200]]).all()


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16),
        np.linspace(0, 1, 256).reshape(16, 16),
        np.linspace(0, 255, 256).reshape(16, 16).astype(np.float16),
        np.linspace(-3, 8, 256, dtype=np.float32).reshape(16, 16),
        np.linspace(-1e29, 1e29, 256, dtype=np.float32).reshape(16, 16),
        np.arange(256).reshape(16, 16),
        np.arange(256, dtype=np.uint8).reshape(16, 16, 1),
    ],
    ids=["uint16", "0-1", "float16", "any float", "large", "int64", "one channel"],
)
def test_arrays_of_any_type_span_the_grey_levels(array):
    assert np.abs(pixels(array, channels=1)[0].ravel().astype(int) - np.arange(256)).max() <= 1


def test_sixteen_bits_bits_and_floats_of_files():
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert (pixels(encoded(ramp * 257), channels=1)[0] == ramp).all()
    assert (pixels(encoded((ramp / 255).astype(np.float32), "TIFF"), channels=1)[0] == ramp).all()
    assert set(pixels(ramp > 99, channels=1).ravel().tolist()) == {0, 255}
    broken = np.full((8, 8), np.nan, np.float32)
    refuses(ImageCodec("photo"), encoded(broken, "TIFF"), "NaN")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_turns_a_picture_as_pillow_does(form, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(SMOOTH[:, :48], form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(pixels(data, size=32).astype(int) - flat(np.asarray(upright)).astype(int)).mean() < 2.5


def test_broken_metadata_beside_good_pixels_do_no_harm():
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0"):
        assert (pixels(encoded(NOISE, exif=exif)) == flat(NOISE)).all()
        assert pixels(encoded(NOISE, "JPEG", exif=exif)).any()


@pytest.mark.parametrize("side, size", [(64, 64), (200, 32), (97, 64), (40, 64)])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_quick_way_through_a_jpeg_ends_where_pillow_does(side, size, progressive):
    data = encoded(Image.fromarray(SMOOTH).resize((side, side + 9)), "JPEG", quality=95, progressive=progressive)
    by_pillow = Image.open(io.BytesIO(data)).convert("RGB")
    for channels, mode in ((3, "RGB"), (1, "L")):
        want = np.asarray(by_pillow.convert(mode).resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
        assert np.abs(pixels(data, size, channels).astype(int) - flat(want).astype(int)).mean() < 3
    grey = encoded(SMOOTH[..., 0], "JPEG", quality=95)
    assert np.abs(pixels(grey, 64, 1)[0].astype(int) - SMOOTH[..., 0]).mean() < 3


def test_size_and_channels_follow_the_pictures():
    assert fitted(ImageCodec("p"), encoded(NOISE[:, :, 0]), encoded(NOISE[..., 0], "JPEG")).channels == 1
    assert fitted(ImageCodec("p"), encoded(NOISE[:, :, 0]), encoded(NOISE)).channels == 3
    assert fitted(ImageCodec("p"), SMOOTH[:50], SMOOTH[:33], SMOOTH[:49]).size == 48
    assert fitted(ImageCodec("p"), np.zeros((300, 400, 3), np.uint8)).size == 64
    assert fitted(ImageCodec("p"), np.zeros((1, 1), np.uint8)).size == 16
    empty = fitted(ImageCodec("p"))
    assert empty.filler()["pixels"].shape[-1] == empty.size


def test_several_pictures_in_a_cell(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name} é.png").write_bytes(encoded(np.full((16, 16), ord(name), np.uint8)))
    names = [f"{n} é.png" for n in "abcde"]
    cells = [json.dumps(names[:2], ensure_ascii=False), json.dumps(names), names[2], json.dumps([names[0], "nowhere.png"]), "[]"]
    codec = ImageCodec("photo", most=4)
    source, column = Source(read({"photo": cells}), Opener(tmp_path), threads=1), Column("photo", "image")
    fit_codec(source, column, codec, np.arange(5))
    done = prepare(source, column, codec, Store(tmp_path / "store"))
    got = done.cells(np.arange(3)).x
    assert got["mask"].sum(1).tolist() == [2, 4, 1] and codec.channels == 1
    assert got["pixels"][1, :, 0, 5, 5].tolist() == [97, 98, 99, 100] and not got["pixels"][0, 2:].any()
    assert list(done.refused) == [3, 4] and "row 4" in done.refused[3] and "nowhere.png" in done.refused[3]


def test_broken_files_are_counted_and_the_rest_is_used(tmp_path):
    whole = encoded(SMOOTH)
    files = {"fine.jpg": whole, "cut.png": whole[:-300], "note.png": b"just words", "empty.png": b"", "fine.png": encoded(NOISE)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    source, column = Source(read({"photo": [*files, None]}), Opener(tmp_path), threads=2), Column("photo", "image")
    codec = ImageCodec("photo")
    fit_codec(source, column, codec, np.arange(6))
    done = prepare(source, column, codec, Store(tmp_path / "store"))
    assert done.present.tolist() == [True, False, False, False, True, False], "the content decides, not the name"
    assert sorted(done.refused) == [1, 2, 3] and "zero bytes" in done.refused[3]


JPEG, PNG = encoded(SMOOTH, "JPEG"), encoded(SMOOTH)


@pytest.mark.parametrize(
    "cell, match",
    [
        (b"", "zero bytes"),
        (b"a text file", "no picture"),
        (JPEG[:-200], "cannot be decoded"),
        (JPEG[:20], "no picture|cannot be opened"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (PNG[:20], "no picture|cannot be opened"),
        (png(50_000, 50_000), "too large.*100,000,000 pixels"),
        (png(12_000, 12_000), "12000 x 12000 pixels"),
        (png(3_000, 3_000), "cannot be decoded"),
        (png(0, 5), "no picture"),
        (moving("GIF"), "animation of 6 frames.*video"),
        (moving("WEBP"), "animation of 6 frames"),
        (moving("PNG"), "animation of 6 frames"),
        (np.array([[0.5, np.nan]]), "NaN"),
        (np.array([[0.5, np.inf]]), "infinite"),
        (np.array([[-1e308, 1e308]]), "enormous"),
        (np.zeros((4, 4, 2)), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.zeros(7), r"shape \(7,\)"),
        (np.array([["a"]]), "array of <U1"),
        (np.zeros((2, 2), "m8[s]"), "array of timedelta"),
        (np.zeros((2, 2), complex), "array of complex"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "20000 x 20000"),
        (3.5, "holds a float"),
        ([1, 2, 3], "holds a int"),
        ([PNG, b"words"], "no picture"),
    ],
    ids=by_words,
)
def test_what_is_no_picture_is_refused(cell, match):
    refuses(ImageCodec("photo"), cell, match)


@pytest.mark.parametrize("codec, cell", [(ImageCodec("c"), SMOOTH), (VideoCodec("c"), np.stack([SMOOTH] * 3)), (AudioCodec("c"), None)])
def test_augmentation_belongs_to_the_row(codec, cell):
    cell = np.sin(np.arange(8000) / 9) if cell is None else cell
    fitted(codec, cell)
    name = next(iter(codec.clean(codec.read(cell))))
    x = codec.collate([codec.clean(codec.read(cell))] * 4)
    got = codec.augment(x, Draws(0, 1, "c", np.array([5, 6, 7, 8])))
    alone = codec.augment({k: v[2:3] for k, v in x.items()}, Draws(0, 1, "c", np.array([7])))
    assert got[name].shape == x[name].shape and got[name].dtype == x[name].dtype
    assert torch.allclose(got[name][2].float(), alone[name][0].float(), atol=1)
    assert all(not got[name][i].equal(got[name][j]) for i in range(4) for j in range(i))
    assert not got[name][0].equal(x[name][0]) and got["mask"].equal(x["mask"])
    still = type(codec)("c", augment=0.0)
    assert still.augment(x, Draws(0, 1, "c", np.arange(4)))[name].equal(x[name])


def test_mirroring_is_asked_for():
    arrow = np.zeros((32, 32, 3), np.uint8)
    arrow[:, :8] = 255
    for flip in (False, True):
        codec = fitted(ImageCodec("c", flip=flip, augment=0.3), arrow)
        x = codec.collate([codec.clean(codec.read(arrow))] * 30)
        left = codec.augment(x, Draws(0, 0, "c", np.arange(30)))["pixels"].float()[..., :16].mean((1, 2, 3, 4)) > 60
        assert left.all() != flip and left.any()


# sounds


def tone(hertz=1000, rate=16000, seconds=0.5, channels=1, loud=0.5):
    wave = loud * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)
    return np.repeat(wave[:, None], channels, 1)


def sound(samples, rate=16000, form="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def wav(rate, channels, bits, body, claimed=None):
    """A PCM file whose header claims what it likes."""
    step = channels * bits // 8
    size = len(body) if claimed is None else claimed
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * step, step, bits, b"data", size
    )
    return head + body


def mel(cell, **options):
    """[T, mels] before the codec's scaling."""
    codec = AudioCodec("sound", rate_hz=16000, longest_s=1.0, **options)
    return codec.spectrogram(codec.read(cell))


PLAIN = tone()[:, 0]
SOUNDS = {
    "wav 8": sound(tone(), subtype="PCM_U8"),
    "wav 16": sound(tone(), subtype="PCM_16"),
    "wav 24": sound(tone(), subtype="PCM_24"),
    "wav 32": sound(tone(), subtype="PCM_32"),
    "wav float": sound(tone(), subtype="FLOAT"),
    "wav double": sound(tone(), subtype="DOUBLE"),
    "wav u-law": sound(tone(), subtype="ULAW"),
    "flac": sound(tone(), form="FLAC"),
    "ogg": sound(tone(), form="OGG", subtype="VORBIS"),
    "opus": sound(tone(rate=48000), 48000, "OGG", "OPUS"),
    "mp3": sound(tone(), form="MP3"),
    "aiff": sound(tone(), form="AIFF"),
    "stereo": sound(tone(channels=2)),
    "six channels": sound(tone(channels=6)),
    "44100 Hz": sound(tone(rate=44100, channels=2), 44100),
    "8000 Hz": sound(tone(rate=8000), 8000),
    "192 kHz": sound(tone(rate=192000), 192000, "FLAC"),
    "array": PLAIN,
    "[T, 2]": tone(channels=2),
    "int16": (PLAIN * 32767).astype(np.int16),
    "int32": (PLAIN * (2**31 - 1)).astype(np.int32),
    "uint8": (PLAIN * 127 + 128).astype(np.uint8),
    "list of int": [int(v) for v in PLAIN * 32767],
    "list": PLAIN.tolist(),
    "dict": {"array": tone(rate=22050)[:, 0], "sampling_rate": 22050},
    "dict of lists": {"array": PLAIN.tolist(), "sampling_rate": 16000.0},
}


@pytest.mark.parametrize("name", SOUNDS)
def test_one_tone_in_many_forms(name):
    got, want = mel(SOUNDS[name]), mel(PLAIN)
    inner = slice(5, 40)  # a lossy form swings in and out at its ends
    peak = want.mean(0).argmax()
    assert got.shape[1] == 40 and np.isfinite(got).all()
    assert (got[inner].argmax(1) == peak).all()
    assert np.abs(got[inner, peak] - want[inner, peak]).max() < 0.15, "as loud as the plain one"


@pytest.mark.parametrize("hertz", [150, 440, 1000, 2500, 6000])
def test_a_tone_lies_in_its_band(hertz):
    codec = AudioCodec("sound", rate_hz=16000, mels=40)
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([20, 8000]) / 700)), 42) / 2595) - 1)
    peak = codec.spectrogram(codec.read(tone(hertz)[:, 0])).mean(0).argmax()
    assert edges[peak] <= hertz <= edges[peak + 2]
    assert np.allclose(codec.bank.sum(0), 1, atol=1e-5) and (codec.bank >= 0).all()


def test_steps_follow_time_and_a_longer_sound_is_cut():
    codec = fitted(AudioCodec("sound"), *[tone(seconds=s)[:, 0] for s in (0.2, 0.3, 0.4)])
    assert codec.rate_hz == 16000 and codec.longest_s == pytest.approx(0.4, abs=0.01)
    steps = [len(codec.clean(codec.read(tone(seconds=s)[:, 0]))["mel"]) for s in (0.01, 0.1, 0.4, 5)]
    assert steps[0] == 1 and steps[1] == 8 and steps[2] <= steps[3] <= codec.most_steps
    again = AudioCodec("sound")
    again.load_state(json.loads(json.dumps(codec.state())))
    assert (again.clean(again.read(PLAIN))["mel"] == codec.clean(codec.read(PLAIN))["mel"]).all()


def test_wave_form_is_the_sound_itself():
    codec = fitted(AudioCodec("sound", form="wave", rate_hz=8000, longest_s=0.25), sound(tone()))
    x = codec.collate([codec.clean(codec.read(c)) for c in (sound(tone()), tone(rate=8000, seconds=0.1)[:, 0])])
    assert x["wave"].shape == (2, 2000) and x["wave"].dtype == torch.float32 and x["mask"].sum(1).tolist() == [2000, 800]
    assert (x["wave"][0, 200:1800] - torch.from_numpy(tone(rate=8000)[200:1800, 0]).float()).abs().max() < 0.02
    assert len(codec.clean(codec.read(PLAIN[:1]))["wave"]) >= 1


@pytest.mark.parametrize("cell", [np.zeros(16000), sound(np.zeros((400, 2))), np.zeros(1), np.full(9, 1e9), [0, 0, 0]])
def test_silence_and_extremes_stay_finite(cell):
    codec = fitted(AudioCodec("sound"), cell)
    mel = codec.clean(codec.read(cell))["mel"]
    assert len(mel) and np.isfinite(mel).all()


def test_a_sound_of_hours_is_not_decoded_whole():
    hours = wav(8000, 1, 8, b"\x80" * (3 * 3600 * 8000))
    claims = wav(16000, 2, 16, tone(channels=2).tobytes(), claimed=2**32 - 50)
    silent = sound(np.zeros(3 * 3600 * 100, np.int16), 100, "FLAC")
    for cell in (hours, claims, silent):
        with within(30e6):
            codec = fitted(AudioCodec("sound"), cell)
            assert codec.longest_s <= 10 and len(codec.clean(codec.read(cell))["mel"]) <= codec.most_steps


FLAC = SOUNDS["flac"]


@pytest.mark.parametrize(
    "cell, match",
    [
        (b"", "zero bytes"),
        (b"a text file", "cannot be decoded"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "cannot be decoded"),
        (FLAC[:30], "cannot be decoded"),
        (sound(np.zeros((0, 1))), "no samples"),
        (np.zeros(0), "no samples"),
        (np.zeros((0, 2)), "no samples"),
        ([], "no samples"),
        (sound(np.array([0.1, np.nan]), subtype="FLOAT"), "NaN"),
        (np.array([[0.0, np.inf], [0.0, -np.inf]]), "NaN, infinite"),
        (np.array([1e300]), "enormous"),
        (np.array([0.0, np.nan], np.float16), "NaN"),
        (wav(2, 1, 8, b"\x80" * 99), "2 samples a second"),
        (sound(np.zeros((9, 70))), "70 channels"),
        (np.zeros((2, 16000)), "16000 channels"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array(["a"]), "array of <U1"),
        ([0.5, None], "array of object"),
        ([[0.5, 1.0], [0.5]], "different lengths"),
        ({"array": [0.5], "sampling_rate": "fast"}, "'fast' samples a second"),
        ({"array": [0.5], "sampling_rate": -1}, "-1 samples a second"),
        ({"array": [0.5], "sampling_rate": float("nan")}, "nan samples a second"),
        ({"array": [[1], [1, 2]], "sampling_rate": 8000}, "different lengths"),
        ({"array": None, "sampling_rate": 8000}, "holds a dict"),
        (True, "holds a bool"),
    ],
    ids=by_words,
)
def test_what_is_no_sound_is_refused(cell, match):
    refuses(AudioCodec("sound"), cell, match)


@pytest.mark.parametrize("name", ["wav 16", "wav float", "flac", "ogg", "mp3", "opus"])
def test_a_cut_sound_gives_what_is_there_or_is_refused(name):
    codec = AudioCodec("sound")
    for share in (0.1, 0.5, 0.9):
        try:
            samples, _ = codec.read(SOUNDS[name][: int(len(SOUNDS[name]) * share)])
        except DataError as error:
            assert "column 'sound'" in str(error) and "Expected" in str(error)
        else:
            assert len(samples) and np.isfinite(samples).all() and np.abs(samples).max() < 1.1


def test_sounds_of_one_column_may_differ_in_form(tmp_path):
    names = [f"{i}.wav" for i in range(len(SOUNDS))]
    files = {n: d for n, d in zip(names, [d for d in SOUNDS.values() if isinstance(d, bytes)])}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "words.wav").write_text("no sound")
    source, column = Source(read({"sound": [*files, "words.wav"]}), Opener(tmp_path), threads=2), Column("sound", "audio")
    codec = AudioCodec("sound")
    fit_codec(source, column, codec, np.arange(len(files)))
    done = prepare(source, column, codec, Store(tmp_path / "store"))
    assert done.present.sum() == len(files) and list(done.refused) == [len(files)]
    assert f"row {len(files) + 1}" in done.refused[len(files)] and "cannot be decoded" in done.refused[len(files)]


# clips


def frames_of(cell, frames=4, size=16, channels=3):
    """[T, C, S, S]"""
    codec = VideoCodec("clip", frames=frames, size=size, channels=channels)
    got = codec.collate([codec.clean(codec.read(cell))])
    assert got["pixels"].dtype == torch.uint8 and got["mask"].all()
    return got["pixels"][0].numpy()


def shades(count, side=32):
    """A clip that grows brighter by the same step from frame to frame."""
    return np.stack([np.full((side, side, 3), round(250 * i / max(count - 1, 1)), np.uint8) for i in range(count)])


def contained(form, codec, arrays):
    """A clip in a container, by PyAV."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *arrays.shape[1:3], "yuv420p"
        for array in arrays:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def levels(pixels):
    return pixels.reshape(len(pixels), -1).mean(1)


CONTAINERS = [("mp4", "mpeg4"), ("avi", "mpeg4"), ("matroska", "mpeg4"), ("mov", "mpeg4")]
ANIMATIONS = [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})]


@pytest.mark.parametrize("form, options", ANIMATIONS)
@pytest.mark.parametrize("count", [2, 4, 9, 31])
def test_frames_of_an_animation_are_evenly_spaced(form, options, count):
    got = levels(frames_of(moving(form, shades(count), **options)))
    want = levels(shades(count)[np.linspace(0, count - 1, min(count, 4)).round().astype(int)])
    assert got.shape == want.shape and np.abs(got - want).max() < 3


@needs_av
@pytest.mark.parametrize("form, coder", CONTAINERS)
@pytest.mark.parametrize("count", [1, 3, 25])
def test_frames_of_a_container_are_evenly_spaced(form, coder, count):
    got = levels(frames_of(contained(form, coder, shades(count))))
    want = levels(shades(count)[np.linspace(0, count - 1, min(count, 4)).round().astype(int)])
    assert got.shape == want.shape and np.abs(got - want).max() < 6


@needs_av
def test_a_telephone_held_upright_gives_an_upright_clip():
    data = contained("mp4", "mpeg4", np.repeat(np.repeat(np.array([[250], [0]], np.uint8), 16, 0).repeat(48, 1)[None, ..., None], 3, 3))
    at = data.index(b"tkhd") + 44  # its matrix: a quarter turn clockwise
    turned = data[:at] + struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30) + data[at + 36 :]
    assert VideoCodec("clip").read(data)[0].size == (48, 32) and VideoCodec("clip").read(turned)[0].size == (32, 48)
    got = frames_of(turned, size=32)[0, 0]
    assert got[:, 20:].mean() > 230 and got[:, :12].mean() < 20


@needs_av
def test_of_a_very_long_clip_only_key_frames_are_decoded(monkeypatch):
    data = contained("mp4", "mpeg4", shades(60))
    monkeypatch.setattr("polyfuse.modalities.video.codec._LONG", 50)
    got = levels(frames_of(data))
    assert len(got) == 4 and got[0] < 3 and (np.diff(got) > 40).all()


@pytest.mark.parametrize(
    "cell", [shades(9), shades(9)[..., 0], shades(9) / 255.0, list(shades(9)), shades(9)[..., 0].tolist(), shades(9).astype(float)]
)
def test_arrays_of_a_clip(cell):
    assert np.abs(levels(frames_of(cell)) - levels(shades(9)[[0, 3, 5, 8]])).max() <= 1


@pytest.mark.parametrize(
    "cell", [encoded(SMOOTH), encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "WEBP"), encoded(SMOOTH, "GIF"), SMOOTH, [encoded(SMOOTH)]]
)
def test_a_still_picture_is_a_clip_of_one_frame(cell):
    got = frames_of(cell, size=64)
    assert got.shape == (1, 3, 64, 64) and np.abs(got[0].astype(int) - flat(SMOOTH)).mean() < 12
    deep = frames_of(encoded(np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)), channels=1)
    assert np.abs(deep.ravel().astype(int) - np.arange(256)).max() <= 1
    one = frames_of([encoded(NOISE), encoded(NOISE, "JPEG")])
    assert len(one) == 2


def test_form_of_clips_follows_the_sample():
    codec = fitted(VideoCodec("clip"), moving("GIF", shades(12)), moving("GIF", shades(5)), shades(7))
    assert (codec.channels, codec.frames, codec.size) == (1, 7, 32), "grey clips have one channel"
    assert fitted(VideoCodec("clip"), moving("WEBP"), shades(7)).channels == 3
    assert fitted(VideoCodec("clip"), shades(40)).frames == 16
    assert len(codec.clean(codec.read(shades(40)))["pixels"]) == 7
    assert fitted(VideoCodec("clip"), JPEG[:-200], shades(7)).channels == 1, "a broken picture is passed over"
    empty = fitted(VideoCodec("clip"))
    assert empty.frames == 8 and empty.filler()["pixels"].shape == (1, 3, empty.size, empty.size)


def test_without_pyav_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    refuses(VideoCodec("clip"), b"\0\0\0\x20ftypisom" + bytes(40), r"PyAV.*pip install polyfuse\[video\]")


def test_what_is_transparent_in_a_clip_is_white():
    alpha = np.dstack([NOISE, np.zeros((16, 16), np.uint8)])
    for form in ("WEBP", "PNG"):
        assert (frames_of(moving(form, [alpha, alpha, np.dstack([NOISE, np.full((16, 16), 255, np.uint8)])]))[0] == 255).all()


def test_large_frames_are_kept_small():
    clip = moving("GIF", np.zeros((12, 1500, 1500), np.uint8) + (np.arange(12, dtype=np.uint8) * 20)[:, None, None])
    kept = VideoCodec("clip").read(clip)
    assert len(kept) == 8 and max(max(p.size) for p in kept) <= 256


def sound_in(form):
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone()[:, 0].astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


MP4 = contained("mp4", "mpeg4", shades(12)) if av else b""
AVI = contained("avi", "mpeg4", shades(12)) if av else b""
SONG = sound_in("mp4") if av else b""


def claims(data, at, form, width, height):
    """The same with another size in its header."""
    return data[:at] + struct.pack(form, width, height) + data[at + struct.calcsize(form) :]


RAW = contained("avi", "rawvideo", shades(2)) if av else b""
RAW = claims(RAW, RAW.find(b"strf") + 12, "<ii", 12_000, 12_000)


@pytest.mark.parametrize(
    "cell, match",
    [
        (b"", "zero bytes"),
        (b"a text file", "no picture"),
        pytest.param(MP4[: len(MP4) // 2], "cannot be decoded|no frames", marks=needs_av),
        pytest.param(MP4[:40], "cannot be decoded|no frames", marks=needs_av),
        pytest.param(b"\x1aE\xdf\xa3" + bytes(50), "cannot be decoded", marks=needs_av),
        pytest.param(SONG, "only sound.*audio", marks=needs_av),
        pytest.param(RAW, "12000 x 12000", marks=needs_av),
        (claims(moving("GIF"), 6, "<HH", 60_000, 60_000), "too large.*100,000,000 pixels"),
        (claims(moving("GIF"), 6, "<HH", 12_000, 12_000), "12000 x 12000"),
        (moving("GIF")[:60], "no picture"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((0, 8, 8)), r"shape \(0, 8, 8\)"),
        (np.zeros((2, 8, 8, 2)), r"shape \(8, 8, 2\)"),
        (np.full((2, 8, 8), np.nan), "NaN"),
        (np.full((2, 8, 8), "a"), "array of <U1"),
        ([np.zeros((4, 4)), np.zeros((5, 5))], "different shapes"),
        ([b"words", b"words"], "no picture"),
        ([b"words", 3], "no picture|int among"),
        (["a"], "shape"),
        ({"a": 1}, "holds a dict"),
        ([], "holds a list"),
    ],
    ids=by_words,
)
def test_what_is_no_clip_is_refused(cell, match):
    refuses(VideoCodec("clip"), cell, match)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_a_cut_clip_gives_what_is_there_or_is_refused(share):
    for data in (AVI, moving("GIF", shades(9)), moving("WEBP", shades(9)), moving("PNG", shades(9))):
        try:
            got = VideoCodec("clip").read(data[: int(len(data) * share)])
        except DataError as error:
            assert "column 'clip'" in str(error) and "Expected" in str(error)
        else:
            assert 1 <= len(got) <= 9
