"""fit under a preset: plan, members, weights, verdict, and what must hold whatever the table is."""

import importlib
import json
import shutil
import time as clock
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import polyfuse as pf
from polyfuse.core import Cells, codecs, tasks
from polyfuse.data import Store
from polyfuse.ensemble import joined, multiplied, product
from polyfuse.learners.threads import together
from polyfuse.presets import course
from polyfuse.presets.selection import Said, held_out, judge, select, told

WORDS = {0: "red warm sun fire", 1: "blue cold sea ice", 2: "green calm wood moss"}


def planted(rows=240, seed=0, kind="both", missing=0.0):
    """A text that tells one bit and two numbers that tell another; the label needs both, one, or nothing of them."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(2, size=rows), rng.integers(2, size=rows)
    noise = rng.integers(2, size=rows)
    label = {"both": a + b, "text": a, "noise": noise}[kind]
    filler = "the a of and to in it is was for on with".split()
    out = []
    for i in range(rows):
        words = [*rng.choice(WORDS[int(a[i])].split(), 3), *rng.choice(filler, 4)]
        row = {
            "note": " ".join(rng.permutation(words).tolist()),
            "x": float(b[i] + rng.normal(0, 0.25)),
            "z": float(rng.normal()),
            "label": f"class {label[i]}",
        }
        if rng.random() < missing:
            row["note"] = None
        out.append(row)
    return out


COLUMNS = {"note": "text", "x": "number", "z": "number", "label": "category"}


def fit(rows, target="label", **options):
    return pf.fit(rows, target, **{"preset": "fast", "columns": COLUMNS, "device": "cpu"} | options)


@pytest.fixture(scope="module")
def bundle():
    return fit(planted(600))


# -- what it answers --------------------------------------------------------------------------------------------------


def test_words_that_are_not_reduced_have_members_of_their_own(bundle, tmp_path):
    names = [m["name"] for m in bundle.card["members"]]
    assert "linear-sparse on note" in names and "linear-sparse on all" in names
    assert any("linear-sparse" == m.get("learner") for m in bundle.recipe["ensemble"]["members"])
    rows = [dict(r, note=None) if i % 2 else r for i, r in enumerate(planted(8, seed=3))]
    again = pf.Bundle.load(bundle.save(tmp_path / "b"))
    assert json.dumps(again.predict_rows(rows)) == json.dumps(bundle.predict_rows(rows))


def test_members_of_both_views_together_beat_each_alone(bundle):
    found = bundle.card["verdict"]["label"]
    assert found["answers"] == "together" and found["gain"] and found["signal"]
    assert found["difference"]["low"] > 0.05 and set(found["views"]) == {"note", "table"}
    test = bundle.evaluate(planted(200, seed=9))["metrics"]["label"]["accuracy"]["value"]
    assert test > 0.85


def test_a_saved_ensemble_gives_the_same_answers(bundle, tmp_path):
    rows = planted(20, seed=3)
    again = pf.Bundle.load(bundle.save(tmp_path / "b"))
    assert [a["answer"] for a in again.predict_rows(rows)] == [a["answer"] for a in bundle.predict_rows(rows)]
    assert not [f for f in (tmp_path / "b").iterdir() if f.suffix not in (".json", ".safetensors")]


def test_a_row_alone_equals_the_row_among_others(bundle):
    rows = planted(12, seed=4, missing=0.4)
    together = [a["answer"]["label"]["probability"] for a in bundle.predict_rows(rows)]
    for row, expected in zip(rows, together):
        alone = bundle.predict_rows([row])[0]["answer"]["label"]["probability"]
        assert alone == pytest.approx(expected, abs=1e-5)


def test_where_a_view_is_missing_the_others_answer(bundle):
    rows = [dict(r, note=None) for r in planted(150, seed=5)]
    answers = bundle.predict_rows(rows)
    # the numbers tell whether b is 0 or 1: the label is then one of two
    likely = [a["answer"]["label"]["probability"] for a in answers]
    off = [p["class 2"] if r["x"] < 0 else p["class 0"] for p, r in zip(likely, rows) if r["x"] < 0 or r["x"] > 1]
    assert np.mean(off) < 0.1 and all(abs(sum(p.values()) - 1) < 1e-5 for p in likely)


def test_a_row_with_nothing_gets_the_shares_of_the_classes(bundle):
    answer = bundle.predict_rows([{}])[0]
    shares = answer["answer"]["label"]["probability"]
    assert shares["class 1"] == pytest.approx(0.5, abs=0.1) and "no cell" in answer["warnings"][-1]


def test_an_absent_cell_is_the_same_as_no_column(bundle):
    rows = [{"x": 0.2, "z": 1.0, "note": None}, {"x": 0.2, "z": 1.0}]
    first, second = (a["answer"] for a in bundle.predict_rows(rows))
    assert first == second


def test_embedding_is_finite_and_zero_where_nothing_is_there(bundle):
    vectors = bundle.embed([*planted(5), {"x": None, "z": None, "note": None}])
    assert vectors.shape[0] == 6 and np.isfinite(vectors).all() and not vectors[-1].any() and vectors[0].any()


def test_robustness_of_an_ensemble(bundle):
    found = bundle.robustness(planted(120, seed=6), rates=[0.5, 0.9])
    worst = {c.views: c.values[-1] for c in found.curves if c.kind == "missing"}
    assert worst["note",] < found.curves[0].values[0] and worst["note", "table"] < worst["note",] + 0.1


# -- the verdict ------------------------------------------------------------------------------------------------------


def test_where_one_view_knows_all_it_answers_alone():
    bundle = fit(planted(kind="text"))
    found = bundle.card["verdict"]["label"]
    assert found["single"] == "note" and not found["gain"] and found["signal"]
    assert found["answers"] == "note"
    weighty = [m for m in bundle.card["members"] if m["weight"] > 0]
    assert all(m["views"] == ["note"] for m in weighty)
    assert bundle.predict_rows([{"x": 1.0, "z": 0.0}])[0]["answer"]["label"]["value"], "the table answers where the note is missing"


def test_of_noise_it_says_that_nothing_predicts():
    bundle = fit(planted(kind="noise"))
    found = bundle.card["verdict"]["label"]
    assert not found["signal"] and found["answers"] == "nothing"
    assert "nothing here is shown to predict" in bundle.card["warnings"][0]
    said = [row["answer"]["label"]["probability"] for row in bundle.predict(planted(5, seed=9))]
    assert all(p == said[0] for p in said), "every answer is the one that looks at nothing"


def test_a_column_that_gives_the_target_away_is_named():
    rows = [dict(r, code=f"c{r['label'][-1]}") for r in planted()]
    bundle = fit(rows, columns=COLUMNS | {"code": "category"})
    assert any("'code' alone removes" in line and "--ignore code" in line for line in bundle.card["warnings"])
    assert not any("'x' alone" in line for line in bundle.card["warnings"])


def test_figures_are_of_rows_the_fits_had_not_seen():
    """A learner that knows its rows by heart would be right on all of them; the labels here cannot be known."""
    bundle = fit(planted(kind="noise"))
    assert bundle.card["metrics"]["label"]["accuracy"]["value"] < 0.62


# -- steps ------------------------------------------------------------------------------------------------------------


def test_a_second_fit_learns_nothing_anew(monkeypatch):
    rows = planted(seed=11)
    first = fit(rows)

    def refuse(*_):
        raise AssertionError("encoded or learned again")

    monkeypatch.setattr("polyfuse.presets.crossfit._learn", refuse)
    monkeypatch.setattr("polyfuse.learners.features._write", refuse)
    again = fit(rows)
    assert [a["answer"] for a in again.predict_rows(rows[:9])] == [a["answer"] for a in first.predict_rows(rows[:9])]


@pytest.mark.parametrize("harm", ["cut", "junk", "gone"])
def test_a_damaged_store_is_made_again(harm, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path))
    rows = planted(80, seed=12)
    first = fit(rows)
    for entry in Store().entries():
        for file in entry["path"].iterdir():
            if harm == "cut" and file.suffix in (".safetensors", ".npy"):
                file.write_bytes(file.read_bytes()[:10])
            elif harm == "junk" and file.name == "meta.json" and "(" in entry["column"]:
                file.write_text(json.dumps({"column": "x"}))
        if harm == "gone":
            shutil.rmtree(entry["path"])
    again = fit(rows)
    assert [a["answer"] for a in again.predict_rows(rows[:9])] == [a["answer"] for a in first.predict_rows(rows[:9])]


def test_same_seed_same_answers_without_the_store(tmp_path, monkeypatch):
    rows, answers = planted(100, seed=13), []
    for run in ("a", "b"):
        monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path / run))
        answers.append([a["answer"] for a in fit(rows, seed=3).predict_rows(rows[:9])])
    assert answers[0] == answers[1]


def test_fits_side_by_side_give_what_they_give_one_after_the_other(tmp_path, monkeypatch):
    from polyfuse.presets import crossfit

    rows, answers = planted(300, seed=13), []
    for limit in (4, 1):
        monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path / str(limit)))
        monkeypatch.setattr(crossfit, "together", lambda jobs, threads, limit=limit: together(jobs, min(threads, limit)))
        bundle = fit(rows, threads=4)
        answers.append(([a["answer"] for a in bundle.predict_rows(rows[:50])], [m["score"] for m in bundle.card["members"]]))
    assert answers[0] == answers[1]


def test_features_that_are_read_when_asked_for_teach_what_they_teach_in_memory(tmp_path, monkeypatch):
    from polyfuse.presets import crossfit

    rows, answers = planted(300, seed=13), []
    for room in (crossfit._ROOM, 0):
        monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path / str(room)))
        monkeypatch.setattr(crossfit, "_ROOM", room)
        bundle = fit(rows)
        answers.append(([a["answer"] for a in bundle.predict_rows(rows[:50])], [m["score"] for m in bundle.card["members"]]))
    assert answers[0] == answers[1]


def test_an_error_in_one_of_several_fits_is_the_error_of_all():
    started = []

    def job(number):
        started.append(number)
        if number == 1:
            raise ValueError("two")
        clock.sleep(0.02)
        return number, torch.get_num_threads()

    before = torch.get_num_threads()
    assert together([partial(job, 0), partial(job, 2)], 2) == [(0, 1), (2, 1)]
    with pytest.raises(ValueError, match="two"):
        together([partial(job, n) for n in (1, *range(3, 50))], 2)
    assert len(started) < 50 and torch.get_num_threads() == before


def test_an_interrupt_keeps_what_is_learned(monkeypatch):
    from polyfuse.presets import crossfit

    calls = []

    def second_time(*arguments):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return crossfit.learn(*arguments)

    monkeypatch.setattr(course, "learn", second_time)
    bundle = fit(planted(90, seed=14))
    assert [m["name"] for m in bundle.card["members"]] == ["linear on note", "linear on table", "product of the views"]
    assert bundle.predict_rows(planted(2))[0]["answer"]["label"]["value"]


def test_a_budget_that_is_too_small_still_answers(tmp_path):
    bundle = fit(planted(80, seed=15), time="1s", out=tmp_path / "b")
    assert bundle.predict_rows(planted(1))[0]["answer"]["label"]["value"]


def test_steps_that_take_longer_than_expected_are_started_only_where_there_is_time_for_them(monkeypatch):
    from polyfuse.presets import crossfit

    def slowly(*arguments):
        found = crossfit.learn(*arguments)
        found.seconds = 100.0  # of the two that a linear member is expected to take
        return found

    monkeypatch.setattr(course, "learn", slowly)
    names = [m["name"] for m in fit(planted(90, seed=16), time="30s").card["members"]]
    assert "linear on table" in names and "linear on all" not in names


def test_the_plan_is_told_and_nothing_is_learned(tmp_path, capsys):
    plan = fit(planted(60), dry_run=True, quiet=False, out=tmp_path / "b")
    told = capsys.readouterr().err
    assert "learn linear on all, about" in told and "encode note: text-tfidf" in told
    assert plan.seconds > 0 and not (tmp_path / "b").exists()


# -- tables -----------------------------------------------------------------------------------------------------------


def test_a_class_with_fewer_rows_than_folds():
    rows = planted(100)
    rows[0]["label"] = rows[1]["label"] = "rare"
    answer = fit(rows).predict_rows(rows[5:6])[0]["answer"]["label"]["probability"]
    assert set(answer) == {"class 0", "class 1", "class 2", "rare"} and 0 < answer["rare"] < 0.5


@pytest.mark.parametrize("groups", [2, 3, 40])
def test_groups_are_never_split(groups):
    rows = [dict(r, unit=f"u{i % groups}") for i, r in enumerate(planted(120))]
    bundle = fit(rows, group="unit")
    assert "groups" in bundle.card["data"]["split"]


def test_time_order_is_kept():
    rows = [dict(r, day=f"2024-{1 + i // 28:02}-{1 + i % 28:02}") for i, r in enumerate(planted(150))]
    bundle = fit(rows[::-1], time_column="day")
    assert "day" in bundle.card["data"]["split"]


@pytest.mark.parametrize(("odd", "told"), [(2, "before; 2 rows have no readable time, left out"), (30, "in the order of its text")])
def test_times_that_cannot_be_read_are_told(odd, told, capsys):
    rows = [dict(r, day="someday" if i < odd else f"2024-0{1 + i % 9}-11") for i, r in enumerate(planted(60))]
    fit(rows, columns=COLUMNS | {"day": "time"}, time_column="day", dry_run=True, quiet=False)
    assert told in capsys.readouterr().err


def test_given_validation_rows_judge():
    bundle = fit(planted(300), val=planted(100, seed=2))
    assert bundle.card["data"]["held_out"] == 100 and "validation rows" in bundle.card["data"]["split"]
    assert bundle.card["verdict"]["label"]["signal"]


def test_a_split_column_keeps_its_test_rows_out():
    rows = [dict(r, part="test" if i % 4 == 0 else "val" if i % 4 == 1 else "train") for i, r in enumerate(planted(400))]
    for i in range(0, 400, 4):
        rows[i]["label"] = "class 0"  # would be learned if it were seen
    bundle = fit(rows, split_column="part")
    assert bundle.card["data"]["held_out"] == 100 and bundle.card["verdict"]["label"]["together"]["value"] > 0.65


def test_targets_of_several_kinds_and_labels_that_are_missing():
    rows = [dict(r, size=r["x"] * 3 + 1, tags=["a"] if r["x"] > 0.5 else []) for r in planted(150)]
    for i in range(0, 150, 3):
        rows[i]["size"] = None
    bundle = fit(rows, ["label", "size", "tags"], columns=COLUMNS | {"size": "number", "tags": "labels"})
    answer = bundle.predict_rows([{"x": 1.0, "z": 0.0, "note": "blue cold sea"}])[0]["answer"]
    assert answer["size"]["value"] == pytest.approx(4.0, abs=0.7) and answer["tags"]["value"] == ["a"]
    assert set(bundle.card["verdict"]) == {"label", "size", "tags"}


def test_a_view_that_is_missing_everywhere_and_rows_with_nothing():
    rows = [dict(r, extra=None) for r in planted(100)]
    for row in rows[:5]:
        row.update(note=None, x=None, z=None)
    bundle = fit(rows, columns=COLUMNS | {"extra": "text"})
    assert bundle.predict_rows([{"extra": "now there is one"}])[0]["answer"]["label"]["value"]
    assert bundle.card["verdict"]["label"]["signal"]


def test_what_a_member_says_of_rows_it_may_not_speak_of_counts_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path))
    rows, learn, found = planted(200, missing=0.3), course.learn, []

    def shouted(member, table, seed, store):
        fitted = learn(member, table, seed, store)
        if member["views"] == ["note"]:
            absent = torch.from_numpy(~table.data.views["note"].present[table.rows])
            for out in fitted.outs.values():
                out[absent] = torch.tensor([-9.0, 9.0, 0.0])
        return fitted

    for how in (learn, shouted):
        monkeypatch.setattr(course, "learn", how)
        found.append(fit(rows))
    quiet, loud = ([{**m, "seconds": 0} for m in bundle.card["members"]] for bundle in found)
    assert quiet and quiet == loud
    assert torch.equal(found[0].model.temper, found[1].model.temper)


def test_row_weights_count():
    rows = planted(160, kind="text")
    for i, row in enumerate(rows):
        row["w"] = 1.0
        if i % 2:  # half of the rows say the opposite, and count for nothing
            row["label"], row["w"] = ("class 0" if row["label"] == "class 1" else "class 1"), 0.0
    bundle = fit(rows, weight="w", columns=COLUMNS | {"w": "number"})
    answers = bundle.predict_rows(planted(60, seed=8, kind="text")).values()
    assert np.mean([a == r["label"] for a, r in zip(answers, planted(60, seed=8, kind="text"))]) > 0.9


# -- refused ----------------------------------------------------------------------------------------------------------


def test_preset_and_fusion_do_not_go_together():
    with pytest.raises(pf.RecipeError, match="--fusion, which is for one network"):
        fit(planted(20), fusion="concat")


def test_an_unknown_preset_is_named():
    with pytest.raises(pf.RecipeError, match="did you mean 'good'"):
        fit(planted(20), preset="goood")


def test_a_task_that_no_learner_takes_says_what_to_do():
    with pytest.raises(pf.RecipeError, match="no learner that takes the target 'x'.*--preset good"):
        fit(planted(40), "x", task="quantile")


# -- selection --------------------------------------------------------------------------------------------------------


def said(outs, y, views, classes=2, speaks=None):
    codec = codecs.build("category", "y")
    codec.fit(str(c) for c in range(classes) for _ in range(3))
    task = tasks.build("multiclass", codec, 4)
    task.fit({"index": y.unsqueeze(1) + 1})
    speaks = torch.ones(outs.shape[:2], dtype=torch.bool) if speaks is None else speaks
    return Said(task, outs, speaks, Cells({"index": y.unsqueeze(1) + 1}, torch.arange(len(y)), len(y)), views)


def members(rows=400, strengths=(2.0, 2.0, 0.0, 0.0, 0.0), seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (rows,), generator=generator)
    signal = torch.nn.functional.one_hot(y, 2).float()
    noise = torch.randn(rows, len(strengths), 2, generator=generator)
    return torch.stack([s * signal for s in strengths], 1) + noise, y


def test_noise_gets_no_weight_and_two_that_err_apart_share_it():
    outs, y = members()
    weights = select(said(outs, y, [("a",), ("b",), ("c",), ("d",), ("e",)]), range(5))
    assert weights.sum() == pytest.approx(1.0) and weights[2:].sum() < 0.1 and min(weights[:2]) > 0.25


def test_of_pure_noise_fusing_is_not_said_to_pay():
    wrong = 0
    for seed in range(20):
        outs, y = members(150, (0.0, 0.0, 0.0), seed)
        found, _, _ = judge(said(outs, y, [("a",), ("b",), ("a", "b")]))
        wrong += found["gain"]
    assert wrong <= 2


def test_days_that_err_together_are_few_witnesses():
    """A view that is right or wrong of whole days: over rows it looks sure to help, over days it is chance."""
    surely = {"rows": 0, "days": 0}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        day, y = np.repeat(np.arange(12), 60), torch.from_numpy(rng.integers(0, 2, 720))
        toward = torch.from_numpy(rng.choice([-0.4, 0.4], 12)[day]) * (2 * y - 1)
        outs = torch.stack([torch.zeros(720), toward.float()], 1).unsqueeze(1)
        for name, groups in (("rows", None), ("days", day)):
            found, _, _ = judge(replace(said(outs, y, [("a",)]), groups=groups))
            surely[name] += found["signal"]
    assert surely["rows"] >= 3 and surely["days"] <= 1


def test_no_row_is_judged_by_weights_it_chose():
    outs, y = members(200, (1.0, 1.0, 0.5))
    mine = said(outs, y, [("a",), ("b",), ("c",)])
    out = held_out(mine, range(3))
    flipped = said(outs, y.clone().index_fill(0, torch.tensor([7]), int(1 - y[7])), mine.views)
    assert torch.equal(held_out(flipped, range(3))[7], out[7])


def test_the_mean_goes_over_who_may_speak():
    generator = torch.Generator().manual_seed(1)
    outs = torch.randn(6, 3, 2, generator=generator)
    speaks = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=torch.bool)
    weights, spare = torch.tensor([0.75, 0.25, 0.0]), torch.tensor([0.2, 0.3, 0.5])
    task = said(outs, torch.randint(2, (6,), generator=generator), [("a",)] * 3).task
    found = joined(task, outs, speaks, weights, spare)
    for row in range(6):
        w = [float(weights[m]) for m in range(3) if speaks[row, m]]
        mine = weights if sum(w) > 0 else spare
        total = sum(float(mine[m]) for m in range(3) if speaks[row, m])
        if total == 0:
            expected = task.constant(1)[0].softmax(-1)
        else:
            expected = sum(float(mine[m]) / total * outs[row, m].softmax(-1) for m in range(3) if speaks[row, m])
        assert torch.allclose(found[row].softmax(-1), expected, atol=1e-6)


# -- rows that share a cell -------------------------------------------------------------------------------------------


def test_rows_that_share_a_cell_are_on_one_side_of_every_fold():
    """Notes that recur with one label each would be known by heart; nothing else tells the label."""
    rng = np.random.default_rng(0)
    notes = [" ".join(rng.choice(["oak", "elm", "ash", "fir", "yew", "bay", "box", "fig"], 6)) for _ in range(60)]
    labels = rng.integers(2, size=60)
    rows = [{"note": notes[i % 60], "z": float(rng.normal()), "label": f"class {labels[i % 60]}"} for i in range(240)]
    bundle = fit(rows, columns={"note": "text", "z": "number", "label": "category"})
    assert "share a cell" in bundle.card["data"]["split"]
    assert bundle.card["metrics"]["label"]["accuracy"]["value"] < 0.7


def test_one_question_under_every_picture_joins_nothing():
    rows = planted(100)
    for i, row in enumerate(rows):
        row["question"] = f"is it {'warm' if i % 2 else 'cold'} there today?"
    bundle = fit(rows, columns=COLUMNS | {"question": "text"})
    assert "share a cell" not in bundle.card["data"]["split"]


def test_a_figure_of_rows_that_are_all_alike_is_not_made_up():
    """Of three rows, those that all members answered unseen may have one class: it has no area under the curve."""
    found = {"metric": "roc_auc", "views": {"a": {"value": float("nan")}}, "single": "a", "signal": False, "answers": "a", "naive": None}
    assert told("y", found) == ["'y': nothing here is shown to predict it: roc_auc nan, looking at nothing cannot be told"]


# -- evidence that adds up --------------------------------------------------------------------------------------------


def test_a_product_is_the_posterior_of_views_that_err_apart():
    """By Bayes' rule: p(c | a, b) is in proportion to p(c | a) p(c | b) / p(c) where a and b are independent given c."""
    generator = torch.Generator().manual_seed(3)
    task = said(torch.zeros(2, 1, 3), torch.tensor([0, 1]), [("a",)], classes=3).task
    task.share.copy_(torch.tensor([0.5, 0.3, 0.2]))
    outs = torch.randn(5, 2, 3, generator=generator)
    speaks = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=torch.bool)
    found = product(task, outs, speaks).softmax(-1)
    for row in range(5):
        expected = [float(share) for share in task.share]
        for m in range(2):
            if speaks[row, m]:
                p = outs[row, m].softmax(-1)
                expected = [e * float(p[c]) / float(task.share[c]) for c, e in enumerate(expected)]
        expected = [e / sum(expected) for e in expected]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_view_of_several_members_is_their_weighed_mean_before_it_is_multiplied():
    generator = torch.Generator().manual_seed(4)
    task = said(torch.zeros(2, 1, 3), torch.tensor([0, 1]), [("a",)], classes=3).task
    outs, weights = torch.randn(4, 3, 3, generator=generator), torch.tensor([0.25, 1.0, 0.75])
    speaks = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    found = multiplied(task, outs, speaks, ["a", "b", "a"], weights).softmax(-1)
    p = outs.softmax(-1)
    mean = (0.25 * p[:, 0] + 0.75 * p[:, 2]).log()
    expected = product(task, torch.stack([mean, outs[:, 1]], 1), speaks[:, :2]).softmax(-1)
    torch.testing.assert_close(found, expected)


