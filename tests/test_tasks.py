"""Every task: losses and scores against hand-made and established figures, answers as JSON, odd labels told or survived."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import polyfuse.tasks  # noqa: F401  (files the parts)
from polyfuse.core import Cells, DataError, RecipeError, TabularCodec, Task, Tokens, tasks

D = 8


class Category(TabularCodec):
    name, cardinality = "category", 1

    def __init__(self, values):
        super().__init__("kind")
        self.values = list(values)


class Number(TabularCodec):
    name, numbers = "number", 3

    def __init__(self, mean=10.0, std=2.0):
        super().__init__("price")
        self.mean, self.std = mean, std

    def restore(self, z):
        return z * self.std + self.mean


class Vector(Number):
    name, tabular = "vector", False

    def filler(self):
        return {"value": np.zeros(2, np.float32)}


class Labels(TabularCodec):
    name = "labels"

    def __init__(self, values):
        super().__init__("tags")
        self.values = list(values)


def tokens_of(rows: int, seed: int = 0) -> Tokens:
    x = torch.randn(rows, 3, D, generator=torch.Generator().manual_seed(seed))
    return Tokens(x, torch.ones(rows, 3, dtype=torch.bool), {"row": slice(0, 1), "photo": slice(1, 3)})


def classes(index: list[int], rows: list[int] | None = None, size: int | None = None) -> Cells:
    rows = list(range(len(index))) if rows is None else rows
    return Cells({"index": torch.tensor(index, dtype=torch.long).view(-1, 1)}, torch.tensor(rows, dtype=torch.long), size or len(index))


def values(value, rows: list[int] | None = None, size: int | None = None) -> Cells:
    value = torch.as_tensor(value, dtype=torch.float32)
    rows = list(range(len(value))) if rows is None else rows
    return Cells({"value": value}, torch.tensor(rows, dtype=torch.long), size or len(value))


def hot(rows) -> Cells:
    x = torch.as_tensor(rows, dtype=torch.float32)
    return Cells({"hot": x}, torch.arange(len(x)), len(x))


def every() -> list[tuple[Task, Cells]]:
    """Each task with the truth of 40 rows, some without a label."""
    g, kept = np.random.default_rng(0), [r for r in range(40) if r % 7]
    n = len(kept)
    return [
        (tasks.build("binary", Category(["no", "yes"]), D), classes(list(g.integers(1, 3, n)), kept, 40)),
        (tasks.build("multiclass", Category("abcdefg"), D), classes(list(g.integers(0, 8, n)), kept, 40)),
        (
            tasks.build("multilabel", Labels("xyz"), D),
            Cells({"hot": torch.from_numpy(g.integers(0, 2, (n, 3))).float()}, torch.tensor(kept), 40),
        ),
        (tasks.build("regression", Number(), D), values(g.normal(size=(n, 3)), kept, 40)),
        (tasks.build("regression", Vector(), D), values(g.normal(size=(n, 2)), kept, 40)),
        (tasks.build("quantile", Number(), D), values(g.normal(size=(n, 3)), kept, 40)),
    ]


EVERY = pytest.mark.parametrize("at", range(6), ids=["binary", "multiclass", "multilabel", "regression", "vector", "quantile"])


@EVERY
def test_trains_answers_and_scores(at):
    task, truth = every()[at]
    task.fit(truth.x)
    out = task(tokens_of(40))
    loss = task.loss(out, truth)
    loss.backward()
    assert loss.ndim == 0 and torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in task.parameters())
    task.eval()
    task.calibrate(out.detach(), truth)
    scores = task.scores(out, truth)
    assert task.metric in scores and all(isinstance(v, float) and math.isfinite(v) for v in scores.values())
    answers = task.decode(out)
    assert len(answers) == 40 and json.loads(json.dumps(answers)) == answers
    json.dumps(task.report(out, truth))
    json.dumps(task.scores(task.constant(40), truth))


@EVERY
def test_row_losses_are_what_the_loss_averages(at):
    task, truth = every()[at]
    task.fit(truth.x)
    out = task(tokens_of(40)).detach()
    losses, rows = task.row_losses(out, truth)
    assert len(losses) == len(rows) and set(rows.tolist()) <= set(truth.rows.tolist())
    torch.testing.assert_close(task.loss(out, truth), losses.mean())
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(task.loss(out, truth, weight), (losses * weight[rows]).sum() / weight[rows].sum())
    alone = torch.zeros(40)
    alone[rows[3]] = 5.0
    torch.testing.assert_close(task.loss(out, truth, alone), losses[3])


@EVERY
@pytest.mark.parametrize("bare", [False, True], ids=["empty tensors", "no tensors"])
def test_no_labels_give_a_zero_loss_that_differentiates(at, bare):
    task, truth = every()[at]
    none = Cells({} if bare else {k: v[:0] for k, v in truth.x.items()}, truth.rows[:0], 40)
    task.fit(none.x)
    out = task(tokens_of(40))
    loss = task.loss(out, none)
    loss.backward()
    assert loss.item() == 0.0 and all(p.grad is not None and (p.grad == 0).all() for p in task.parameters())
    task.calibrate(out.detach(), none)
    assert task.scores(out, none) == {}
    assert task.report(out, none) == {}
    assert task.decode(out[:0]) == []


@EVERY
def test_sixteen_bit_logits_are_safe(at):
    task, truth = every()[at]
    out = (task(tokens_of(40)) * 30).bfloat16()
    loss = task.loss(out, truth)
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    task.calibrate(out.detach(), truth)
    assert task.metric in task.scores(out, truth)


@EVERY
def test_scores_do_not_depend_on_the_order_of_the_rows(at):
    task, truth = every()[at]
    out, order = task(tokens_of(40)).detach(), torch.randperm(40, generator=torch.Generator().manual_seed(3))
    position = torch.empty_like(order)
    position[order] = torch.arange(40)
    shuffled = Cells(truth.x, position[truth.rows], 40)
    assert task.scores(out[order], shuffled) == pytest.approx(task.scores(out, truth), rel=1e-9)


@EVERY
def test_learns_a_planted_rule(at):
    torch.manual_seed(0)
    task, _ = every()[at]
    tokens = tokens_of(200, seed=5)
    a, b = tokens.row[:, 0] - tokens.row[:, 1], tokens.row[:, 2] - tokens.row[:, 3]
    truth = [
        classes((1 + (a > 0).long()).tolist()),
        classes((1 + (a > 0).long() + 2 * (b > 0).long()).tolist()),
        hot(torch.stack([a > 0, b > 0, a > b], 1)),
        values(torch.stack([a, a, a], 1)),
        values(torch.stack([a, b], 1)),
        values(torch.stack([a, a, a], 1)),
    ][at]
    task.fit(truth.x)
    task.eval()  # no dropout: eight features are too few to lose one
    before = task.scores(task.constant(200), truth)[task.metric]
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(task(tokens), truth).backward()
        optimizer.step()
    after = task.scores(task(tokens), truth)[task.metric]
    assert after > max(before, 0.9) if task.higher else after < 0.6 * before


def test_claims_fit_the_target():
    two, five, one = Category("ab"), Category("abcde"), Category("a")
    best = {"two": two, "five": five, "one": one, "number": Number(), "vector": Vector(), "labels": Labels("ab")}
    chosen = {k: max(tasks.names(), key=lambda n: tasks.get(n).claims(c)) for k, c in best.items()}
    assert chosen == {
        "two": "binary",
        "five": "multiclass",
        "one": "multiclass",
        "number": "regression",
        "vector": "regression",
        "labels": "multilabel",
    }


# classes


def test_multiclass_scores_agree_with_scikit_learn():
    from sklearn import metrics

    g = np.random.default_rng(1)
    y, out = g.integers(0, 7, 300), torch.from_numpy(g.normal(size=(300, 7)))
    out[torch.arange(300), torch.from_numpy(y)] += 1.0
    task = tasks.build("multiclass", Category("abcdefg"), D)
    scores, p = task.scores(out, classes(list(y + 1))), out.softmax(1).numpy()
    answer = p.argmax(1)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(y, answer))
    assert scores["f1"] == pytest.approx(metrics.f1_score(y, answer, average="macro"))
    assert scores["mcc"] == pytest.approx(metrics.matthews_corrcoef(y, answer))
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(y, p, labels=range(7)))
    assert scores["top5"] == pytest.approx(metrics.top_k_accuracy_score(y, p, k=5, labels=range(7)))
    assert scores["brier"] == pytest.approx(((p - np.eye(7)[y]) ** 2).sum(1).mean())
    report = task.report(out, classes(list(y + 1)))
    assert report["confusion"] == metrics.confusion_matrix(y, answer).tolist()
    theirs = metrics.classification_report(y, answer, output_dict=True)
    for c, name in enumerate("abcdefg"):
        assert report["classes"][name]["precision"] == pytest.approx(theirs[str(c)]["precision"])
        assert report["classes"][name]["recall"] == pytest.approx(theirs[str(c)]["recall"])
        assert report["classes"][name]["f1"] == pytest.approx(theirs[str(c)]["f1-score"])
        assert report["classes"][name]["support"] == theirs[str(c)]["support"]


def test_binary_scores_agree_with_scikit_learn():
    from sklearn import metrics

    g = np.random.default_rng(2)
    y = (g.random(400) < 0.2).astype(int)
    positive = np.round(g.normal(size=400) + y, 1)  # rounded, so that scores tie
    out = torch.from_numpy(np.stack([np.zeros(400), positive], 1))
    scores = tasks.build("binary", Category(["no", "yes"]), D).scores(out, classes(list(y + 1)))
    p = 1 / (1 + np.exp(-positive))
    answer = (positive > 0).astype(int)
    assert scores["roc_auc"] == pytest.approx(metrics.roc_auc_score(y, p))
    assert scores["pr_auc"] == pytest.approx(metrics.average_precision_score(y, p))
    assert scores["f1"] == pytest.approx(metrics.f1_score(y, answer))
    assert scores["brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    assert scores["mcc"] == pytest.approx(metrics.matthews_corrcoef(y, answer))
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(y, p))


def test_calibration_error_by_hand():
    task = tasks.build("binary", Category(["no", "yes"]), D)
    out = torch.log(torch.tensor([[0.1, 0.9]] * 4 + [[0.7, 0.3]] * 2))
    scores = task.scores(out, classes([2, 2, 2, 1, 1, 1]))
    assert scores["ece"] == pytest.approx((4 * abs(0.9 - 0.75) + 2 * abs(0.7 - 1.0)) / 6, abs=1e-6)


def test_a_label_never_seen_in_training_costs_nothing_and_counts_as_wrong():
    task = tasks.build("binary", Category(["no", "yes"]), D)
    out = torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.0, 5.0]])
    seen, unseen = classes([1, 2], size=3), classes([1, 2, 0])
    torch.testing.assert_close(task.loss(out, seen), task.loss(out, unseen))
    assert len(task.row_losses(out, unseen)[0]) == 2
    a, b = task.scores(out, seen), task.scores(out, unseen)
    assert a["accuracy"] == 1.0 and b["accuracy"] == pytest.approx(2 / 3)
    assert b["roc_auc"] == a["roc_auc"] == 1.0 and b["log_loss"] == pytest.approx(a["log_loss"])
    assert b["f1"] < a["f1"] and b["mcc"] < a["mcc"] and b["brier"] > a["brier"] and b["ece"] > a["ece"]
    assert task.report(out, unseen)["unseen"] == 1
    nothing = classes([0, 0, 0])
    assert task.loss(out, nothing).item() == 0.0 and task.scores(out, nothing)["accuracy"] == 0.0
    task.calibrate(out, nothing)
    assert task.temperature == 1.0


def test_figures_that_are_not_defined_are_left_out():
    task = tasks.build("binary", Category(["no", "yes"]), D)
    scores = task.scores(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), classes([2, 2]))
    assert "roc_auc" not in scores and scores["accuracy"] == 0.5 and scores["pr_auc"] == 1.0
    assert "r2" not in tasks.build("regression", Number(), D).scores(torch.zeros(3, 1), values(torch.ones(3, 1)))


def test_decode_gives_value_and_probabilities():
    task = tasks.build("binary", Category(["cat", "dog"]), D)
    answer = task.decode(torch.tensor([[math.log(0.9), math.log(0.1)]]))[0]
    assert answer["value"] == "cat" and answer["probability"] == pytest.approx({"cat": 0.9, "dog": 0.1})


def _rare(rows: int) -> tuple[torch.Tensor, Cells]:
    """Honest logits of a class that one row in ten has, and their truth."""
    g = torch.Generator().manual_seed(0)
    p = torch.from_numpy(np.random.default_rng(0).beta(1, 9, rows)).float()
    y = (torch.rand(rows, generator=g) < p).long()
    return torch.stack([1 - p, p], 1).log(), classes((y + 1).tolist())


def test_a_threshold_for_f1_answers_a_rare_class_and_leaves_probabilities_as_they_are():
    (plain, found), (out, truth) = [tasks.build("binary", Category(["no", "yes"]), D, threshold=t) for t in (0.5, "f1")], _rare(4000)
    for task in (plain, found):
        task.calibrate(out, truth)
    before, after = plain.scores(out, truth), found.scores(out, truth)
    probability = plain.probability(plain.tempered(out))[:, 1].numpy()
    cuts = [task_at(cut, plain).scores(out, truth)["f1"] for cut in np.linspace(0.02, 0.6, 59)]
    assert before["f1"] < 0.1 and after["f1"] == pytest.approx(max(cuts), abs=0.01)
    assert {k: v for k, v in after.items() if k in ("roc_auc", "log_loss", "brier")} == pytest.approx(
        {k: before[k] for k in ("roc_auc", "log_loss", "brier")}
    )
    said = [answer["value"] for answer in found.decode(out)]
    assert said == ["yes" if p > found.threshold.item() else "no" for p in probability.tolist()]
    again = tasks.build("binary", Category(["no", "yes"]), D, threshold="f1")
    again.load_state_dict(found.state_dict())
    assert [answer["value"] for answer in again.decode(out)] == said
    assert "threshold" not in plain.state_dict()  # given, not found: bundles of before have none


def task_at(cut: float, like: Task) -> Task:
    task = tasks.build("binary", Category(["no", "yes"]), D, threshold=float(cut))
    task.load_state_dict(like.state_dict())
    return task


@pytest.mark.parametrize("index", [[1, 1, 1], [2, 2, 2], [0, 0, 0], []])
def test_a_threshold_for_f1_of_rows_that_are_all_alike_is_one_half(index):
    task = tasks.build("binary", Category(["no", "yes"]), D, threshold="f1")
    task.calibrate(torch.randn(len(index), 2), classes(index))
    assert task.threshold.item() == 0.5


def test_temperature_makes_an_overconfident_model_honest():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 4, generator=g) * 1.5
    y = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    task = tasks.build("multiclass", Category("abcd"), D)
    truth, out = classes((y + 1).tolist()), logits * 3  # three times too sure
    before = task.scores(out, truth)
    task.calibrate(out, truth)
    after = task.scores(out, truth)
    assert task.temperature.item() == pytest.approx(3.0, rel=0.08)
    assert after["ece"] < 0.03 < before["ece"] and after["log_loss"] < before["log_loss"] and after["accuracy"] == before["accuracy"]


def test_temperature_stays_sane_on_few_or_separated_rows():
    task = tasks.build("binary", Category(["no", "yes"]), D)
    task.calibrate(torch.tensor([[2.0, -2.0], [-2.0, 2.0]]), classes([1, 2]))
    assert 0.5 < task.temperature < 1.5
    task.calibrate(torch.tensor([[2.0, -2.0], [-2.0, 2.0]]), classes([2, 1]))
    assert 1.0 < task.temperature < 20


@pytest.mark.parametrize(("balance", "weights"), [("none", (1, 1)), ("inverse", (0.625, 2.5)), ("sqrt", (5 / 6, 5 / 3))])
def test_balance_weighs_rare_classes(balance, weights):
    task = tasks.build("binary", Category(["no", "yes"]), D, balance=balance)
    task.fit({"index": torch.tensor([[1]] * 80 + [[2]] * 20)})
    losses, _ = task.row_losses(torch.zeros(2, 2), classes([1, 2]))
    assert (losses / math.log(2)).tolist() == pytest.approx(weights)
    labels = tasks.build("multilabel", Labels("ab"), D, balance=balance)
    labels.fit({"hot": torch.tensor([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 79)})
    assert torch.isfinite(labels.loss(torch.zeros(2, 2), hot([[1, 0], [0, 1]])))


def test_starts_at_the_classes_frequencies():
    task = tasks.build("multiclass", Category("abc"), D)
    task.fit({"index": torch.tensor([[1]] * 60 + [[2]] * 30 + [[3]] * 10)})
    assert task.head[-1].bias.softmax(0).tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert task.decode(task.constant(1))[0]["probability"] == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1})


def test_smoothing_by_hand():
    task = tasks.build("binary", Category(["no", "yes"]), D, smoothing=0.2)
    p = torch.tensor([[0.9, 0.1]])
    assert task.loss(p.log(), classes([1])).item() == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1), rel=1e-5)


@pytest.mark.parametrize("name", ["binary", "multiclass"])
@pytest.mark.parametrize("known", [[], ["cat"]])
def test_a_target_of_one_class_is_told(name, known):
    with pytest.raises(DataError, match=r"target 'kind': the training rows hold .*Expected at least 2 classes"):
        tasks.build(name, Category(known), D)


def test_wrong_options_are_told():
    with pytest.raises(DataError, match="has 3 classes.*use task 'multiclass'"):
        tasks.build("binary", Category("abc"), D)
    with pytest.raises(DataError, match="no class at all"):
        tasks.build("multilabel", Labels([]), D)
    with pytest.raises(RecipeError, match="unknown balance 'inverted'.*none, sqrt, inverse"):
        tasks.build("multiclass", Category("ab"), D, balance="inverted")
    with pytest.raises(RecipeError, match="smoothing 1.5"):
        tasks.build("multiclass", Category("ab"), D, smoothing=1.5)
    for wrong in ("f2", 0.0, 1.0, math.nan):
        with pytest.raises(RecipeError, match="threshold .*a number between 0 and 1, or f1"):
            tasks.build("binary", Category("ab"), D, threshold=wrong)
    with pytest.raises(RecipeError, match="unknown loss 'l2'"):
        tasks.build("regression", Number(), D, loss="l2")
    with pytest.raises(RecipeError, match="delta 0"):
        tasks.build("regression", Number(), D, loss="huber", delta=0)
    for levels in ((), (0.5, 0.5), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5, math.nan)):
        with pytest.raises(RecipeError, match="rising numbers between 0 and 1"):
            tasks.build("quantile", Number(), D, levels=levels)


# labels


def test_multilabel_scores_agree_with_scikit_learn():
    from sklearn import metrics

    g = np.random.default_rng(3)
    y = g.integers(0, 2, (200, 4))
    out = torch.from_numpy(g.normal(size=(200, 4)) + y)
    task = tasks.build("multilabel", Labels("abcd"), D)
    scores, p = task.scores(out, hot(y)), out.sigmoid().numpy()
    said = p >= 0.5
    assert scores["f1_macro"] == pytest.approx(metrics.f1_score(y, said, average="macro"))
    assert scores["f1_micro"] == pytest.approx(metrics.f1_score(y, said, average="micro"))
    assert scores["map"] == pytest.approx(metrics.average_precision_score(y, p, average="macro"))
    assert scores["hamming"] == pytest.approx(metrics.hamming_loss(y, said))
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(y, said))
    assert task.report(out, hot(y))["classes"]["b"]["average_precision"] == pytest.approx(metrics.average_precision_score(y[:, 1], p[:, 1]))


def test_multilabel_with_labels_that_never_occur():
    task = tasks.build("multilabel", Labels("ab"), D)
    truth = hot([[1, 0], [0, 0], [1, 0]])
    out = torch.tensor([[3.0, -3.0], [-3.0, -3.0], [3.0, -3.0]])
    assert task.scores(out, truth)["map"] == 1.0
    assert task.report(out, truth)["classes"]["b"]["average_precision"] is None
    assert [a["value"] for a in task.decode(out)] == [["a"], [], ["a"]]
    assert "map" not in task.scores(out, hot([[0, 0]] * 3))


# numbers


def test_regression_scores_are_in_the_targets_own_unit():
    from sklearn import metrics

    g = np.random.default_rng(4)
    y, answer = g.normal(size=(100, 3)), torch.from_numpy(g.normal(size=(100, 1)))
    scores = tasks.build("regression", Number(10, 2), D).scores(answer, values(y))
    told, true = answer[:, 0].numpy() * 2 + 10, y[:, 0].astype(np.float32).astype(float) * 2 + 10
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(true, told))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(true, told))
    assert scores["r2"] == pytest.approx(metrics.r2_score(true, told))


def test_regression_of_a_vector_has_figures_per_output():
    task = tasks.build("regression", Vector(0, 1), D)
    out, truth = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), values([[1.0, 2.0], [3.0, -2.0]])
    assert task.scores(out, truth) == pytest.approx({"rmse": 1.0, "mae": 1.0, "r2": 0.5})
    assert [o["rmse"] for o in task.report(out, truth)["outputs"]] == pytest.approx([0.0, 2.0])
    assert task.decode(out)[1] == {"value": [3.0, 0.0]}


def test_components_a_vector_lacks_cost_nothing_and_are_not_scored():
    task = tasks.build("regression", Vector(0, 1), D)
    truth = values([[1.0, 99.0], [3.0, 1.0]])
    truth.x["real"] = torch.tensor([[True, False], [True, True]])
    out = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
    losses, _ = task.row_losses(out, truth)
    assert losses.tolist() == [0.0, 0.5]
    losses.sum().backward()
    assert out.grad[0, 1] == 0.0
    assert task.scores(out, truth)["rmse"] == pytest.approx(0.5)
    assert task.report(out, truth)["outputs"][1]["mae"] == 1.0


def test_regression_losses_by_hand():
    out, truth = torch.tensor([[0.0], [0.0]]), values([[0.5], [3.0]])
    losses = {
        name: tasks.build("regression", Number(), D, loss=name).row_losses(out, truth)[0].tolist() for name in ("mse", "mae", "huber")
    }
    assert losses == {"mse": [0.25, 9.0], "mae": [0.5, 3.0], "huber": [0.125, 2.5]}


def test_quantiles_never_cross_and_start_at_the_tables_own():
    torch.manual_seed(0)
    task = tasks.build("quantile", Number(0, 1), D, levels=(0.05, 0.25, 0.5, 0.75, 0.95))
    y = np.random.default_rng(5).exponential(size=(2000, 1)).astype(np.float32)
    task.fit({"value": torch.from_numpy(y)})
    assert (task(tokens_of(500)).diff(dim=1) >= 0).all()
    task.head[-1].weight.data.zero_()
    assert task(tokens_of(1))[0].tolist() == pytest.approx(np.quantile(y, task.levels).tolist(), abs=1e-3)
    scores = task.scores(task.constant(2000), values(y))
    assert scores["coverage"] == pytest.approx(0.9, abs=0.01)
    assert task.report(task.constant(2000), values(y))["levels"]["0.25"] == pytest.approx(0.25, abs=0.01)


def test_quantile_loss_and_answer_by_hand():
    task = tasks.build("quantile", Number(10, 2), D)
    out = torch.tensor([[-1.0, 0.0, 1.0]])
    assert task.loss(out, values([[2.0, 9.0, 9.0]])).item() == pytest.approx((0.1 * 3 + 0.5 * 2 + 0.9 * 1) / 3)
    assert task.decode(out) == [{"value": 10.0, "quantiles": {"0.1": 8.0, "0.5": 10.0, "0.9": 12.0}}]


def test_quantile_of_a_constant_target_is_finite():
    task = tasks.build("quantile", Number(), D)
    task.fit({"value": torch.zeros(10, 1)})
    assert torch.isfinite(task(tokens_of(3))).all()


def test_importing_tasks_does_not_import_scikit_learn():
    code = "import sys, polyfuse.tasks, polyfuse.evaluate; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
