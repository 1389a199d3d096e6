"""The comparison: folds, paired tests, runs that resume, a leaderboard whose figures are true, and a verdict that fits them."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import polyfuse as pf
from polyfuse import cli
from polyfuse.compare import match, runs
from polyfuse.compare.match import Match
from polyfuse.compare.plan import Method, methods_of, survivors
from polyfuse.compare.standing import Comparison, standings, verdict
from polyfuse.core import Encoded, Encoder, encoders, fusions, tasks
from polyfuse.core.progress import Progress
from polyfuse.data import Fold, Splitter, read, split, windows
from polyfuse.evaluate.paired import corrected_t, holm, t_above, t_quantile
from polyfuse.learners import TrainOptions, outputs, train

QUICK = {"seeds": 1, "folds": 2, "size": "s", "set": {"train.epochs": 2}, "device": "cpu"}


def vectors(rows=120, seed=0, rule="and", noise=0.3, names=("a", "b")):
    """Two views of four numbers each, and a label: by both ("and": the sign of the sum), by the first alone, or by chance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(names), rows, 4))
    shown = {"and": x[:, :, 0].sum(0), "first": x[0, :, 0], "chance": rng.normal(size=rows)}[rule]
    label = shown + noise * rng.normal(size=rows) > 0
    cells = {name: [list(map(float, v.round(4))) for v in x[at]] for at, name in enumerate(names)}
    return [{name: cells[name][i] for name in names} | {"label": "yes" if label[i] else "no"} for i in range(rows)]


def quick(rows, fusions="concat", target="label", **options):
    return pf.compare(rows, target, fusions=fusions, **{**QUICK, **options})


# -- folds ---------------------------------------------------------------------------------------------------------


def splitter(rows, roles=None, window=None, **columns):
    roles = {"y": "target"} | (roles or {})
    made = tuple(pf.Column(n, columns.get(n, "number"), role=roles.get(n, "input")) for n in rows[0])
    table, schema = read(rows), pf.Schema(made, window)
    return Splitter(table, schema, windows(table, window) if window else None)


def labelled(count=50, seed=0, **more):
    rng = np.random.default_rng(seed)
    return [
        {"x": float(i), "y": str(rng.choice(["p", "q", "r"], p=[0.6, 0.3, 0.1]))} | {k: v(i) for k, v in more.items()} for i in range(count)
    ]


def apart(fold):
    parts = [set(fold.train.tolist()), set(fold.held.tolist()), set(fold.test.tolist())]
    return all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_the_main_target_is_spread_over_folds_wherever_it_stands():
    rows = [{"x": i, "other": "ab"[i % 2], "rare": "yes" if i < 6 else "no"} for i in range(60)]
    schema = pf.Schema((pf.Column("x", "number"), *(pf.Column(c, "category", role="target") for c in ("other", "rare"))))
    folds, _ = Splitter(read(rows), schema, main="rare").folds(3, 0)
    assert [sum(r < 6 for r in fold.test) for fold in folds] == [2, 2, 2]


def test_every_row_is_tested_once_and_classes_are_spread():
    rows = labelled(53)
    found = splitter(rows, y="category")
    for seed in range(3):
        folds, told = found.folds(4, seed)
        assert told == "stratified at random" and all(map(apart, folds))
        assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(53))
        for name in "pqr":
            counts = [sum(rows[r]["y"] == name for r in f.test) for f in folds]
            assert max(counts) - min(counts) <= 1
        for f in folds:
            assert len(f.train) + len(f.held) + len(f.test) == 53 and abs(len(f.held) - 0.15 * (53 - len(f.test))) <= 1.5
    again, other = found.folds(4, 0)[0], found.folds(4, 1)[0]
    assert all((a.test == b.test).all() for a, b in zip(found.folds(4, 0)[0], again))
    assert any(a.test.tolist() != b.test.tolist() for a, b in zip(again, other))


def test_of_a_large_table_no_more_rows_are_held_out_than_choosing_an_epoch_takes(monkeypatch):
    found = splitter(labelled(200), y="category")
    usual = found.folds(4, 0)[0]
    monkeypatch.setattr(split, "_HELD", 10)
    capped = found.folds(4, 0)[0]
    assert all(len(f.held) >= 20 for f in usual) and all(1 <= len(f.held) <= 10 for f in capped)
    for before, after in zip(usual, capped):
        assert apart(after) and (before.test == after.test).all() and len(after.train) + len(after.held) == 150


def test_rows_without_a_label_are_in_no_fold():
    rows = labelled(30)
    for i in (3, 17):
        rows[i]["y"] = None
    folds, _ = splitter(rows, y="category").folds(3, 0)
    used = np.concatenate([np.concatenate([f.train, f.held, f.test]) for f in folds])
    assert not {3, 17} & set(used.tolist()) and len(set(used.tolist())) == 28


def test_groups_stay_whole():
    rows = labelled(60, g=lambda i: f"g{i * i % 11}")
    folds, told = splitter(rows, {"g": "group"}, y="category", g="category").folds(3, 0)
    assert told == "whole groups of 'g'" and all(map(apart, folds))
    for f in folds:
        groups = [{rows[r]["g"] for r in part} for part in (f.train, f.held, f.test)]
        assert not groups[0] & groups[2] and not groups[1] & groups[2] and not groups[0] & groups[1]
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(60))


@pytest.mark.parametrize("every", [1, 7])
def test_by_time_only_the_past_is_learned_from(every):
    when = np.random.default_rng(0).permutation(60) // every  # with 7, many rows share a moment
    rows = labelled(60, t=lambda i: int(when[i]))
    folds, told = splitter(rows, {"t": "time"}, y="category", t="number").folds(3, 0)
    assert "before" in told and all(map(apart, folds))
    tested = np.concatenate([f.test for f in folds])
    assert len(set(tested.tolist())) == len(tested)
    for f in folds:
        assert when[f.train].max() <= when[f.held].min() and max(when[f.train].max(), when[f.held].max()) < when[f.test].min()


