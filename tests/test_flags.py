"""What steers a fit: splits, weights, joins, windows, schemas; through the API as the command line calls it."""

import json
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest

import polyfuse as pf

QUICK = {"size": "s", "set": {"train.epochs": 2}}


@pytest.fixture
def table():
    """80 rows: two numbers, a class that follows the first, a patient, a day, a split, a weight, four readings."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    return pa.table(
        {
            "a": x[:, 0],
            "b": x[:, 1],
            "patient": [f"p{i // 4}" for i in range(80)],
            "day": [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(80)],
            "part": ["train"] * 50 + ["val"] * 20 + ["test"] * 10,
            "importance": np.where(np.arange(80) < 40, 1.0, 0.0),
            **{f"m{k}": rng.normal(size=80) for k in range(4)},
            "y": np.where(x[:, 0] > 0, "hi", "lo"),
        }
    )


def test_group_keeps_each_patient_on_one_side(table):
    bundle = pf.fit(table, "y", group="patient", **QUICK)
    assert "patient" in bundle.card["data"]["split"] and "patient" not in bundle.codecs
    assert bundle.card["data"]["held_out"] % 4 == 0


def test_time_column_holds_out_the_latest(table):
    bundle = pf.fit(table, "y", time_column="day", **QUICK)
    assert "latest" in bundle.card["data"]["split"]


def test_split_column_says_which_rows(table):
    data = pf.fit(table, "y", split_column="part", **QUICK).card["data"]
    assert (data["trained_on"], data["held_out"]) == (50, 20)


def test_val_is_another_table_and_all_rows_train(table):
    data = pf.fit(table.slice(0, 60), "y", val=table.slice(60), **QUICK).card["data"]
    assert (data["trained_on"], data["held_out"]) == (60, 20)


def test_weight_changes_what_is_learned_and_zero_leaves_out(table):
    flat = pf.fit(table, "y", ignore=["importance"], **QUICK)
    heavy = pf.fit(table, "y", weight="importance", **QUICK)
    assert "importance" not in heavy.codecs
    assert flat.predict({"a": 0.1})["y"]["probability"] != heavy.predict({"a": 0.1})["y"]["probability"]


@pytest.mark.parametrize("bad", [-1.0, "heavy", 0.0])
def test_wrong_weights_are_named(table, bad):
    cells = [bad] * 80 if bad == 0.0 else [1.0] * 79 + [bad]
    rows = [row | {"importance": w} for row, w in zip(table.to_pylist(), cells)]
    with pytest.raises(pf.Error, match="importance"):
        pf.fit(rows, "y", weight="importance", **QUICK)


def test_join_makes_one_cell_of_several_columns(table):
    bundle = pf.fit(table, "y", join={"sensors": ("vector", ["m*"])}, **QUICK)
    assert "sensors" in bundle.views and not {"m0", "m1"} & set(bundle.codecs)
    answer = bundle.predict({"m0": 1.0, "m1": 0.0, "m2": 0.5, "m3": 2.0, "a": 1.0})
    assert answer["y"]["value"] in ("hi", "lo")
    assert bundle.predict({"sensors": [1.0, 0.0, 0.5, 2.0], "a": 1.0})["y"] == answer["y"]


def test_joined_numbers_are_one_channel_and_joined_lists_one_each(table):
    bundle = pf.fit(table, "y", join={"trace": ("series", ["m0", "m1", "m2", "m3"])}, **QUICK)
    assert bundle.codecs["trace"].channels == 1
    rows = [{"left": [i, i + 1.0, 2.0], "right": f"[{i}, 5]", "y": "ab"[i % 2]} for i in range(40)]
    bundle = pf.fit(rows, "y", join={"trace": ("series", ["left", "right"])}, **QUICK)
    codec = bundle.codecs["trace"]
    assert (codec.channels, codec.longest) == (2, 3)
    assert bundle.predict(rows)[3] == bundle.predict(pf.read(rows))[3]


def test_a_join_of_nothing_is_named(table):
    with pytest.raises(pf.Error, match="q"):
        pf.fit(table, "y", join={"sensors": ("vector", ["q*"])}, **QUICK)


def test_schema_file_overrules_the_guess(table, tmp_path):
    looked = pf.look(table, "y", columns={"b": "ignore"}, out=tmp_path / "schema.json")
    assert looked.schema["b"].role == "ignore"
    bundle = pf.fit(table, schema=tmp_path / "schema.json", **QUICK)
    assert "b" not in bundle.codecs and bundle.targets == ["y"]
    about = json.loads((tmp_path / "schema.json").read_text("utf-8"))
    assert {c["name"] for c in about["columns"]} >= {"a", "b", "y"}


@pytest.fixture
def machines():
    """A long table: 12 machines, 30 to 40 readings each; the life left at every reading."""
    rng = np.random.default_rng(1)
    rows = []
    for unit in range(12):
        length = int(rng.integers(30, 40))
        for t in range(length):
            wear = t / length + rng.normal(0, 0.05)
            rows.append({"unit": unit, "cycle": t, "heat": 20 + 10 * wear, "noise": rng.normal(), "left": float(length - t)})
    return rows


def test_windows_from_a_long_table_to_answers(machines, tmp_path):
    table = [machines[i] for i in np.random.default_rng(0).permutation(len(machines))]  # readings in any order
    bundle = pf.fit(
        table, "left", window="id=unit,order=cycle,length=12", join={"sensors": ("series", ["heat", "noise"])}, out=tmp_path / "b", **QUICK
    )
    assert bundle.schema.window.length == 12 and "unit" in bundle.card["data"]["split"]
    again = pf.Bundle.load(tmp_path / "b")
    answers = again.predict(machines)
    assert len(answers) == len(machines) and {"unit", "cycle"} <= set(answers.carried)
    seen = {(u, c): v for u, c, v in zip(answers.carried["unit"], answers.carried["cycle"], answers.values())}
    shuffled = again.predict(table)
    assert all(
        seen[u, c] == pytest.approx(v, abs=1e-3) for u, c, v in zip(shuffled.carried["unit"], shuffled.carried["cycle"], shuffled.values())
    )
    assert again.evaluate(machines)["rows"] == len(machines)


def test_two_fits_at_once_share_one_store(mixed):
    path = mixed(40)
    made, errors = {}, []

    def work(k):
        try:
            made[k] = pf.fit(path, "label", ignore=["degrees"], **QUICK)
        except (ValueError, OSError, AttributeError, RuntimeError) as error:
            errors.append(error)

    # the random state of torch belongs to the process, so the weights of two threads may differ; the cells may not
    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and made[0].card["data"] == made[1].card["data"]
    assert len(pf.Store().entries()) == 4, "photo, sound, note and trace, each once"


def test_two_fits_never_write_to_one_place(table, tmp_path):
    """The second is refused at once; when the first is done or was killed, its place is free."""
    code = f"from filelock import FileLock; lock = FileLock(r'{tmp_path / '.b.lock'}'); lock.acquire(); print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(pf.RecipeError, match="is being written by another run"):
        pf.fit(table, "y", out=tmp_path / "b", **QUICK)
    other.kill()
    other.communicate()
    pf.fit(table, "y", out=tmp_path / "b", **QUICK)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".b")] == []
