"""Intervals and comparisons: against established figures, against theory, and against the naive answer."""

import numpy as np
import pytest
import torch

import polyfuse.tasks  # noqa: F401
from polyfuse.core import Cells, TabularCodec, Task, tasks
from polyfuse.core import intervals as of
from polyfuse.evaluate import difference, evaluate, naive


class Category(TabularCodec):
    name = "category"

    def __init__(self, values):
        super().__init__("kind")
        self.values = list(values)


def truth_of(y) -> Cells:
    return Cells({"index": torch.as_tensor(y).view(-1, 1) + 1}, torch.arange(len(y)), len(y))


def planted(rows: int = 300, skill: float = 1.0, seed: int = 0):
    g = np.random.default_rng(seed)
    y = g.integers(0, 2, rows)
    return torch.from_numpy(np.stack([np.zeros(rows), g.normal(size=rows) + skill * (2 * y - 1)], 1)), truth_of(y)


# figures as functions of counts


def weighted_figures():
    g = np.random.default_rng(0)
    score, positive = np.round(g.normal(size=80), 1), g.random(80) < 0.4
    value, answer = g.normal(size=80), g.normal(size=80)
    from sklearn import metrics

    return {
        "mean": (of.mean(value), lambda w: np.average(value, weights=w)),
        "roc_auc": (of.roc_auc(score, positive), lambda w: metrics.roc_auc_score(positive, score, sample_weight=w)),
        "pr_auc": (of.pr_auc(score, positive), lambda w: metrics.average_precision_score(positive, score, sample_weight=w)),
        "r2": (of.r2(value, answer), lambda w: metrics.r2_score(value, answer, sample_weight=w)),
    }


@pytest.mark.parametrize("name", ["mean", "roc_auc", "pr_auc", "r2"])
def test_counts_are_sample_weights(name):
    figure, theirs = weighted_figures()[name]
    counts = np.random.default_rng(1).integers(0, 4, (5, 80)).astype(float)
    assert figure(counts) == pytest.approx([theirs(w) for w in counts])


def test_tallies_f1_and_mcc_with_counts():
    from sklearn import metrics

    g = np.random.default_rng(2)
    y, answer = g.integers(0, 4, 60), g.integers(0, 4, 60)
    counts = g.integers(0, 3, (3, 60)).astype(float)
    tally = of.tallies(y, answer, 4)(counts)
    assert of.mcc(*tally, counts.sum(1)) == pytest.approx([metrics.matthews_corrcoef(y, answer, sample_weight=w) for w in counts])
    assert of.f1(*tally).mean(1) == pytest.approx([metrics.f1_score(y, answer, average="macro", sample_weight=w) for w in counts])


def test_an_unseen_truth_is_one_more_class():
    from sklearn import metrics

    y, answer = np.array([0, 1, 2, 1, 0]), np.array([0, 1, 1, 0, 0])
    ours = of.mcc(*of.tallies(np.where(y == 2, -1, y), answer, 2)(np.ones((1, 5))), np.array([5.0]))
    assert ours == pytest.approx(metrics.matthews_corrcoef(y, answer))


def test_one_class_alone_is_not_an_error():
    one = np.ones((1, 3))
    assert np.isnan(of.roc_auc(np.arange(3), np.ones(3))(one)) and np.isnan(of.pr_auc(np.arange(3), np.zeros(3))(one))
    assert np.isnan(of.r2(np.full(3, 0.1), np.arange(3))(one))
    assert of.mcc(*of.tallies(np.zeros(3, int), np.zeros(3, int), 2)(one), np.array([3.0])) == 0.0


def test_no_rows_are_not_an_error():
    none, nothing = np.zeros((1, 0)), np.zeros(0)
    for figure in (
        of.mean(nothing),
        of.roc_auc(nothing, nothing),
        of.pr_auc(nothing, nothing),
        of.r2(nothing, nothing),
        of.calibration_error(nothing, nothing),
    ):
        assert np.isnan(figure(none)).all()
    assert np.isnan(of.bootstrap(of.mean(nothing), 0)).all()


# bootstrap