def test_a_split_columns_test_rows_take_no_part():
    rows = labelled(40, s=lambda i: ["train", "val", "test", "train"][i % 4])
    folds, _ = splitter(rows, {"s": "split"}, y="category", s="category").folds(3, 0)
    used = {r for f in folds for part in (f.train, f.held, f.test) for r in part.tolist()}
    assert used == {i for i in range(40) if i % 4 != 2} and all(map(apart, folds))


def test_windows_keep_their_units_whole():
    rows = [{"unit": f"u{i // 10}", "cycle": i % 10, "x": float(i), "y": "pq"[i % 2]} for i in range(80)]
    found = splitter(rows, {"unit": "id", "cycle": "ignore"}, pf.Window("unit", "cycle", 3), y="category", unit="category")
    folds, _ = found.folds(4, 0)
    unit = windows(read(rows), pf.Window("unit", "cycle", 3)).unit
    for f in folds:
        assert apart(f) and not set(unit[f.test].tolist()) & set(unit[np.concatenate([f.train, f.held])].tolist())


def test_too_little_for_the_folds():
    with pytest.raises(pf.DataError, match="7 labelled rows for 4 folds"):
        splitter(labelled(7), y="category").folds(4, 0)
    rows = labelled(20, g=lambda i: f"g{i % 3}")
    with pytest.raises(pf.DataError, match="has 3 groups for 3 folds"):
        splitter(rows, {"g": "group"}, y="category", g="category").folds(3, 0)
    rows = labelled(20, g=lambda i: "big" if i < 15 else f"g{i}")
    with pytest.raises(pf.DataError, match="one group to learn from"):
        splitter(rows, {"g": "group"}, y="category", g="category").folds(2, 0)
    rows = labelled(20, t=lambda i: i // 10)
    with pytest.raises(pf.DataError, match="has 2 times, which give no 4 blocks"):
        splitter(rows, {"t": "time"}, y="category", t="number").folds(3, 0)


# -- paired tests --------------------------------------------------------------------------------------------------


def test_the_corrected_t_test_by_hand():
    d = np.array([0.02, 0.05, -0.01, 0.04, 0.03, 0.02])
    found = corrected_t(d, 0.25)
    error = math.sqrt((1 / 6 + 0.25) * sum((x - d.mean()) ** 2 for x in d) / 5)
    stats = pytest.importorskip("scipy.stats")
    half = stats.t.ppf(0.975, 5) * error
    assert found.value == pytest.approx(0.025) and found.low == pytest.approx(0.025 - half) and found.high == pytest.approx(0.025 + half)
    assert found.p == pytest.approx(2 * stats.t.sf(0.025 / error, 5), rel=1e-6)
    plain = corrected_t(d, 0.0)
    assert plain.p == pytest.approx(stats.ttest_1samp(d, 0.0).pvalue, rel=1e-6) and plain.p < found.p


@pytest.mark.parametrize("freedom", [1, 2, 4, 24, 99])
def test_students_t_agrees_with_scipy(freedom):
    stats = pytest.importorskip("scipy.stats")
    for t in (-3.0, 0.0, 0.5, 2.0, 6.0):
        assert t_above(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-7)
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_few_or_equal_differences_prove_nothing():
    assert corrected_t(np.array([0.3]), 0.25).p == 1.0 and math.isnan(corrected_t(np.array([]), 0.25).value)
    assert corrected_t(np.zeros(5), 0.25).p == 1.0
    small = np.full(5, 0.01)
    assert corrected_t(small, 0.25).p == 0.0  # without a grain the same difference on every fold is certain
    floor = corrected_t(small, 0.25, grain=0.02)
    assert floor.p > 0.3 and floor.low < 0 < floor.high
    assert corrected_t(np.array([0.1, 0.3]), 0.25, grain=0.02) == corrected_t(np.array([0.1, 0.3]), 0.25)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.6}) == {"b": 1.0, "a": 1.0} and holm({}) == {}


# -- what is compared ----------------------------------------------------------------------------------------------


def test_methods_of_names_labels_and_settings():
    references, made = methods_of(["a", "b", "c"], "lowrank, gmu", True, {"lowrank": {"rank": 2}})
    assert [m.name for m in references] == ["a alone", "b alone", "c alone", "a + b", "a + c", "b + c"]
    assert [m.name for m in made] == ["concat", "lowrank", "gmu"]
    assert made[1].fusion == {"name": "lowrank", "rank": 2} and made[2].fusion == {"name": "gmu"}
    assert [len(m.views) for m in made] == [3, 3, 3]
    _, copies = methods_of(["a", "b"], {"one": {"name": "concat", "seed": 0}, "two": {"name": "concat", "seed": 7}, "gmu": "gmu"}, False)
    assert [(m.name, m.shift) for m in copies] == [("one", 0), ("two", 7), ("gmu", 0)]
    assert {m.name for m in methods_of(["a", "b"], "all", False)[1]} == set(fusions.names())
    assert methods_of(["a", "b"], "all", False)[1][0].name == "concat"


