"""From a raw cell to what a codec reads: the one place that opens a user's files, and columns that change."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

import polyfuse as pf
from polyfuse.core import DataError, codecs
from polyfuse.data import Opener
from polyfuse.data.cells import digest

QUICK = {"size": "s", "set": {"train.epochs": 1}}


@pytest.fixture
def folder(tmp_path):
    """tmp_path/table holds a.png, a folder, an empty file and a text file; tmp_path/secret.png lies outside."""
    (tmp_path / "table" / "sub").mkdir(parents=True)
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(tmp_path / "table" / "a.png")
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(tmp_path / "secret.png")
    (tmp_path / "table" / "empty.png").touch()
    (tmp_path / "table" / "画像.png").write_bytes((tmp_path / "table" / "a.png").read_bytes())
    return tmp_path / "table"


@pytest.mark.parametrize("path", ["a.png", " a.png ", "./a.png", "sub/../a.png", "画像.png", '["a.png", "画像.png"]'])
def test_paths_inside_the_folder_are_opened(folder, path):
    opened = Opener(folder).open(path, codecs.build("image", "photo"))
    assert opened and codecs.build("image", "photo").read(opened)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("b.png", r"there is no file 'b.png'. Expected a path relative to table"),
        ("a.pgn", r"there is no file 'a.pgn'.*did you mean 'a.png'"),
        ("a.png/x", "there is no file"),
        ("sub", "is a folder"),
        (".", "is a folder"),
        ("empty.png", "is empty"),
        ("../secret.png", "leads outside the table's folder"),
        ("sub/../../secret.png", "leads outside the table's folder"),
        ("https://example.org/a.png", "is an address.*Expected a path"),
        ("a\0.png", "Expected a path of a file"),
        ("x" * 5000, "Expected a path of a file"),
        ("x" * 300, "no file|cannot open"),
        ("[" * 100_000, "cannot read .* as a list"),
        ('["a.png", ', "cannot read .* as a list"),
    ],
)
def test_other_paths_are_refused(folder, path, message):
    with pytest.raises(DataError, match=f"(?s)column 'photo'.*{message}"):
        Opener(folder).open(path, codecs.build("image", "photo"))


def test_an_absolute_path_is_refused_outside_and_taken_where_it_is_allowed(folder):
    codec, outside = codecs.build("image", "photo"), str(folder.parent / "secret.png")
    with pytest.raises(DataError, match="--allow-outside"):
        Opener(folder).open(outside, codec)
    assert Opener(folder, allow_outside=True).open(outside, codec)
    assert Opener(folder).open(str(folder / "a.png"), codec)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own on Windows")
def test_links_are_followed_before_they_are_judged(folder):
    codec = codecs.build("image", "photo")
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    for path in ("out.png", "up/secret.png"):
        with pytest.raises(DataError, match="leads outside"):
            Opener(folder).open(path, codec)
    with pytest.raises(DataError, match="cannot open 'loop.png'"):
        Opener(folder).open("loop.png", codec)
    assert Opener(folder).open("in.png", codec)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(DataError, match="no plain file"):
        Opener(folder).open("pipe.png", codecs.build("image", "photo"))


def test_a_file_larger_than_allowed_is_not_read(folder):
    with pytest.raises(DataError, match="Expected at most 0 MB"):
        Opener(folder, most_bytes=10).open("a.png", codecs.build("image", "photo"))


def test_forms_of_media_in_memory(folder):
    codec, opener = codecs.build("image", "photo"), Opener(folder)
    data = (folder / "a.png").read_bytes()
    for raw in (data, bytearray(data), {"bytes": data, "path": None}, {"bytes": None, "path": "a.png"}):
        assert opener.open(raw, codec) == data
    assert opener.open(Image.open(folder / "a.png"), codec).shape == (20, 20)
    sound = {"path": "gone.wav", "array": np.zeros(8), "sampling_rate": 8000}
    assert opener.open(sound, codecs.build("audio", "sound")) is sound


def test_digests_tell_contents_apart():
    cells = [
        "ab",
        b"ab",
        ["ab"],
        ("ab",),
        ["a", "b"],
        [["a"], "b"],
        {"a": "b"},
        1,
        1.0,
        True,
        np.zeros(2),
        np.zeros((2, 1)),
        np.zeros(2, int),
    ]
    assert len({digest(c) for c in cells}) == len(cells)
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


@pytest.mark.parametrize("other", ["five", True, 7, 2.5, [1, 2], {"a": 1}, b"\xff\xfe", None])
@pytest.mark.parametrize("column", ["text", "n", "c", "day", "trace", "photo"])
def test_a_column_of_another_type_at_prediction_never_stops_the_others(folder, column, other):
    """Each cell is used or refused with its row; the row is answered either way, and so are its neighbours."""
    bundle = _bundle(folder)
    rows = [{"text": "word 1", "n": 1.0, "c": "x"}, {column: other}, {"text": "word 2", "n": 2.0, "c": "y"}]
    answers = bundle.predict(rows, base=folder)
    assert [a["answer"]["y"]["value"] in ("a", "b") for a in answers] == [True] * 3
    assert answers[0]["warnings"] == [] == answers[2]["warnings"]


_made: dict[str, pf.Bundle] = {}


def _bundle(folder):
    if "bundle" not in _made:
        rows = [
            {
                "text": f"word {i % 5}",
                "n": float(i),
                "c": "xyz"[i % 3],
                "day": f"2024-01-{1 + i % 28:02}",
                "trace": [i, 1.0],
                "photo": "a.png",
            }
            for i in range(40)
        ]
        rows = [row | {"y": "ab"[i % 2]} for i, row in enumerate(rows)]
        columns = {"text": "text", "trace": "series", "photo": "image"}
        _made["bundle"] = pf.fit(pf.read(rows, base=folder), "y", columns=columns, **QUICK)
    return _made["bundle"]
