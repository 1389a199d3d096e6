"""The prepared store: keyed by content, whole or absent, kept under its limit."""

import os
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from polyfuse.core import Codec, Column, DataError
from polyfuse.data import Opener, Source, Store, Table, fit_codec, prepare, read


class Words(Codec):
    """Lengths of the words: a ragged toy; '!' cannot be read."""

    name = "words"
    ragged = True
    cleaned = 0

    def read(self, raw):
        if raw == "!":
            raise self.error("cannot read '!'", expected="words", fix="write words")
        return raw.strip() or None

    def clean(self, value):
        type(self).cleaned += 1
        return {"length": np.array([len(w) for w in value.split()], np.int32)}

    def filler(self):
        return {"length": np.zeros(1, np.int32)}


def source(cells) -> Source:
    return Source(read({"c": cells}), Opener(None), threads=2)


COLUMN = Column("c", "words")


def test_cells_equal_collated_values(tmp_path):
    cells = ["one three", None, "a", "one three", "  ", "!", "four five six"]
    done = prepare(source(cells), COLUMN, Words("c"), Store(tmp_path))
    assert done.present.tolist() == [True, False, True, True, False, False, True]
    rows = np.array([6, 1, 3, 2])
    got = done.cells(rows)
    codec = Words("c")
    want = codec.collate([codec.clean(cells[i]) for i in (6, 3, 2)])
    assert got.rows.tolist() == [0, 2, 3] and got.size == 4
    assert set(got.x) == set(want) and all(got.x[k].equal(want[k]) for k in want)


def test_a_refused_cell_is_listed_with_its_row(tmp_path):
    done = prepare(source(["a", "!", "b", "!"]), COLUMN, Words("c"), Store(tmp_path))
    assert list(done.refused) == [1, 3]
    assert "row 2" in done.refused[1] and "cannot read '!'" in done.refused[1]


def test_equal_cells_are_cleaned_once_and_a_second_time_never(tmp_path):
    Words.cleaned = 0
    prepare(source(["a b"] * 50 + ["c"]), COLUMN, Words("c"), Store(tmp_path))
    first = Words.cleaned
    prepare(source(["a b"] * 50 + ["c"]), COLUMN, Words("c"), Store(tmp_path))
    assert Words.cleaned == first <= 20, "2 cells and the few that estimate the room"


def test_other_content_options_state_or_version_is_another_entry(tmp_path):
    class Other(Words):
        version = 2

    store = Store(tmp_path)
    prepare(source(["a"]), COLUMN, Words("c"), store)
    prepare(source(["b"]), COLUMN, Words("c"), store)
    prepare(source(["a"]), Column("c", "words", options={"x": 1}), Words("c"), store)
    prepare(source(["a"]), COLUMN, Other("c"), store)
    assert len(store.entries()) == 4


def test_a_column_without_a_readable_cell_has_its_form(tmp_path):
    done = prepare(source([None, "!", None]), COLUMN, Words("c"), Store(tmp_path))
    cells = done.cells(np.arange(3))
    assert not done.present.any() and cells.x["length"].shape[0] == 0


def test_a_half_written_entry_is_never_used(tmp_path):
    store = Store(tmp_path)

    def killed():
        yield b"0" * 16, Words("c").clean("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write("start", lambda: "ab" * 20, "c", Words("c"), killed())
    assert store.find("ab" * 20) is None and not store.entries() and not list(tmp_path.glob("tmp-*"))


def test_two_builders_at_once_give_one_whole_entry(tmp_path):
    made, errors = [], []

    def build():
        try:
            made.append(prepare(source(["a b c"] * 5 + ["d"] * 300), COLUMN, Words("c"), Store(tmp_path)))
        except Exception as error:  # noqa: BLE001  reported below
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert not errors and len(Store(tmp_path).entries()) == 1
    assert all(m.cells(np.arange(3)).x["length"].equal(made[0].cells(np.arange(3)).x["length"]) for m in made)


def test_the_limit_is_kept_by_letting_the_least_recently_used_go(tmp_path):
    for i in range(4):
        prepare(source([f"{i} " * 3000]), COLUMN, Words("c"), Store(tmp_path, limit_gb=1))
        key = Store(tmp_path).entries()[-1]
        os.utime(key["path"] / "meta.json", (1000 + i, 1000 + i))
    store = Store(tmp_path, limit_gb=30_000 / 2**30)
    store.trim()
    assert sum(e["bytes"] for e in store.entries()) <= 30_000
    assert [e["used"] for e in store.entries()] == [1002, 1003]


def test_no_room_is_said_before_the_work(tmp_path):
    store = Store(tmp_path, limit_gb=100 / 2**30)
    with pytest.raises(DataError, match="more than the store's limit.*POLYFUSE_CACHE_GB"):
        prepare(source([f"{i} " * 50 for i in range(30)]), COLUMN, Words("c"), store)


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    import polyfuse.data.store as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_units", full)
    with pytest.raises(DataError, match="No space left on device.*POLYFUSE_CACHE"):
        prepare(source(["a"]), COLUMN, Words("c"), Store(tmp_path))
    assert not list(tmp_path.glob("tmp-*"))


def test_an_unwritable_cache_is_replaced_for_this_run(tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    store = Store(tmp_path / "file")
    assert "cannot write to the cache" in store.notes[0]
    assert prepare(source(["a"]), COLUMN, Words("c"), store).present.all()


def test_clear_frees_everything(tmp_path):
    store = Store(tmp_path)
    prepare(source(["a"]), COLUMN, Words("c"), store)
    assert store.clear() > 0 and not store.entries()


def test_fit_codec_passes_over_unreadable_cells():
    class Collects(Words):
        def fit(self, values):
            self.seen = list(values)

    codec = Collects("c")
    fit_codec(source(["a", "!", None, "b"]), COLUMN, codec, np.array([0, 1, 2]))
    assert codec.seen == ["a"]


def test_tables_are_read_from_memory():
    assert isinstance(read({"c": ["a"]}), Table)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_store_that_is_cleared_while_an_entry_is_written(times, tmp_path):
    """The entry is made again; where that never ends it says so."""
    store, made = Store(tmp_path / "cache"), []

    def fill(folder):
        made.append(folder)
        if len(made) <= times:
            shutil.rmtree(store.root)
        save_file({"x": torch.ones(2)}, folder / "x.safetensors")
        (folder / "meta.json").write_text("{}", "utf-8")

    if times == 3:
        with pytest.raises(DataError, match="was cleared while it was written to"):
            store.put(fill, lambda: "ab12")
    else:
        assert sorted(f.name for f in store.put(fill, lambda: "ab12").iterdir()) == ["meta.json", "x.safetensors"]
        assert len(made) == times + 1
    assert not list(store.root.glob("tmp-*"))


def test_an_error_of_safetensors_is_one_of_the_store(tmp_path):
    def fill(folder):
        (folder / "x.safetensors").mkdir()
        save_file({"x": torch.ones(2)}, folder / "x.safetensors")

    with pytest.raises(DataError, match="cannot be written"):
        Store(tmp_path / "cache").put(fill, lambda: "ab12")
