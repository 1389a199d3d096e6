"""What can be predicted, and how little a table may hold: through `fit`, `predict` and `evaluate`."""

import json
import math

import numpy as np
import pytest

import polyfuse as pf

QUICK = {"size": "s", "set": {"train.epochs": 2}}


def numbers(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [{"a": float(x), "b": float(y), "word": ["up", "down"][int(x > 0)]} for x, y in rng.normal(size=(rows, 2))]


def with_target(rows, target, name="y"):
    return [row | {name: target(row, i)} for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("task", "target", "kind"),
    [
        ("binary", lambda r, i: r["a"] > 0, str),
        ("binary", lambda r, i: ["no", "yes"][r["a"] > 0], str),
        ("multiclass", lambda r, i: "lmh"[int(np.searchsorted([-0.5, 0.5], r["a"]))], str),
        ("multilabel", lambda r, i: [w for w, p in (("pos", r["a"] > 0), ("big", abs(r["b"]) > 1)) if p], list),
        ("multilabel", lambda r, i: "|".join(w for w, p in (("pos", r["a"] > 0), ("big", abs(r["b"]) > 1)) if p) or "none", list),
        ("regression", lambda r, i: 10 * r["a"] + 100, float),
        ("quantile", lambda r, i: 10 * r["a"] + 100, float),
        ("regression", lambda r, i: [r["a"], 10 * r["b"], 5.0 + r["a"]], list),
    ],
)
def test_every_task_from_cell_to_file(tmp_path, task, target, kind):
    rows = with_target(numbers(80), target)
    bundle = pf.fit(rows[:60], "y", task=task, out=tmp_path / "b", **QUICK)
    assert bundle.recipe["parts"]["y"]["task"] == task
    loaded = pf.Bundle.load(tmp_path / "b")
    answers = loaded.predict(numbers(80)[60:])
    assert len(answers) == 20 and all(isinstance(v, kind | str if kind is str else kind) for v in answers.values())
    found = loaded.evaluate(rows[60:])["metrics"]["y"]
    assert found and all(math.isfinite(f["value"]) for f in found.values())
    answers.write(tmp_path / "a.jsonl")
    assert len([json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]) == 20


def test_several_targets_of_several_kinds_and_labels_that_are_missing():
    rows = with_target(with_target(numbers(80), lambda r, i: r["word"], "kind"), lambda r, i: None if i % 3 else 2 * r["b"], "amount")
    bundle = pf.fit(rows, ["kind", "amount"], **QUICK)
    answer = bundle.predict({"a": 1.0, "b": 2.0})
    assert {"kind", "amount"} <= set(answer) and isinstance(answer["amount"]["value"], float)
    found = bundle.evaluate(rows)["metrics"]
    assert set(found) == {"kind", "amount"}


def test_a_target_that_is_missing_in_most_rows_costs_only_those():
    rows = with_target(numbers(90), lambda r, i: r["word"] if i % 3 == 0 else None)
    bundle = pf.fit(rows, "y", **QUICK)
    assert bundle.card["data"]["trained_on"] + bundle.card["data"]["held_out"] == 30


@pytest.mark.parametrize("label", [lambda r, i: "same", lambda r, i: 3.5, lambda r, i: None, lambda r, i: "" if i else "once"])
def test_a_target_that_teaches_nothing_is_said(label):
    rows = with_target(numbers(40), label)
    try:
        bundle = pf.fit(rows, "y", **QUICK)
    except pf.Error as error:
        assert "y" in str(error)
    else:  # a constant amount can be learned, and is answered
        assert bundle.predict(rows[0])["y"]["value"] == pytest.approx(3.5, abs=0.5)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_tables_of_next_to_no_rows(count):
    rows = with_target(numbers(count), lambda r, i: ["no", "yes"][i % 2])
    try:
        bundle = pf.fit(rows, "y", **QUICK)
    except pf.Error as error:
        assert count < 4 and ("row" in str(error) or "no columns" in str(error) or "class" in str(error)), str(error)
    else:
        assert count >= 2 and bundle.predict(rows[0])["y"]["value"] in ("no", "yes")


def test_a_class_with_one_row_and_a_class_only_in_validation():
    rows = with_target(numbers(40), lambda r, i: "rare" if i == 7 else r["word"])
    bundle = pf.fit(rows, "y", **QUICK)
    assert set(bundle.predict(rows[0])["y"]["probability"]) == {"up", "down", "rare"}
    bundle = pf.fit([r for r in rows if r["y"] != "rare"], "y", val=rows, **QUICK)
    assert set(bundle.predict(rows[0])["y"]["probability"]) == {"up", "down"}


def test_a_row_with_nothing_gets_an_answer_and_a_warning(mixed):
    bundle = pf.fit(mixed(40), "label", ignore=["degrees"], **QUICK)
    empty = bundle.predict([{"photo": None, "note": ""}])[0]
    assert empty["answer"]["label"]["value"] in ("hot", "cold")
    assert sum(empty["answer"]["label"]["probability"].values()) == pytest.approx(1.0, abs=1e-5)
    assert any("no cell" in w for w in empty["warnings"]), empty["warnings"]


def test_a_column_wholly_missing_takes_no_part_and_is_said(mixed):
    rows = pf.read(mixed(40))
    blank = pf.read({n: [None] * 40 if n == "sound" else rows.column(n).to_pylist() for n in rows.names}, base=rows.base)
    bundle = pf.fit(blank, "label", ignore=["degrees"], **QUICK)
    assert "sound" not in bundle.views or not bundle.card["data"]["present"].get("sound")
    assert bundle.predict(blank).values()


def test_quantiles_are_in_order_and_cover():
    rng = np.random.default_rng(0)
    rows = [{"x": float(x), "y": float(3 * x + rng.normal())} for x in rng.normal(size=400)]
    bundle = pf.fit(rows, "y", task="quantile", size="s", set={"train.epochs": 12})
    answers = [bundle.predict(row)["y"]["quantiles"] for row in rows[:50]]
    spread = np.array([list(a.values()) for a in answers])
    assert (np.diff(spread, axis=1) >= 0).all()
    truth = np.array([row["y"] for row in rows[:50]])
    assert ((spread[:, 0] <= truth) & (truth <= spread[:, -1])).mean() > 0.5