@pytest.mark.parametrize(
    ("wanted", "settings", "message"),
    [
        ("concta", {}, "did you mean 'concat'"),
        (" , ", {}, "names none"),
        ({}, {}, "names none"),
        ({"mine": "gmuu"}, {}, "did you mean 'gmu'"),
        ({"mine": 3}, {}, "expected the name of a fusion"),
        ({"mine": {"name": "gmu", "seed": "x"}}, {}, "seed 'x'"),
        ({"gmu": "concat"}, {}, "name of another method"),
        ({"a alone": "concat"}, {}, "name of another method"),
        ({"mine": {"name": "lowrank", "rnak": 2}}, {}, "did you mean 'rank'"),
        ("lowrank", {"lowrank": {"rank": "many"}}, "rank"),
        ("gmu", {"lowrank": {"rank": 2}}, "is of a fusion that is not compared"),
    ],
)
def test_methods_that_cannot_be(wanted, settings, message):
    with pytest.raises(pf.RecipeError, match="(?i)" + message):
        methods_of(["a", "b"], wanted, False, settings)


def test_survivors():
    scores = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.7, "e": 0.6}
    assert survivors(scores, ["b"]) == ["a", "b", "d"]
    assert survivors({"a": 0.1, "b": 0.2}, []) == ["b"] and survivors({"a": 0.1}, []) == ["a"]


# -- a leaderboard that is true ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spied(tmp_path_factory):
    """One comparison with everything it ran: (result, rows of the table, calls of Bench.run, the bench, folder)."""
    calls, folder = [], tmp_path_factory.mktemp("spied") / "c"
    patch = pytest.MonkeyPatch()
    patch.setenv("POLYFUSE_CACHE", str(folder.parent / "cache"))
    original = runs.Bench.run

    def spy(self, method, fold, seed, *more):
        done = original(self, method, fold, seed, *more)
        calls.append((self, method, fold, seed, done[0]))
        return done

    patch.setattr(runs.Bench, "run", spy)
    rows = vectors(120)
    found = quick(rows, "concat,lowrank,gmu", seeds=2, folds=3, out=folder, set={"train.epochs": 2, "lowrank.rank": 2})
    patch.undo()
    return found, rows, calls, calls[0][0], folder


def test_all_methods_see_the_same_folds_and_seeds(spied):
    found, rows, calls, _, _ = spied
    seen = {}
    for _, method, fold, seed, _ in calls:
        seen.setdefault(method.name, []).append((seed, fold.train.tolist(), fold.held.tolist(), fold.test.tolist()))
    assert set(seen) == {"a alone", "b alone", "concat", "lowrank", "gmu"} and all(len(v) == 6 for v in seen.values())
    assert all(v == seen["concat"] for v in seen.values())
    assert {r.name: r.fusion for r in found.rows}["lowrank"] == "lowrank"
    assert {json.dumps(m.fusion) for _, m, *_ in calls if m.name == "lowrank"} == {'{"name": "lowrank", "rank": 2}'}
    for seed in (0, 1):
        assert sorted(r for s, _, _, test in seen["gmu"] if s == seed for r in test) == list(range(len(rows)))


def test_a_score_is_what_training_by_hand_gives(spied):
    found, _, calls, bench, _ = spied
    for name in ("b alone", "gmu"):
        by_hand = []
        for _, method, fold, seed, result in calls:
            if method.name != name:
                continue
            if not by_hand:
                bundle, data = bench.bundle(method, fold, seed)
                options = bundle.recipe["train"]

                train(
                    bundle.model,
                    data,
                    fold.train,
                    fold.held,
                    TrainOptions(**options),
                    seed=seed,
                    device="cpu",
                    loss_weights={},
                    main="label",
                )
                outs, truth = outputs(bundle.model, data, fold.test)
                score = bundle.model.tasks[0].scores(outs["label"], truth["label"])
                assert score["roc_auc"] == pytest.approx(result.score, abs=1e-6)
                assert result.about["parameters"] == sum(p.numel() for p in bundle.model.parameters())
            by_hand.append(result.score)
        row = found[name]
        assert row.score == pytest.approx(np.mean(by_hand)) and row.spread == pytest.approx(np.std(by_hand, ddof=1))
        assert row.low < row.score < row.high and row.runs == row.of == 6 and row.whole
        assert row.metrics["label"]["roc_auc"] == pytest.approx(row.score)


def test_differences_and_p_values_from_the_stored_runs(spied):
    found, _, calls, _, folder = spied
    stats = pytest.importorskip("scipy.stats")
    scores, share = {}, []
    for _, method, fold, _, result in calls:
        scores.setdefault(method.name, []).append(result.score)
        share.append(len(fold.test) / len(fold.train))
    singles = {n: np.mean(s) for n, s in scores.items() if n.endswith("alone")}
    best = max(singles, key=singles.get)
    assert found.best_single.name == best and found.metric == "roc_auc" and found.higher
    raw = {}
    for reference, field in ((best, "single"), ("concat", "baseline")):
        for name in ("concat", "lowrank", "gmu"):
            if name == reference:
                continue
            d = np.array(scores[name]) - np.array(scores[reference])
            t = d.mean() / math.sqrt((1 / 6 + np.mean(share)) * d.var(ddof=1))
            raw.setdefault(field, {})[name] = 2 * stats.t.sf(abs(t), 5)
            assert getattr(found[name], f"over_{field}").value == pytest.approx(d.mean())
        order, worst = sorted(raw[field], key=raw[field].get), 0.0
        for rank, name in enumerate(order):
            worst = max(worst, min(1.0, (len(order) - rank) * raw[field][name]))
            assert getattr(found[name], f"p_{field}") == pytest.approx(worst, rel=1e-4)
    assert found["concat"].over_baseline is None and found[best].over_single is None
    stored = [runs.read(p, m) for _, m, *_ in calls for p in [runs.file_of(folder, m, 0, 0)]]
    assert all(r is not None for r in stored)
    with pytest.raises(KeyError, match="the methods are"):
        found["nothing"]