def test_interval_of_a_mean_is_that_of_theory():
    x = np.random.default_rng(3).normal(size=400)
    low, high = of.bootstrap(of.mean(x), 400, draws=4000)
    half = 1.96 * x.std() / 20
    assert low == pytest.approx(x.mean() - half, abs=0.01) and high == pytest.approx(x.mean() + half, abs=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    g, covered = np.random.default_rng(4), 0
    for seed in range(200):
        low, high = of.bootstrap(of.mean(g.random(60) < 0.7), 60, draws=200, seed=seed)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_same_seed_same_interval_however_it_is_cut(monkeypatch):
    figure = of.mean(np.arange(50.0))
    first = of.bootstrap(figure, 50, draws=100, seed=7)
    assert of.bootstrap(figure, 50, draws=100, seed=7) == first != of.bootstrap(figure, 50, draws=100, seed=8)
    monkeypatch.setattr(of, "_CHUNK", 120)
    assert of.bootstrap(figure, 50, draws=100, seed=7) == first


# evaluate


def test_every_metric_has_an_interval_around_it():
    out, truth = planted()
    task = tasks.build("binary", Category("ab"), 4)
    found = evaluate(task, out, truth)
    assert {"accuracy", "f1", "roc_auc", "pr_auc", "log_loss", "brier", "mcc"} <= set(found)
    assert {k: v["value"] for k, v in found.items()} == task.scores(out, truth)
    for name in set(found) - {"ece"}:  # a draw repeats rows, which can only widen the gaps of a bin
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found == evaluate(task, out, truth)
    assert all("low" not in v for v in evaluate(task, out, truth, draws=0).values())


def test_more_rows_narrow_the_interval():
    task = tasks.build("binary", Category("ab"), 4)
    few, many = (evaluate(task, *planted(rows))["accuracy"] for rows in (100, 1600))
    assert (few["high"] - few["low"]) > 3 * (many["high"] - many["low"])


def test_intervals_over_groups_are_those_of_their_means():
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(40), 25)
    value = rng.normal(size=40)[day] + 0.1 * rng.normal(size=1000)  # rows of one day are nearly the same
    alone, together = of.bootstrap(of.mean(value), 1000), of.bootstrap(of.mean(value), 1000, groups=day)
    of_means = of.bootstrap(of.mean(np.bincount(day, value) / 25), 40)
    assert together == pytest.approx(of_means), "as many rows in every day: the mean over rows is that over days"
    assert together[1] - together[0] > 4 * (alone[1] - alone[0])


def test_no_labelled_rows_have_no_metrics():
    task = tasks.build("binary", Category("ab"), 4)
    for x in ({}, {"index": torch.zeros(0, 1, dtype=torch.long)}):
        none = Cells(x, torch.zeros(0, dtype=torch.long), 3)
        assert evaluate(task, torch.zeros(3, 2), none) == {} == naive(task, none)


def test_naive_is_the_majority_of_the_training_rows():
    task = tasks.build("multiclass", Category("abc"), 4)
    task.fit({"index": torch.tensor([[2]] * 6 + [[1]] * 3 + [[3]])})
    task.temperature.fill_(3.0)
    scores = naive(task, truth_of([1, 1, 0, 2]))
    assert scores["accuracy"] == 0.5
    assert scores["log_loss"] == pytest.approx(-np.log([0.6, 0.6, 0.3, 0.1]).mean())


def test_difference_is_paired_and_points_the_right_way():
    good, truth = planted(skill=1.5)
    poor = good + 1.5 * torch.randn(good.shape, generator=torch.Generator().manual_seed(0))
    task = tasks.build("binary", Category("ab"), 4)
    found = difference(task, good, poor, truth)
    assert found["metric"] == "roc_auc" and 0 < found["low"] < found["value"] < found["high"]
    assert difference(task, poor, good, truth)["high"] < 0
    same = difference(task, good, good, truth)
    assert same["value"] == same["low"] == same["high"] == 0.0


class Own(Task):
    """A user's task that can only score whole sets of rows."""

    metric, higher = "off", False

    def scores(self, out, truth):
        return {"off": float((out[truth.rows, 0] - truth.x["value"][:, 0]).abs().mean())}


def test_a_task_of_ones_own_gets_intervals_too():
    g = torch.Generator().manual_seed(1)
    truth = Cells({"value": torch.randn(50, 1, generator=g)}, torch.arange(0, 100, 2), 100)
    out, task = torch.randn(100, 1, generator=g), Own(Category("a"), 4)
    found = evaluate(task, out, truth)["off"]
    assert found["low"] < found["value"] < found["high"] and found["value"] == pytest.approx(task.scores(out, truth)["off"])
    assert naive(task, truth) == {}
    worse = out.clone()
    worse[truth.rows] += 5.0
    assert difference(task, out, worse, truth)["low"] > 0