def test_views_that_err_apart_are_multiplied(tmp_path):
    """Two texts, each a weak and independent hint of the same label: a saved product gives the answers it gave before."""
    rng = np.random.default_rng(0)

    def hint(label):
        told = label if rng.random() < 0.75 else 1 - label
        return " ".join([*rng.choice(WORDS[told].split(), 2), *rng.choice("the a of and to in it".split(), 3)])

    labels = rng.integers(2, size=400)
    rows = [{"one": hint(y), "two": hint(y), "three": hint(y), "label": f"class {y}"} for y in labels]
    bundle = fit(rows, columns=dict.fromkeys(("one", "two", "three"), "text") | {"label": "category"})
    names = {m["name"]: m for m in bundle.card["members"]}
    assert names["product of the views"]["weight"] > 0 and names["product of the views"]["score"] > names["linear on one"]["score"]
    again = pf.Bundle.load(bundle.save(tmp_path / "b"))
    for row in (rows[0], {"one": rows[0]["one"]}, {}):
        assert again.predict_rows([row])[0]["answer"] == bundle.predict_rows([row])[0]["answer"]


# -- learning from what members say -----------------------------------------------------------------------------------


@pytest.fixture
def only_the_stack(monkeypatch):
    """All weight goes to the last member, which is stacked on all."""
    from polyfuse.presets import course

    def last(found, store_weights, spare):
        weights = torch.zeros_like(store_weights)
        weights[-1] = 1.0
        return found, weights, spare

    judged = course.judged
    monkeypatch.setattr(course, "judged", lambda *arguments: last(*judged(*arguments)))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_stacked_member_answers_as_it_did_before_it_was_saved(only_the_stack, tmp_path, missing):
    rows = planted(300, seed=21, missing=missing)
    bundle = fit(rows, out=tmp_path / "b")
    *_, last = bundle.recipe["ensemble"]["members"]
    kept = {m["name"] for m in bundle.recipe["ensemble"]["members"]}
    assert last["name"] == "stacked on all" and set(last["stack"]) < kept  # with it what it is made of
    assert bundle.evaluate(planted(200, seed=22))["metrics"]["label"]["accuracy"]["value"] > 0.75
    again = pf.Bundle.load(tmp_path / "b")
    tried = [*rows[:3], {"note": rows[0]["note"]}, {"x": 1.0}, {}]
    answers = [a["answer"]["label"]["probability"] for a in again.predict_rows(tried)]
    for row, answer in zip(tried, answers):
        alone = bundle.predict_rows([row])[0]["answer"]["label"]["probability"]
        assert list(answer.values()) == pytest.approx(list(alone.values()), abs=1e-5)
        assert sum(answer.values()) == pytest.approx(1.0)


