"""search: what may change, what a trial is, and how trials are kept, pruned, resumed and told."""

import csv
import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

import polyfuse as pf
import polyfuse.parts  # files all parts, whose names are test cases
from polyfuse.core import RecipeError, check_values, fusions, learners
from polyfuse.core.progress import Progress
from polyfuse.data import Fold
from polyfuse.learners import TrainOptions
from polyfuse.ready import Run, find_schema
from polyfuse.recipe import resolve
from polyfuse.search import SearchResult, journal, trials
from polyfuse.search.command import command
from polyfuse.search.journal import Pruned, Trial
from polyfuse.search.space import Choice, Range, around, check_space, default_space, defaults, merged, parse_space
from polyfuse.search.trials import Learned, Networks, Tables, cut

optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed here")
QUICK = {"train.epochs": 3}


@pytest.fixture
def table(tmp_path):
    """A class that a number and a word both hint at, half of the time each."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(60):
        hot = bool(rng.random() < 0.5)
        word = "warm sunny day at the sea" if (rng.random() < 0.8) == hot else "cold rainy night in town"
        rows.append(
            {
                "a": round(float(rng.normal(hot, 1)), 3),
                "b": round(float(rng.normal()), 3),
                "note": f"{word} {rng.integers(99)} and more words",
                "y": "yes" if hot else "no",
            }
        )
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "t.csv"


@pytest.fixture
def tables(table):
    """tables(fusion) -> the table under any settings, and a function from settings to a recipe."""

    def make(fusion="concat", learner=None):
        read = pf.read(table)
        schema = find_schema(read, None, "y", None, None, None, None, None, None, None, None, None, Progress(True))

        def recipe_of(settings):
            given = {part: options for part, options in settings.items() if part != learner}
            return resolve(schema, fusion=fusion, size="s", seed=0, settings=given, main="y")

        return Tables(recipe_of, lambda r: Run(schema, r, read, Progress(True), pf.Store(), 1, 0.1, False))

    return make


def found(tables, make, *more, **options):
    ready = tables.at({"train": {"epochs": 3}})
    parts, _ = cut(ready, options.pop("folds"), 1, 0)
    work = make(tables, parts, 0, "cpu", *more)
    work.begin({"train": {"epochs": 3}} if make is Networks else {})
    return work


# -- the space ----------------------------------------------------------------------------------------------------


def test_a_space_is_read_by_its_ends():
    read = parse_space(["fusion.rank=2..8", "train.rate=log:1e-4..1e-1", "train.drop=.1..0.5", "photo.encoder=image-cnn|image-vit"])
    assert read == {
        "fusion.rank": Range(2, 8, whole=True),
        "train.rate": Range(1e-4, 1e-1, log=True),
        "train.drop": Range(0.1, 0.5),
        "photo.encoder": Choice(("image-cnn", "image-vit")),
    }
    assert parse_space({"fusion.rank": "log:2..64", "a.b": [1, None, "x"]}) == {
        "fusion.rank": Range(2, 64, whole=True, log=True),
        "a.b": Choice((1, None, "x")),
    }
    assert parse_space([f"{key}={span}" for key, span in read.items()]) == read  # what is printed can be given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank=2..8", "names no part and option"),
        ("fusion.rank=8", "leaves nothing to choose"),
        ("fusion.rank=8..2", "which is empty"),
        ("fusion.rank=2..many", "ends are no numbers"),
        ("train.rate=log:0..1", "a log scale has no 0"),
        ("train.rate=log:1|2", "leaves nothing to choose"),
    ],
)
def test_a_space_that_is_none_is_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_space([text])


def test_an_option_is_searched_around_its_default():
    concat, moe, transformer = fusions.get("concat"), fusions.get("moe"), fusions.get("transformer")
    assert around("dropout", 0.1, concat) == Range(0.0, 0.5)
    assert around("hidden", 2, concat) == Range(1, 4, whole=True)
    assert around("balance", 0.01, moe) == Range(0.001, 0.1, log=True)
    assert around("heads", 4, transformer) == Choice((2, 4, 8))  # heads divide the width
    assert around("solver", "auto", learners.get("linear")) == Choice(("logistic", "ridge", "auto"))
    assert around("most", 6000, learners.get("svm")) is None  # a bound on the cost
    assert around("epochs", 0, TrainOptions) is None  # 0 = chosen


@pytest.mark.parametrize("name", fusions.names())
def test_the_usual_space_of_a_fusion_holds_its_defaults_and_nothing_impossible(tables, name):
    recipe = tables(name).recipe_of({})
    space = default_space(recipe, None, {})
    assert {"train.rate", "train.decay", "train.drop"} <= set(space)
    assert defaults(space, recipe, None, {}) is not None
    for key, span in space.items():
        if key.startswith("fusion."):
            for end in span.ends:
                check_values(name, {key.removeprefix("fusion."): end}, fusions.get(name))


def test_the_usual_space_of_learners(tables):
    recipe = tables().recipe_of({})
    for name in set(learners.names()) - {"svm"}:
        space = default_space(recipe, name, {})
        assert space and all(key.startswith(f"{name}.") for key in space)
        assert defaults(space, recipe, name, {}) is not None
    assert set(default_space(recipe, "boost", {"boost": {"rate": 0.2}})) == {"boost.rounds", "boost.leaves"}  # what is set stays
    with pytest.raises(RecipeError, match="no option that is searched unless"):
        default_space(recipe, "svm", {})


def test_defaults_outside_the_space_are_not_in_it(tables):
    recipe = tables("lowrank").recipe_of({"fusion": {"dropout": 0.3}})
    known = defaults(parse_space(["fusion.rank=2..8", "fusion.dropout=0..0.5", "note.dropout=0..0.9"]), recipe, None, {})
    assert known == {"fusion.rank": 4, "fusion.dropout": 0.3, "note.dropout": 0.2}
    assert defaults(parse_space(["fusion.rank=8..16"]), recipe, None, {}) is None
    assert defaults(parse_space(["note.encoder=text-bag|text-gru"]), recipe, None, {}) == {"note.encoder": "text-gru"}


@pytest.mark.parametrize(
    ("learner", "text", "message"),
    [
        (None, "fusion.rnak=2..8", "did you mean 'rank'"),
        (None, "nope.depth=2..8", "there is no part 'nope'"),
        (None, "notee.depth=2..8", "did you mean 'note'"),
        (None, "fusion.rank=0..8", "from 1 on"),
        (None, "fusion.dropout=0..1.5", "below 1"),
        (None, "train.precision=no|bf17", "is 'bf17'"),
        (None, "train.rat=0..1", "did you mean 'rate'"),
        ("boost", "bost.rate=0..1", "did you mean 'boost'"),
        ("boost", "fusion.rank=2..8", "there is no part 'fusion' beside learner 'boost'"),
        ("boost", "boost.leafs=2..8", "did you mean 'leaves'"),
        ("boost", "boost.leaves=a|b", "a whole number"),
    ],
)
def test_what_cannot_be_set_cannot_be_searched(tables, learner, text, message):
    with pytest.raises(RecipeError, match=message):
        check_space(parse_space([text]), {}, learner, tables("lowrank", learner).recipe_of)


def test_a_range_is_of_the_numbers_that_the_option_takes(tables):
    space = parse_space(["train.drop=0..1", "fusion.rank=2..8", "note.dropout=log:1e-3..0.5"])
    checked = check_space(space, {}, None, tables("lowrank").recipe_of)
    assert checked["train.drop"] == Range(0.0, 1.0) and checked["fusion.rank"].whole and checked["note.dropout"].log
    with pytest.raises(RecipeError, match="below 1"):
        check_space(parse_space(["fusion.dropout=0..1"]), {}, None, tables("lowrank").recipe_of)


def test_what_is_set_cannot_be_searched_too(tables):
    with pytest.raises(RecipeError, match="fixed by --set and searched by --space"):
        check_space(parse_space(["fusion.rank=2..8"]), {"fusion": {"rank": 4}}, None, tables("lowrank").recipe_of)


# -- one trial ----------------------------------------------------------------------------------------------------


def test_the_table_is_made_ready_once_for_the_same_codecs(tables, monkeypatch):
    made = []
    monkeypatch.setattr(trials, "make_ready", lambda *a, real=trials.make_ready, **k: made.append(k["given"]) or real(*a, **k))
    every = tables()
    first = every.at({})
    other = every.at({"train": {"rate": 0.1}, "note": {"dropout": 0.5}})
    assert len(made) == 1 and other.data is first.data and other.run.recipe["train"]["rate"] == 0.1
    assert first.run.recipe["train"]["rate"] != 0.1
    every.at({"note": {"encoder": "text-gru", "tokens": 8}})
    assert len(made) == 1 + (every.recipe_of({})["codecs"] != every.recipe_of({"note": {"encoder": "text-gru", "tokens": 8}})["codecs"])
    assert all({"a", "b", "y"} <= set(given) for given in made[1:])  # codecs that stay as they are are not fitted again


def test_a_network_reports_every_epoch_and_ends_cleanly(tables):
    work = found(tables(), Networks, folds=2)
    settings, told = {"train": {"epochs": 3}}, []
    out = work.run(settings, lambda step, value: told.append((step, value)))
    assert [step for step, _ in told] == list(range(6))
    assert [v for _, v in told[:3]] == sorted(v for _, v in told[:3])  # the best so far never falls
    assert len(out) == 60 and 0 <= work.judge.score(out) <= 1

    def stop(step, value):
        raise Pruned

    with pytest.raises(Pruned):
        work.run(settings, stop)
    assert torch.equal(out, work.run(settings, lambda step, value: None))  # an ended trial leaves nothing behind
    assert not torch.equal(out, work.run({"train": {"epochs": 3, "rate": 0.02}}, lambda step, value: None))


def test_the_score_is_that_of_all_test_rows_together(tables):
    from sklearn.metrics import roc_auc_score

    work = found(tables(), Learned, "linear", folds=3)
    out = work.run({}, lambda step, value: None)
    rows = np.concatenate([f.test for f in work.folds])
    labels = tables().at({}).data.targets["y"].cells(rows).x["index"][:, 0].numpy()
    probability = work.judge.task.probability(out)[:, 1].numpy()
    assert sorted(rows.tolist()) == list(range(60))
    assert work.judge.score(out) == pytest.approx(roc_auc_score(labels == 2, probability), abs=1e-6)
    assert work.judge.oriented(out) == work.judge.score(out)


def test_a_learner_reports_every_fold_and_learns_once(tables, monkeypatch):
    from polyfuse.presets import crossfit

    learned = []
    monkeypatch.setattr(crossfit, "_learn", lambda *a, real=crossfit._learn: learned.append(a[0]["options"]) or real(*a))
    work = found(tables(learner="linear"), Learned, "linear", folds=3)
    told = []
    out = work.run({"linear": {"solver": "ridge"}}, lambda step, value: told.append((step, value)))
    assert [step for step, _ in told] == [0, 1, 2] and learned == [{"solver": "ridge"}] * 3
    assert told[-1][1] == pytest.approx(work.judge.oriented(out))
    assert torch.equal(out, work.run({"linear": {"solver": "ridge"}}, lambda step, value: None)) and len(learned) == 3


def test_encoders_that_do_not_train_are_run_once(tables, monkeypatch):
    from polyfuse.compare import runs

    ran = []
    monkeypatch.setattr(runs, "features_of", lambda *a, real=runs.features_of: ran.append(a[2]) or real(*a))
    settings = {"train": {"epochs": 1}, "note": {"encoder": "text-tfidf"}}
    every = tables()
    work = Networks(every, cut(every.at(settings), 1, 1, 0)[0], 0, "cpu")
    work.begin(settings)
    for rate in (0.001, 0.01):
        work.run(merged(settings, {"train.rate": rate, "table.dropout": 10 * rate}), lambda step, value: None)
    assert ran == [["note"]]
    work.run(merged(settings, {"note.dims": 16}), lambda step, value: None)
    assert ran == [["note"]] * 2


def test_folds_may_have_rows_that_others_have_not(tables):
    at = np.arange(60)
    parts = [Fold(at[:20], at[20:25], at[25:40]), Fold(at[:35], at[35:40], at[40:])]  # as folds by time are
    work = Learned(tables(), parts, 0, "cpu", "linear")
    work.begin({})
    told = []
    assert len(work.run({}, lambda step, value: told.append(value))) == 35 and len(told) == 2
    assert [len(t.rows) for t in work._tables(work.tables.at({}))] == [40, 60]


def test_a_learner_that_cannot_take_the_target_is_refused(tables, monkeypatch):
    every = tables()
    monkeypatch.setattr(learners.get("linear"), "takes", ("numbers",))
    with pytest.raises(RecipeError, match="cannot take the target 'y'"):
        Learned(every, cut(every.at({}), 2, 2, 0)[0], 0, "cpu", "linear").begin({})


# -- what is told -------------------------------------------------------------------------------------------------


def result(**changes):
    done = [
        Trial(0, "complete", {}, 0.3, -0.3, 1.0),
        Trial(1, "complete", {"fusion.rank": 8}, 0.2, -0.2, 2.0),
        Trial(2, "pruned", {"fusion.rank": 2}, seconds=0.5),
        Trial(3, "failed", {"fusion.rank": 5}, reason="diverged"),
    ]
    given = {"over_defaults": {"value": 0.1, "low": 0.05, "high": 0.15}, "importance": {"fusion.rank": 1.0}, "command": "polyfuse fit t"}
    return SearchResult("y", "rmse", False, done, {"fusion.rank": "2..8"}, "one split", **{**given, **changes})


def test_the_result_says_what_is_best_and_by_how_much(tmp_path):
    text = "\n".join(result().lines())
    assert "best is trial 1, rmse 0.2 with fusion.rank=8: better than the defaults by 0.1 [0.05, 0.15]" in text
    assert "expect less of new rows" in text and "2 finished, 1 pruned, 1 failed" in text
    assert "trial 3 failed: diverged (fusion.rank=5)" in text and "fusion.rank 100%" in text and text.endswith("polyfuse fit t")
    assert "may be chance" in "\n".join(result(over_defaults={"value": 0.1, "low": -0.05, "high": 0.15}).lines())
    only = SearchResult("y", "rmse", False, result().trials[:1], {}, "one split")
    assert "no trial is better than the defaults" in "\n".join(only.lines())
    assert "no trial came to its end" in "\n".join(SearchResult("y", "rmse", False, result().trials[3:], {}, "one split").lines())
    result().write(tmp_path / "s")
    rows = list(csv.DictReader((tmp_path / "s" / "trials.csv").read_text("utf-8").splitlines()))
    assert (
        [r["state"] for r in rows] == ["complete", "complete", "pruned", "failed"] and rows[1]["fusion.rank"] == "8" and not rows[2]["rmse"]
    )
    best = json.loads((tmp_path / "s" / "best.json").read_text("utf-8"))
    assert best["best"]["options"] == {"fusion.rank": 8} and best["trials"][2]["score"] is None


def test_the_command_can_be_typed():
    asked = dict.fromkeys(("rows", "learner", "fusion", "fit_to", "target", "ignore", "join", "window", "group", "time_column", "weight"))
    asked |= dict.fromkeys(("split_column", "task", "main", "absent", "columns", "objectives", "schema")) | {"size": "m", "seed": 0}
    asked |= {"rows": "my pets.csv", "target": ["y", "z"], "join": {"v": ("vector", ["c1", "d*"])}, "columns": {"a": "text"}, "size": "s"}
    said = command(asked, {"fusion": {"rank": 8}, "note": {"encoder": "text-gru", "pieces": None}})
    assert said == (
        "polyfuse fit 'my pets.csv' --fusion concat --target y --target z --join 'v=vector:c1,d*' --size s --column a=text "
        "--set fusion.rank=8 --set note.encoder=text-gru --set note.pieces=null --out BUNDLE"
    )
    said = command({**asked, "learner": "boost", "seed": 3, "join": None}, {"boost": {"rate": 0.1}})
    assert "search 'my pets.csv' --learner boost" in said and said.endswith(
        "--seed 3 --column a=text --set boost.rate=0.1 --trials 1 --fit BUNDLE"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "gmu", "learner": "boost"}, "cannot go with --fusion"),
        ({"learner": "bost"}, "did you mean 'boost'"),
        ({"trials": 0}, "--trials 0"),
        ({"folds": 0}, "--folds 0"),
    ],
)
def test_mistakes(table, options, message):
    with pytest.raises(RecipeError, match=message):
        pf.search(table, "y", **options)


def test_without_optuna_it_says_what_to_install(table, monkeypatch):
    monkeypatch.setattr(journal, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install polyfuse\[search\]"):
        pf.search(table, "y")


def test_what_a_killed_process_leaves_is_repaired(tmp_path):
    file = tmp_path / "optuna.jsonl"
    file.write_bytes(b'{"op_code": 0}\n{"op_co')
    (tmp_path / "optuna.jsonl.lock").touch()
    journal._repair(file)
    assert file.read_bytes() == b'{"op_code": 0}\n' and not (tmp_path / "optuna.jsonl.lock").exists()


# -- the search, with optuna --------------------------------------------------------------------------------------


def short(table, **options):
    return pf.search(table, "y", **{"size": "s", "device": "cpu", "trials": 3, "set": QUICK, **options})


def about(done):
    return [(t.number, t.state, t.options, t.score) for t in done.trials]


@optuna
def test_a_search_of_a_network_goes_on_and_ends_in_a_bundle(table, tmp_path):
    place = tmp_path / "s"
    first = short(table, fusion="lowrank", trials=2, out=place)
    assert [t.number for t in first.trials] == [0, 1] and first.trials[0].options == {}
    assert set(first.trials[1].options) == {"train.rate", "train.decay", "train.drop", "fusion.rank", "fusion.dropout"}
    then = short(table, fusion="lowrank", out=place, fit_to=tmp_path / "b")
    assert about(then)[:2] == about(first) and len(then.trials) == 3
    assert about(then) == about(short(table, fusion="lowrank"))  # as if it had never stopped
    assert {"trials.csv", "best.json", "optuna.jsonl", "search.json"} <= {p.name for p in place.iterdir()}
    recipe = pf.Bundle.load(tmp_path / "b").recipe
    wanted = {**QUICK, **then.best.options}
    assert recipe["fusion"]["name"] == "lowrank" and all(recipe[k.split(".")[0]][k.split(".")[1]] == v for k, v in wanted.items())
    assert then.over_defaults is None or then.best.number
    assert "--fusion lowrank" in then.command and "--set train.epochs=3" in then.command


@optuna
def test_a_search_of_a_learner(table, tmp_path):
    done = short(table, learner="boost", folds=2, set={"boost.rounds": 10}, fit_to=tmp_path / "b", out=tmp_path / "s")
    assert len(done.trials) == 3 and set(done.trials[1].options) == {"boost.rate", "boost.leaves"}
    assert done.split.startswith("2 folds")
    bundle = pf.Bundle.load(tmp_path / "b")
    members = bundle.recipe["ensemble"]["members"]
    assert all(
        m["learner"] == "boost" and m["options"] == {"rounds": 10, **{k[6:]: v for k, v in done.best.options.items()}} for m in members
    )
    assert len(bundle.predict(table)) == 60


@optuna
def test_a_folder_belongs_to_one_search(table, tmp_path):
    options = {"learner": "linear", "folds": 2, "set": {}, "out": tmp_path / "s", "trials": 1}
    short(table, **options)
    with pytest.raises(RecipeError, match="another table, space"):
        short(table, **options, space=["linear.solver=ridge|auto"])
    again = short(table, **options, space=["linear.solver=ridge|auto"], overwrite=True)
    assert again.space == {"linear.solver": "ridge|auto"} and len(again.trials) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(RecipeError, match="holds other things"):
        short(table, **{**options, "out": tmp_path / "other"})


@optuna
def test_a_trial_that_fails_is_noted_and_the_search_goes_on(table, monkeypatch):
    def run(self, settings, report, real=Learned.run):
        if settings.get("linear", {}).get("solver") == "ridge":
            raise RecipeError("training", "diverged")
        return real(self, settings, report)

    monkeypatch.setattr(Learned, "run", run)
    done = short(table, learner="linear", folds=2, set={}, space={"linear.solver": ["ridge", "logistic"]}, trials=8)
    failed = [t for t in done.trials if t.state == "failed"]
    assert len(done.trials) == 8 and failed and all(t.reason == "training: diverged." for t in failed)
    assert done.trials[0].state == "complete" and done.trials[0].options == {}  # "auto" lies outside the space
    assert any("failed: training: diverged" in line for line in done.lines())


@optuna
def test_a_search_in_which_nothing_works_says_so(table, tmp_path, monkeypatch):
    def run(self, settings, report):
        raise RecipeError("training", "diverged")

    monkeypatch.setattr(Learned, "run", run)
    with pytest.raises(RecipeError, match="no trial came to its end; the first: training: diverged"):
        short(table, learner="linear", folds=2, set={}, fit_to=tmp_path / "b")
    assert not (tmp_path / "b").exists()


@optuna
def test_a_bad_trial_is_pruned(table, monkeypatch):
    def run(self, settings, report):
        rate = settings.get("linear", {}).get("shrink", 1.0)
        out = torch.zeros(len(self.judge.truth.rows), 2)
        for step in range(3):
            report(step, rate)
        out[:, 1] = rate * (self.judge.truth.x["index"][:, 0] == 2)
        return out

    monkeypatch.setattr(Learned, "run", run)
    monkeypatch.setattr(sys.modules["polyfuse.search"], "check_space", lambda space, *_: space)
    done = short(table, learner="linear", folds=2, set={}, space=["linear.shrink=0..0.9"], trials=14)
    states = {t.state for t in done.trials}
    assert states == {"complete", "pruned"} and all(t.state == "complete" for t in done.trials[:5])


@optuna
def test_ctrl_c_and_the_end_of_the_time_keep_what_is_finished(table, tmp_path, monkeypatch):
    calls = []

    def run(self, settings, report, real=Learned.run):
        calls.append(settings)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, settings, report)

    options = {"learner": "boost", "folds": 2, "set": {"boost.rounds": 10}, "trials": 4}
    whole = short(table, **options)
    monkeypatch.setattr(Learned, "run", run)
    cut_off = short(table, **options, out=tmp_path / "s")
    assert len(cut_off.trials) == 2 and "Interrupted" in cut_off.note and (tmp_path / "s" / "best.json").is_file()
    then = short(table, **options, out=tmp_path / "s")
    assert [(t.state, t.options, t.score) for t in then.trials] == [(t.state, t.options, t.score) for t in whole.trials]
    late = short(table, **options, time=0.001)
    assert len(late.trials) == 1 and "The time was up" in late.note


def quadratic(number, options, report):
    value = -((options.get("a.x", 0.0) - 0.3) ** 2) + 0.001 * options.get("a.k", 0)
    return -value, value


SPACE = {"a.x": Range(-1.0, 1.0), "a.k": Range(1, 4, whole=True), "a.kind": Choice((True, None, "b"))}


@optuna
def test_a_trial_that_was_killed_is_tried_again_once(tmp_path):
    file = tmp_path / "optuna.jsonl"
    first = journal.Journal(file, SPACE, 0, 0)
    first.run_defaults(quadratic, None)
    killed = first.study.ask(first._distributions)
    file.write_bytes(file.read_bytes() + b'{"op_code"')  # in the middle of a line
    again = journal.Journal(file, SPACE, 0, 0)
    assert [t.number for t in again.trials] == [0]
    trial = again.run_next(quadratic)
    assert trial.options == again._rounded(killed.params) and trial.number == 2 and trial.state == "complete"
    then = journal.Journal(file, SPACE, 0, 0)
    assert then.run_next(quadratic).options != trial.options and [t.number for t in then.trials] == [0, 2, 3]


@optuna
def test_proposals_get_better_and_it_is_known_why(tmp_path):
    kept = journal.Journal(tmp_path / "optuna.jsonl", SPACE, 1, 0)
    kept.run_defaults(quadratic, {"a.x": 0.0, "a.k": 1, "a.kind": None})
    assert kept.importance() == {}
    for _ in range(30):
        trial = kept.run_next(quadratic)
        assert SPACE["a.x"].holds(trial.options["a.x"]) and float(f"{trial.options['a.x']:.4g}") == trial.options["a.x"]
    best = max(kept.trials, key=lambda t: t.value)
    assert abs(best.options["a.x"] - 0.3) < 0.05 and best.score == -best.value
    found = kept.importance()
    assert sum(found.values()) == pytest.approx(1.0) and next(iter(found)) == "a.x" and found["a.x"] > 0.9


@optuna
def test_options_that_were_tried_are_not_learned_again(table, monkeypatch):
    ran = []
    monkeypatch.setattr(Learned, "run", lambda *a, real=Learned.run: ran.append(a[1]) or real(*a))
    done = short(table, learner="linear", folds=2, set={}, space=["linear.solver=ridge|auto"], trials=6)
    assert len(done.trials) == 6 and len(ran) == 2  # the defaults, "auto", and "ridge"


@optuna
def test_the_command_line(table, tmp_path, monkeypatch, capfd):
    from polyfuse import cli

    words = ["search", table, "-t", "y", "--learner", "linear", "--folds", "2", "--trials", "2", "--out", tmp_path / "s", "-q", "--json"]
    monkeypatch.setattr("sys.argv", ["polyfuse", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = json.loads(capfd.readouterr().out)
    assert said["metric"] == "roc_auc" and len(said["trials"]) == 2 and said["space"] == {"linear.solver": "logistic|ridge|auto"}