def test_the_files(spied):
    found, _, _, _, folder = spied
    with open(folder / "leaderboard.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == [r.name for r in found.rows]
    assert float(rows[0]["score"]) == pytest.approx(found.rows[0].score) and "label roc_auc" in rows[0] and rows[0]["runs"] == "6"

    def no(value):
        raise AssertionError(f"{value} in JSON")

    told = json.loads((folder / "comparison.json").read_text("utf-8"), parse_constant=no)
    assert told["verdict"] == found.verdict and told["rows"][0]["name"] == found.rows[0].name and told["folds"] == 3
    from PIL import Image

    with Image.open(folder / "comparison.png") as picture:
        picture.verify()
    lines = found.lines()
    assert found.rows[0].high <= 1.0
    assert all(len(line) <= 140 for line in lines[: len(found.rows) + 1]) and lines[0].split()[0] == "roc_auc"
    assert len({len(line) for line in lines[: len(found.rows) + 1]}) == 1, "the columns are not aligned"


def test_without_matplotlib_the_tables_are_written_and_a_later_call_draws(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as here:
        here.setitem(sys.modules, "matplotlib", None)
        found = quick(vectors(60), out=tmp_path / "c")
    assert all(r.whole for r in found.rows)
    assert {f.name for f in (tmp_path / "c").iterdir()} == {"compare.json", "comparison.json", "leaderboard.csv", "runs"}
    needed = 'comparison.png was not drawn: it needs matplotlib, which is not installed; pip install "polyfuse[plot]"'
    assert caplog.messages == [needed]
    monkeypatch.setattr(runs.Bench, "run", None)  # nothing is run again
    quick(vectors(60), out=tmp_path / "c")
    assert (tmp_path / "c" / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_it_goes_on_where_it_was_and_runs_only_what_is_new(spied, tmp_path):
    import shutil

    found, rows, _, _, folder = spied
    copy = tmp_path / "c"
    shutil.copytree(folder, copy)
    files = sorted((copy / "runs").iterdir())
    assert len(files) == 30
    before = {f.name: f.stat().st_mtime_ns for f in files}
    files[3].write_bytes(files[3].read_bytes()[:100])  # damaged
    files[7].unlink()
    options = {"seeds": 2, "folds": 3, "out": copy, "set": {"train.epochs": 2, "lowrank.rank": 2}}
    again = quick(rows, "concat,lowrank,gmu", **options)
    after = {f.name: f.stat().st_mtime_ns for f in (copy / "runs").iterdir()}
    assert {n for n in before if before[n] != after[n]} == {files[3].name, files[7].name}
    for row in again.rows:
        assert row.score == found[row.name].score and (row.low, row.high) == (found[row.name].low, found[row.name].high)
    more = quick(rows, "concat,lowrank,gmu,weighted", **options)
    assert {n for n, t in after.items() if (copy / "runs" / n).stat().st_mtime_ns != t} == set()
    assert more["weighted"].whole and more["gmu"].score == found["gmu"].score
    other = quick(
        rows, "concat,lowrank,gmu", **{**options, "set": {"train.epochs": 2, "lowrank.rank": 3}}
    )  # another lowrank, the others stay
    assert other["lowrank"].parameters != found["lowrank"].parameters and other["gmu"].score == found["gmu"].score
    with pytest.raises(pf.RecipeError, match="holds a comparison of another table or with other options"):
        quick(rows[:100], "concat,lowrank,gmu", **options)
    with pytest.raises(pf.RecipeError, match="with other options"):
        quick(rows, "concat", seeds=1, folds=3, out=copy, set={"train.epochs": 3})
    fresh = quick(rows, "concat", seeds=1, folds=2, out=copy, overwrite=True)
    assert fresh["concat"].of == 2 and len(list((copy / "runs").iterdir())) == 6


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for place, message in (("full", "holds other things"), ("file", "is a file"), ("file/deep", "cannot be written there")):
        with pytest.raises(pf.RecipeError, match=message):
            quick(vectors(40), out=tmp_path / place)
    from filelock import FileLock

    with FileLock(tmp_path / ".taken.lock"), pytest.raises(pf.RecipeError, match="is being written by another"):
        quick(vectors(40), out=tmp_path / "taken")
    assert quick(vectors(40), out=tmp_path / "new" / "deep").rows and (tmp_path / "new" / "deep" / "leaderboard.csv").is_file()


def test_names_that_a_file_system_takes_for_one(tmp_path):
    labels = [Method(n, "fusion", ("a", "b"), {"name": "concat"}, s) for s, n in enumerate(["a b", "a_b", "A b", "名", "a/b"])]
    files = [str(runs.file_of(tmp_path, m, 0, 0)).lower() for m in labels]
    assert len(set(files)) == 5 and {os.path.dirname(f) for f in files} == {str(tmp_path / "runs").lower()}


# -- metrics of either direction, several targets --------------------------------------------------------------------


def numbers(rows=90, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows, 3))
    return [
        {"a": a[i].tolist(), "b": b[i].tolist(), "y": float(a[i, 0] + 0.1 * rng.normal()), "z": "up" if b[i, 0] > 0 else "down"}
        for i in range(rows)
    ]


def test_where_less_is_better_the_order_turns(monkeypatch):
    task = tasks.get("regression")
    monkeypatch.setattr(task, "metric", "mae")
    monkeypatch.setattr(task, "higher", False)
    found = quick(numbers(), "concat,weighted", "y", ignore=["z"], set={"train.epochs": 15})
    scores = [r.score for r in found.rows]
    assert found.metric == "mae" and not found.higher and scores == sorted(scores) and found.best_single.name == "a alone"
    for row in found.rows:
        if row.over_single is not None:
            assert row.over_single.value == pytest.approx(found.best_single.score - row.score)
        assert row.low <= row.score <= row.high
    assert found["b alone"].over_single.value < 0


def test_several_targets_and_the_main_one_decides():
    found = quick(numbers(), "concat", ["y", "z"], main="z", folds=2)
    assert found.target == "z" and found.metric == "roc_auc"
    assert all({"y", "z"} == set(r.metrics) and r.score == pytest.approx(r.metrics["z"]["roc_auc"]) for r in found.rows)
    assert "for 'z'" in " ".join(found.verdict) and "y r2" in found.table()[0]


# -- the verdict -----------------------------------------------------------------------------------------------------


LONGER = {"folds": 4, "set": {"train.epochs": 10}}


def test_fusing_pays_where_the_label_needs_both_views():
    found = quick(vectors(140, rule="and", noise=0.1), "concat,weighted", **LONGER | {"seeds": 2})
    told = " ".join(found.verdict)
    assert found.verdict[0].startswith("Fusing pays for 'label': ") and found.best.kind == "fusion"
    assert f"{found.best.name} reaches roc_auc {found.best.score:.4g}" in told and f"({found.best_single.views[0]})" in told
    assert found.best.over_single.low > 0 and found.rows[0] is found.best


def test_nothing_is_gained_where_the_second_view_is_noise():
    found = quick(vectors(100, rule="first"), "concat,weighted", **LONGER)
    assert found.best_single.views == ("a",)
    assert found.verdict[0].startswith(("No gain from fusing is shown", "Fusing does not pay"))
    told = " ".join(found.verdict)
    assert "4 runs a method can show only a very large gain" in told
    assert "Within noise of" in told or "is better than every other method" in told


class Judge:
    """What `verdict` asks of a task."""

    metric, higher = "roc_auc", True


def planted(scores, folds=5, judge=Judge):
    """Rows, runs and folds as `standings` would find them, from {method: scores of its runs}; "X alone" is a single view."""
    cut = {(0, k): Fold(np.arange(60), np.arange(60, 70), np.arange(70, 100)) for k in range(folds)}
    methods = [Method(n, "single" if n.endswith(" alone") else "fusion", (n.split()[0],)) for n in scores]
    found = {
        n: {
            (0, k): runs.Result(v, {"y": {judge.metric: v}}, np.arange(3), {}, {"seconds": 1.0, "parameters": 10 + at, "latency_ms": 1.0})
            for k, v in enumerate(values)
        }
        for at, (n, values) in enumerate(scores.items())
    }
    rows = standings(methods, found, cut, judge, None, "y", 0)
    return rows, verdict(rows, found, cut, judge, "y")


WOBBLE = np.array([0.01, -0.01, 0.02, 0.0, -0.02])


def test_what_the_verdict_says():
    _, told = planted({"a alone": 0.7 + WOBBLE, "concat": 0.9 + WOBBLE[::-1], "sum": 0.9 - WOBBLE / 2, "max": 0.6 + WOBBLE})
    assert told[0].startswith("Fusing pays for 'y': concat reaches")
    assert told[1] == "Within noise of concat: sum."  # and not max
    _, told = planted({"a alone": 0.9 + WOBBLE, "concat": 0.7 - WOBBLE})
    assert told[0].startswith("Fusing does not pay for 'y': concat reaches roc_auc 0.7")
    _, told = planted({"a alone": 0.8 + WOBBLE, "concat": 0.8 - WOBBLE, "sum": 0.5 + WOBBLE / 9})
    assert told[0].startswith("No gain from fusing is shown for 'y': concat") and told[0].endswith("p = 1.000.")
    assert told[1] == "concat is better than every other method that has all its runs."
    _, told = planted({"a alone": [0.8], "concat": [0.9]}, folds=1)
    assert told[0].startswith("One run a method cannot tell")
    _, told = planted({"a alone": 0.8 + WOBBLE, "concat": (0.8 + WOBBLE)[:2], "sum": []})
    assert told == ["No verdict on 'y' yet: no fusion has all its runs. Give it more time, or fewer seeds, folds or fusions."]
    _, told = planted({"a alone": 0.8 + WOBBLE, "concat": 0.8 + WOBBLE, "sum": [0.99], "max": []})
    assert "Stopped early, by successive halving or for want of time: sum." in told and told[-1] == "Not reached: max."


def test_the_smallest_of_equals_is_named_and_less_may_be_better():
    class Error(Judge):
        metric, higher = "mae", False

    rows, told = planted({"a alone": 3 + WOBBLE, "sum": 2 + WOBBLE * 1.5, "concat": 2 - WOBBLE + 0.001}, judge=Error)
    assert [r.name for r in rows] == ["sum", "concat", "a alone"] or [r.name for r in rows] == ["concat", "sum", "a alone"]
    assert rows[0].over_single.value == pytest.approx(1.0, abs=0.01) and "Fusing pays" in told[0]
    _, told = planted({"a alone": 0.7 + WOBBLE, "sum": 0.9 + WOBBLE / 3, "concat": 0.9001 - WOBBLE / 2})
    assert told[1].endswith("Within noise of concat: sum. The smallest of them is sum.")


def test_a_metric_that_is_not_defined_on_some_fold_is_left_out():
    rows, told = planted({"a alone": [0.7, math.nan, 0.72, 0.71, 0.69], "concat": [0.9, 0.88, math.nan, 0.91, 0.9], "sum": [math.nan] * 5})
    by = {r.name: r for r in rows}
    assert by["concat"].score == pytest.approx(np.mean([0.9, 0.88, 0.91, 0.9])) and math.isnan(by["sum"].score) and rows[-1].name == "sum"
    assert by["concat"].over_single.value == pytest.approx(np.mean([0.2, 0.2, 0.21]))
    json.dumps(Comparison("y", "roc_auc", True, rows, told, 1, 5, "").to_json(), allow_nan=False)


# -- encoders that are run once ----------------------------------------------------------------------------------------


class Counted(Encoder):
    """Random directions that never train, and a linear layer that does; counts the cells it has seen."""

    name, modality, frozen = "test-counted", "vector", True
    cells = fits = 0

    def __init__(self, codec, width):
        super().__init__(codec, width)
        self.register_buffer("directions", torch.randn(codec.length, 8))
        self.register_buffer("middle", torch.zeros(codec.length))
        self.out = torch.nn.Linear(8, width)

    def fit(self, stream):
        self.middle.copy_(torch.cat([x["value"] for x in stream]).mean(0))
        Counted.fits += 1

    def features(self, x):
        Counted.cells += len(x["value"])
        made = torch.tanh((x["value"] - self.middle) @ self.directions).unsqueeze(1)
        return Encoded(made, torch.ones(made.shape[:2], dtype=torch.bool))

    def project(self, encoded):
        return self.out(encoded.x)


@pytest.fixture
def counted(monkeypatch):
    encoders("test-counted")(Counted)
    monkeypatch.setattr(Counted, "cells", 0)
    monkeypatch.setattr(Counted, "fits", 0)
    yield Counted
    encoders._parts.pop("test-counted")


@pytest.mark.parametrize("mode", ["own", "shared"])
def test_encoders_that_do_not_train_are_run_once_for_all(counted, monkeypatch, mode):
    monkeypatch.setattr(runs, "_TIMED", 0)  # the latency is taken with the encoders
    rows = vectors(60)
    options = {"set": {"train.epochs": 2, "a.encoder": "test-counted"}, "encoders": mode}
    quick(rows, "concat", folds=2, **options)
    few, fits = counted.cells, counted.fits
    quick(rows, "concat,weighted,gmu,multiply", folds=3, **options)
    latency = 3  # single rows that warm up
    assert few == 60 + latency * 2 * 2 and counted.cells - few == 60 + latency * 3 * 5  # the single view and the fusions
    assert fits == 1 and counted.fits == 2


def test_stored_features_change_no_answer(counted, monkeypatch):
    rows, options = vectors(60), {"set": {"train.epochs": 3, "a.encoder": "test-counted", "train.drop": 0}}
    stored = quick(rows, "concat", **options)
    monkeypatch.setattr(Counted, "fit", lambda self, stream: None)
    again = quick(rows, "concat", **options)
    monkeypatch.setattr(runs.Bench, "store_frozen", lambda self: None)
    plain = quick(rows, "concat", **options)
    assert again["concat"].score == pytest.approx(plain["concat"].score, abs=1e-5)
    assert stored["concat"].parameters == plain["concat"].parameters


def test_shared_encoders_are_those_of_the_single_models(monkeypatch):
    seen, original = [], runs.Bench.run

    def spy(self, method, fold, seed, lent=None, budget_s=None):
        done = original(self, method, fold, seed, lent, budget_s)
        seen.append((method, lent, done[1], self))
        return done

    monkeypatch.setattr(runs.Bench, "run", spy)
    found = quick(vectors(60), "concat,gmu", encoders="shared")
    assert all(r.whole for r in found.rows)
    for fold in range(2):
        (a, none, single, bench), (_, _, other, _), (method, lent, fused, _), (_, again, _, _) = seen[4 * fold : 4 * fold + 4]
        assert a.name == "a alone" and none is None and method.kind == "fusion" and lent["a"] is again["a"]
        data = bench.ready["representation"].data
        cells = data.views["a"].cells(np.arange(60))
        with torch.inference_mode():
            expected = single.model.encoders[0].eval()(cells.x)[0]
            stored = lent["a"].features.cells(np.arange(60)).x["features"]
            taken = fused.model.encoders[0].eval()(cells.x)[0]
        assert torch.allclose(stored, expected, atol=1e-6) and torch.allclose(taken, expected, atol=1e-6)
        assert not any(p.requires_grad for p in fused.model.encoders[0].parameters())
    assert lent["a"] is not seen[2][1]["a"], "each fold has its own"


def test_shared_encoders_when_it_goes_on(tmp_path):
    rows = vectors(60)
    first = quick(rows, "concat", encoders="shared", out=tmp_path / "c")
    more = quick(rows, "concat,gmu", encoders="shared", out=tmp_path / "c")
    whole = quick(rows, "concat,gmu", encoders="shared")
    assert more["gmu"].score == whole["gmu"].score and more["concat"].score == first["concat"].score
    with pytest.raises(pf.RecipeError, match="with other options"):
        quick(rows, "concat", out=tmp_path / "c")


def test_at_feature_level_the_joined_numbers_are_seen():
    """`table` loses its numbers to a view of their own there: with shared encoders it needs one that fits."""
    rng = np.random.default_rng(0)
    rows = [
        {"n": float(x[0]), "m": float(x[1]), "town": str(rng.choice(["u", "v"])), "v": x[2:].tolist(), "label": "p" if x[0] > 0 else "q"}
        for x in rng.normal(size=(90, 5))
    ]
    for mode in ("own", "shared"):
        found = quick(rows, "concat,early", encoders=mode, set={"train.epochs": 20})
        assert found["early"].score > 0.9 and found["table alone"].score > 0.9


# -- time ------------------------------------------------------------------------------------------------------------


class Watch:
    """A clock that only moves when a run is made, and a bench whose runs are planned: {method: (score, seconds)}."""

    main = "y"

    def __init__(self, planned, budget, monkeypatch, tmp_path, folds=10, singles=("a alone", "b alone")):
        self.plan, self.now, self.ran = planned, 0.0, []
        monkeypatch.setattr(match, "clock", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(Match, "_judge", (Judge, None))
        monkeypatch.setattr(match, "standings", lambda *a: standings(*a[:-1], 0))
        methods = [Method(n, "single" if n in singles else "fusion", (n[0],) if n in singles else ("a", "b")) for n in planned]
        cut = {(0, k): Fold(np.arange(60), np.arange(60, 70), np.arange(70, 100)) for k in range(folds)}
        self.match = Match(self, methods, cut, "", tmp_path / "w", "own", Progress(True), 0.0, budget)

    def run(self, method, fold, seed, lent, budget_s):
        score, seconds = self.plan[method.name]
        if budget_s is not None and seconds > budget_s:
            self.now += budget_s
            return None
        self.now += seconds
        self.ran.append(method.name)
        about = {"seconds": seconds, "parameters": 1, "latency_ms": 1.0, "run_s": seconds}
        score += 0.001 * (len(self.ran) % 3)
        return runs.Result(score, {"y": {"roc_auc": score}}, np.arange(3), {"y": torch.zeros(3)}, about), None


PLAN = {"a alone": (0.7, 1.0), "b alone": (0.6, 1.0), "concat": (0.5, 1.0)} | {f"f{i}": (0.5 + i / 50, 1.0) for i in range(16)}


def test_with_time_enough_nobody_is_left_behind(monkeypatch, tmp_path):
    watch = Watch(PLAN, 191.0, monkeypatch, tmp_path)
    watch.match.go()
    found = watch.match.result()
    assert all(r.whole for r in found.rows) and found.note == "" and len(watch.ran) == 190


@pytest.mark.parametrize("budget", [60.0, 90.0, 130.0, 185.0])
def test_halving_leaves_the_worse_half_and_ends_in_time(monkeypatch, tmp_path, budget):
    watch = Watch(PLAN, budget, monkeypatch, tmp_path)
    watch.match.go()
    found = watch.match.result()
    assert watch.now <= budget and found.note == ""
    assert all(found[n].whole for n in ("a alone", "b alone", "concat", "f15")) and found.best.name == "f15"
    counts = [found[f"f{i}"].runs for i in range(16)]
    assert counts == sorted(counts) and counts[0] >= 1 and counts[0] < 10
    assert watch.now >= 0.6 * budget, "time was left unused"
    assert "Stopped early, by successive halving" in " ".join(found.verdict) and "f0" in " ".join(found.verdict)


def test_a_budget_for_less_than_one_fold(monkeypatch, tmp_path):
    watch = Watch(PLAN, 8.5, monkeypatch, tmp_path)
    watch.match.go()
    found = watch.match.result()
    assert watch.ran == ["a alone", "b alone", "concat", *(f"f{i}" for i in range(5))] and watch.now <= 8.5
    assert found.note == "The time was up before every run was made." and found.verdict[0].startswith("No verdict on 'y' yet")
    assert found["f9"].runs == 0 and "not reached" in next(line for line in found.lines() if line.startswith("f9 "))
    assert found.rows[-1].runs == 0 and found.rows[0].runs == 1


def test_after_a_short_call_a_long_one_runs_the_rest(monkeypatch, tmp_path):
    Watch(PLAN, 90.0, monkeypatch, tmp_path).match.go()
    later = Watch(PLAN, None, monkeypatch, tmp_path)
    later.match.go()
    assert all(r.whole for r in later.match.result().rows) and 0 < len(later.ran) < 190


def test_a_real_budget_is_kept(tmp_path):
    begun = time.monotonic()
    found = quick(vectors(80), "all", time="3s", seeds=2, folds=4, set={"train.epochs": 8})
    assert time.monotonic() - begun < 10
    assert any(r.runs < r.of for r in found.rows) and found["a alone"].runs
    assert found.verdict[0].startswith("No verdict") or any("Stopped early" in t or "Not reached" in t for t in found.verdict)


def test_a_run_that_the_budget_cuts_short_does_not_count(monkeypatch):
    given, original = [], runs.Bench.run

    def cut(self, method, fold, seed, lent, budget_s):
        given.append(budget_s)
        return original(self, method, fold, seed, lent, 1e-6)

    monkeypatch.setattr(runs.Bench, "run", cut)
    found = quick(vectors(60), "concat", time=60)
    assert len(given) == 1 and 0 < given[0] <= 60 and all(r.runs == 0 for r in found.rows)
    assert found.verdict[0].startswith("No verdict") and "not reached" in found.lines()[1]


# -- interrupted -----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished(monkeypatch, tmp_path):
    original, count = runs.Bench.run, []

    def stop(self, *given):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return original(self, *given)

    monkeypatch.setattr(runs.Bench, "run", stop)
    found = quick(vectors(60), "concat,weighted", out=tmp_path / "c")
    assert found.note == "Interrupted: the leaderboard holds what was finished." and found.lines()[-1] == found.note
    assert [found[n].runs for n in ("a alone", "b alone", "concat", "weighted")] == [1, 1, 1, 1]
    assert (tmp_path / "c" / "comparison.png").is_file()
    monkeypatch.setattr(runs.Bench, "run", original)
    again = quick(vectors(60), "concat,weighted", out=tmp_path / "c")
    assert again.note == "" and all(r.whole for r in again.rows)


def test_ctrl_c_before_anything_is_finished(monkeypatch, tmp_path):
    def stop(self, *given):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.Bench, "run", stop)
    found = quick(vectors(60), "concat", out=tmp_path / "c")
    assert found.best is None and found.best_single is None and (tmp_path / "c" / "comparison.png").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_comparison_goes_on(tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, vectors(100))) + "\n", "utf-8")
    options = ["--target", "label", "--fusions", "weighted,gmu,lowrank", "--seeds", "1", "--folds", "2", "--size", "s"]
    options += ["--set", "train.epochs=4", "--device", "cpu", "--threads", "1", "--json", "--quiet"]

    def command(out):
        return [sys.executable, "-m", "polyfuse.cli", "compare", "t.jsonl", *options, "--out", out]

    where = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(pf.__file__)), "OMP_NUM_THREADS": "1"}}
    running = subprocess.Popen(command("c"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **where)
    begun = time.monotonic()
    while len(list((tmp_path / "c" / "runs").glob("*.safetensors"))) < 4:
        assert running.poll() is None and time.monotonic() - begun < 300
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "c" / "runs").glob("*.safetensors")}
    assert 4 <= len(before) < 12 and not (tmp_path / "c" / "comparison.json").is_file()
    resumed = json.loads(subprocess.run(command("c"), capture_output=True, check=True, **where).stdout)
    whole = quick(tmp_path / "t.jsonl", "weighted,gmu,lowrank", set={"train.epochs": 4}, threads=1).to_json()
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "c" / "runs").glob("*.safetensors")}
    assert len(after) == 12 and all(after[n] == t for n, t in before.items())
    timed = ("seconds", "latency_ms")
    rows = [[{k: v for k, v in row.items() if k not in timed} for row in one["rows"]] for one in (resumed, json.loads(json.dumps(whole)))]
    assert rows[0] == rows[1] and resumed["verdict"] == whole["verdict"]


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusions": "gmuu"}, "did you mean 'gmu'"),
        ({"seeds": 0}, "--seeds 0"),
        ({"folds": 1}, "--folds 1"),
        ({"encoders": "sharde"}, "own or shared"),
        ({"set": {"fusion.rank": 3}}, "name it: --set NAME.rank"),
        ({"set": {"lowrank.rank": 3}}, "is of a fusion that is not compared"),
        ({"set": {"train.epoch": 3}}, "did you mean 'epochs'"),
        ({"time": "soon"}, "is not a duration"),
        ({"main": "lable"}, "did you mean 'label'"),
        ({"ignore": ["b"]}, "has one view, 'a'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(pf.RecipeError, match=message):
        quick(vectors(40), **options)


def test_a_fusion_that_cannot_take_the_task():
    with pytest.raises(pf.RecipeError, match="decision-vote"):
        quick(numbers(40), "decision-vote", "y", ignore=["z"])


def test_of_all_fusions_those_that_cannot_are_left_out(capsys, monkeypatch):
    monkeypatch.setattr(fusions, "names", lambda: ["concat", "decision-vote", "weighted"])
    found = quick(numbers(40), "all", "y", ignore=["z"], quiet=False)
    assert [r.name for r in found.rows if r.kind == "fusion"] and "decision-vote" not in [r.name for r in found.rows]
    err = capsys.readouterr().err
    assert "left out: " in err and "decision-vote" in err and "fold 2 of 2 done" in err


def absent(rows, view, where):
    return [{**row, view: None} if where(i, row) else row for i, row in enumerate(rows)]


def test_a_view_that_a_folds_rows_lack():
    rows = [{**row, "t": i} for i, row in enumerate(vectors(60))]
    late = quick(absent(rows, "b", lambda i, _: i < 20), "concat,gmu", time_column="t")
    assert "'b' is absent in every row that 1 of 2 folds learn from: nothing of it is learned there." in late.note
    early = quick(absent(rows, "b", lambda i, _: i >= 40), "concat,gmu", time_column="t")
    assert "'b' is absent in every row that 1 of 2 folds test on: it cannot help there." in early.note
    for found in (late, early):
        assert all(r.whole and math.isfinite(r.score) for r in found.rows)


def test_a_view_that_only_one_class_has():
    found = quick(absent(vectors(60), "b", lambda _, row: row["label"] == "yes"), "concat")
    assert "'b' is there only in rows of the class 'no': that it is there gives the class away." in found.note


def test_more_classes_than_rows_can_teach():
    rows = [{**row, "label": f"c{i}"} for i, row in enumerate(vectors(30))]
    with pytest.raises(pf.DataError, match="has 30 classes in 30 rows: none can be learned from one row and tested on another"):
        quick(rows, columns={"label": "category"})


def test_one_class_and_no_labels():
    with pytest.raises(pf.DataError, match="one class only"):
        quick([{**row, "label": "yes"} for row in vectors(30)], columns={"label": "category"})


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, vectors(60))) + "\n", "utf-8")

    def call(*more):
        monkeypatch.setattr(
            "sys.argv", ["polyfuse", "compare", "t.jsonl", "--target", "label", "--seeds", "1", "--folds", "2", "--size", "s", *more]
        )
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capfd.readouterr()

    status, out, err = call("--fusions", "weighted", "--set", "train.epochs=2", "--out", "c")
    assert status == 0 and "Within noise of" in out and "wrote c" in err and "concat" in out
    assert "seed 0, fold 2 of 2 done; roc_auc so far:" in err and "2 of 2 runs" in err
    status, out, err = call("--fusions", "weighted", "--set", "train.epochs=2", "--out", "c", "--json", "--quiet")
    assert status == 0 and {r["name"] for r in json.loads(out)["rows"]} == {"a alone", "b alone", "concat", "weighted"}
    status, _, err = call("--fusions", "weihgted")
    assert status == 2 and "did you mean 'weighted'" in err and "Traceback" not in err


def test_pairs_are_compared_where_there_are_three_views():
    found = quick(vectors(60, names=("a", "b", "c")), "concat", pairs=True)
    assert {r.name for r in found.rows if r.kind == "pair"} == {"a + b", "a + c", "b + c"} and found["a + c"].views == ("a", "c")


@pytest.mark.slow
def test_every_fusion_at_once(tmp_path):
    found = quick(vectors(80), "all", out=tmp_path / "c", set={"train.epochs": 1})
    assert {r.name for r in found.rows if r.kind == "fusion"} == set(fusions.names()) and all(r.whole for r in found.rows)
    assert len(found.lines()[0]) <= 145