def test_of_noise_stacking_learns_nothing():
    """Were a row answered by a fit that had seen what members said of it, it would look better than chance."""
    members = fit(planted(500, seed=23, kind="noise")).card["members"]
    stacks = [m["score"] for m in members if m["name"].startswith("stacked")]
    assert all(score < 0.5 + 3 * (0.25 / 500) ** 0.5 for score in stacks)


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_amounts_and_labels_are_stacked_too(kind, only_the_stack):
    rows = planted(160, seed=24)
    for i, row in enumerate(rows):
        row |= {"x": i % 4 + row["z"] / 9, "note": f"{row['note']} w{i % 7}"}
        row["goal"] = i % 7 + 0.1 * i if kind == "number" else ["a b", "b", "a", ""][i % 4]
    bundle = fit(rows, "goal", columns={"note": "text", "x": "number", "z": "number", "goal": kind}, ignore=["label"])
    assert "stacked on all" in [m["name"] for m in bundle.card["members"]]
    assert bundle.predict_rows([rows[5], {}])[0]["answer"]["goal"]


def test_of_several_targets_all_are_stacked_or_the_member_is_none(only_the_stack):
    rows = [dict(r, size=r["x"] * 3 + 1, tags=["a"] if r["x"] > 0.5 else []) for r in planted(150, seed=25)]
    bundle = fit(rows, ["label", "size", "tags"], columns=COLUMNS | {"size": "number", "tags": "labels"})
    *_, last = bundle.recipe["ensemble"]["members"]
    assert last["name"] == "stacked on all" and "product of the views" not in last["stack"]  # which says nothing of the size
    answer = bundle.predict_rows([{"x": 1.0, "z": 0.0, "note": "blue cold sea"}])[0]["answer"]
    assert answer["size"]["value"] == pytest.approx(4.0, abs=0.7) and answer["tags"]["value"] == ["a"]


def test_in_time_order_nothing_is_stacked():
    rows = [dict(r, day=f"2024-{1 + i // 28:02}-{1 + i % 28:02}") for i, r in enumerate(planted(150))]
    assert not [m for m in fit(rows, time_column="day").card["members"] if m["name"].startswith("stacked")]
    assert not [m for m in fit(planted(150), val=planted(60, seed=5)).card["members"] if m["name"].startswith("stacked")]


# -- again ------------------------------------------------------------------------------------------------------------


def test_a_recipe_repeats_the_fit_and_resume_goes_on_over_what_is_there(tmp_path):
    rows = planted(100, seed=16)
    first = fit(rows, out=tmp_path / "b", seed=2)
    answers = [a["answer"] for a in first.predict_rows(rows[:5])]
    again = pf.fit(rows, recipe=tmp_path / "b", device="cpu")
    assert [a["answer"] for a in again.predict_rows(rows[:5])] == answers
    with pytest.raises(pf.BundleError, match="exists already"):
        fit(rows, out=tmp_path / "b", seed=2)
    resumed = fit(rows, out=tmp_path / "b", seed=2, resume=True)
    assert [a["answer"] for a in resumed.predict_rows(rows[:5])] == answers


def test_the_default_is_good_unless_something_is_named_that_only_a_network_has(monkeypatch):
    chosen = importlib.import_module("polyfuse.fit")
    monkeypatch.setattr(chosen, "DEFAULT", "good")
    nothing = {"fusion": None, "objective": None, "absent": None, "log-to": None}
    assert chosen._preset(None, nothing, {}) == "good"
    assert chosen._preset(None, nothing, {"note": {"longest": 20}}) == "good"
    assert chosen._preset(None, {**nothing, "fusion": "concat"}, {}) is None
    assert chosen._preset(None, nothing, {"train": {"epochs": 3}}) is None


def test_good_has_networks_and_more_learners(tmp_path):
    plan = fit(planted(80), preset="good", dry_run=True)
    names = [step.name for step in plan.steps]
    assert "network (concat)" in names and "svm on all" in names and "fused on all (concat)" in names
    assert "network on note" in names and "network on table" not in names
    assert plan.seconds <= 1.5 * plan.budget_s


def test_a_learner_that_is_left_out_takes_no_network_with_it(monkeypatch):
    monkeypatch.setattr(importlib.import_module("polyfuse.presets.plan"), "_PATIENT", 0.0)
    plan = fit(planted(80), preset="good", dry_run=True)
    assert plan.left_out and "network (concat)" in [step.name for step in plan.steps]


@pytest.mark.slow
def test_a_network_joins_the_members(tmp_path):
    settings = {"note.encoder": "text-gru", "train.epochs": 3}  # not by the clock: a busy machine would have no time for a network
    bundle = fit(planted(80), preset="good", size="s", out=tmp_path / "b", set=settings)
    found = {m["name"] for m in bundle.card["members"]}
    assert "network (concat)" in found
    answer = pf.Bundle.load(tmp_path / "b").predict_rows([{"x": 1.0}, {}])
    assert all(sum(a["answer"]["label"]["probability"].values()) == pytest.approx(1.0) for a in answer)
