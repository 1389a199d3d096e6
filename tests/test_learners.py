"""Linear, SVM and nearest neighbours, and the matrix they learn from, against formulas written out and scikit-learn."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

import polyfuse.parts  # noqa: F401  fills the registries
from polyfuse.catalogue import list_parts
from polyfuse.contract import run_check
from polyfuse.core import Inputs, Layout, RecipeError, codecs, learners, tasks
from polyfuse.learners import sparse
from polyfuse.learners.dense import factors, fit_link, linked, sampled
from polyfuse.learners.design import Design
from polyfuse.learners.linear import Linear, _Descent, _held_last, _ridge
from polyfuse.learners.neighbours import Neighbours, _nearest
from polyfuse.learners.scores import held_out
from polyfuse.learners.svm import Svm, _margins, _scores

DENSE = ("linear", "svm", "neighbours")


def task_for(kind, outputs):
    codec = codecs.build({"classes": "category", "labels": "labels", "numbers": "vector"}[kind], "y")
    names = [f"c{i:03d}" for i in range(outputs)]
    cells = {"classes": names * 3, "labels": [[n] for n in names] * 3, "numbers": np.eye(3, outputs).tolist()}[kind]
    codec.fit(iter([codec.read(c) for c in cells]))
    return tasks.build({"classes": "multiclass", "labels": "multilabel", "numbers": "regression"}[kind], codec, 32)


def numbers(*sizes):
    return Inputs.of({f"v{i}": Layout((0,) * n, (0,) * n, 1) for i, n in enumerate(sizes)})


def learned(learner, x, y, weight=None, there=None, seed=0):
    there = np.ones((len(x), len(learner.inputs.flag_view)), bool) if there is None else there
    learner.fit(x.astype(np.float32), there, y, weight, seed=seed)
    return learner


def answer(learner, x, there=None):
    there = np.ones((len(x), len(learner.inputs.flag_view)), bool) if there is None else there
    with torch.no_grad():
        out = learner(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(there))
    probability = learner.task.probability(out)
    return (out if probability is None else probability).double().numpy()


def log_loss(p, y):
    return -np.log(p[np.arange(len(y)), y]).mean()


def planted(rows, features, classes, noise=0.7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features))
    score = x @ np.random.default_rng(1).normal(size=(features, classes)) / features**0.5
    return x, (score + noise * rng.gumbel(size=score.shape)).argmax(1)


# -- the matrix -----------------------------------------------------------------------------------------------------

MIXED = Inputs(
    ("a", "b"),
    np.array([0, 0, 0, 1, 1]),
    np.array([0, 0, 5, 100, 0]),
    np.array([0, 1, 1, 2, 3]),
    np.array([0, 0, 1, 1]),
    np.zeros(5, bool),
    np.zeros(5, int),
)


def mixed(rows=400):
    rng = np.random.default_rng(0)
    x = np.stack(
        [rng.normal(3, 2, rows), np.full(rows, 7.0), rng.integers(0, 4, rows), rng.integers(0, 30, rows), rng.normal(size=rows)], 1
    ).astype(np.float32)
    there = rng.random((rows, 4)) > 0.2
    return x, there, rng.integers(0, 3, rows)


def test_matrix_of_numbers_categories_and_flags():
    x, there, y = mixed()
    x[:3, 2], there[:3, 1] = 4, True  # a value of three rows
    design = Design(MIXED)
    z = design.fit_transform(x, there, y)
    assert z.dtype == np.float32 and z.shape == (400, 2 + 5 + 3 + 4)  # the constant number has no column
    assert design.view.tolist() == [0, 1] + [0] * 5 + [1] * 3 + [0, 0, 1, 1]
    own = there[:, 0]
    assert np.allclose(z[own, 0], (x[own, 0] - x[own, 0].mean()) / x[own, 0].std(), atol=1e-5) and not z[~own, 0].any()
    for i in range(400):
        expected = np.zeros(5)
        if there[i, 1]:
            expected[int(x[i, 2])] = 1.0  # the four frequent values, then the rare one
        assert np.array_equal(z[i, 2:7], expected)
    assert np.array_equal(z[:, 10:], there)
    again = design(torch.from_numpy(x), torch.from_numpy(there)).numpy()
    same = np.r_[0:7, 10:14]
    assert np.allclose(z[:, same], again[:, same], atol=1e-6)


def test_a_row_does_not_find_its_own_target_in_its_statistic():
    """Where every row has a value of its own, the other rows tell nothing of it: the statistic must be constant."""
    inputs = Inputs.of({"a": Layout((500,), (0,), 1)})
    x, there, y = np.arange(300)[:, None].astype(np.float32), np.ones((300, 1), bool), np.arange(300) % 2
    z = Design(inputs).fit_transform(x, there, y)
    assert np.ptp(z) < 1e-9


def test_statistics_are_means_of_the_other_rows():
    rng = np.random.default_rng(0)
    value = rng.integers(0, 40, 2000)
    effect = rng.normal(size=40)
    y = (effect[value] + 0.5 * rng.normal(size=2000))[:, None]
    inputs = Inputs.of({"a": Layout((60,), (0,), 1)})
    design = Design(inputs, standardise=False)
    x, there = value[:, None].astype(np.float32), np.ones((2000, 1), bool)
    z = design.fit_transform(x, there, y)
    table = design.statistic.numpy()[:, 0]
    for v in range(40):
        mean = y[value == v].mean()
        assert abs(table[v] - mean) < 0.1 and abs(table[v] - y.mean()) <= abs(mean - y.mean()) + 1e-6  # pulled to the overall mean
        assert len(np.unique(z[value == v])) <= 5  # one for each fold
    assert table[50] == pytest.approx(y.mean(), abs=1e-6)  # a value that no row has
    final = design(torch.from_numpy(x), torch.from_numpy(there)).numpy()
    assert np.array_equal(final[:, 0], table[value]) and not np.allclose(final, z, atol=1e-4)


def test_for_trees_what_is_not_there_is_nan():
    x, there, y = mixed()
    design = Design(MIXED, standardise=False)
    design.fit_transform(x, there, y)
    z = design(torch.from_numpy(x), torch.from_numpy(there)).numpy()
    assert np.array_equal(np.isnan(z[:, 0]), ~there[:, 0]) and np.allclose(z[there[:, 0], 0], x[there[:, 0], 0])
    statistics = slice(6, 9)
    assert np.array_equal(np.isnan(z[:, statistics]).all(1), ~there[:, 2]) and not np.isnan(np.delete(z, [0, 1, 6, 7, 8], 1)).any()


def test_spread_is_what_standardising_took_away():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 6)) * [4, 2, 1, 1, 1, 1]).astype(np.float32)
    design = Design(numbers(4, 2))
    z = design.fit_transform(x, np.ones((500, 2), bool), np.zeros(500, np.int64))
    deviation = x.std(0)
    expected = deviation / np.sqrt(np.r_[np.full(4, (deviation[:4] ** 2).mean()), np.full(2, (deviation[4:] ** 2).mean())])
    assert np.allclose(design.spread, expected, atol=1e-4)
    for way in factors(design, z):  # every view has a variance of one
        assert np.allclose([(z * way)[:, :4].var(0).sum(), (z * way)[:, 4:].var(0).sum()], 1.0, atol=1e-3)


def test_a_category_beyond_its_values_is_like_none():
    x, there, y = mixed()
    design = Design(MIXED)
    design.fit_transform(x, there, y)
    odd = np.array([[0, 0, 999, 999, 0], [0, 0, -5, -5, 0]], np.float32)
    assert torch.isfinite(design(torch.from_numpy(odd), torch.ones(2, 4, dtype=torch.bool))).all()


# -- links ----------------------------------------------------------------------------------------------------------


def test_link_of_classes_is_the_best_of_all_pairs():
    rng = np.random.default_rng(0)
    start = np.log([0.6, 0.3, 0.1])
    scores = rng.normal(size=(4000, 3)) * 5
    p = np.exp(0.3 * scores + 0.8 * start)
    y = (p.cumsum(1) / p.sum(1, keepdims=True) < rng.random((4000, 1))).sum(1)
    link, cost = fit_link("classes", scores, y, np.ones(4000), start)
    assert np.allclose(link, [[0.3, 0.8]], atol=0.08)

    def loss(a, b):
        return float(F.cross_entropy(torch.from_numpy(a * scores + b * start), torch.from_numpy(y)))

    a, b = link[0].double().tolist()
    assert all(loss(a, b) <= loss(a + da, b + db) + 1e-4 for da in (-0.03, 0, 0.03) for db in (-0.1, 0, 0.1))
    assert cost[0] == pytest.approx(loss(a, b), abs=2e-3)
    out = linked("classes", torch.from_numpy(scores[:2]).float(), link, torch.from_numpy(start).float())
    assert np.allclose(out, a * scores[:2] + b * start, atol=1e-4)


def test_link_of_scores_without_a_fault_stays_finite():
    y = np.arange(20) % 2
    link, _ = fit_link("classes", np.stack([1.0 - y, y], 1) * 3.0, y, np.ones(20), np.log([0.5, 0.5]))
    p = (link[0, 0] * torch.tensor([0.0, 3.0])).softmax(0)
    assert 0.9 < float(p[1]) < 0.995  # as if one row of 21 had been a coin


def test_link_of_numbers_is_least_squares():
    rng = np.random.default_rng(0)
    scores, weight = rng.normal(size=(500, 2)), rng.random(500) + 0.5
    y = np.stack([2 * scores[:, 0] + 1, -scores[:, 1]], 1) + 0.1 * rng.normal(size=(500, 2))
    y[::3, 1] = np.nan
    link, cost = fit_link("numbers", scores, y, weight, np.zeros(2))
    assert np.allclose(link, [[2, 1], [-1, 0]], atol=0.03) and np.allclose(cost, 0.01, atol=0.003)


def test_sample_has_of_every_class_its_share():
    y = np.repeat([0, 1, 2], [900, 99, 1])
    rows = sampled(y, 100, 0)
    assert len(rows) == 100 and (np.diff(rows) > 0).all()
    assert np.abs(np.bincount(y[rows]) - [90, 9, 1]).max() <= 1
    assert np.array_equal(rows, sampled(y, 100, 0)) and not np.array_equal(rows, sampled(y, 100, 1))


# -- linear ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_descent_ends_where_scikit_learn_does(kind):
    from sklearn.linear_model import LogisticRegression

    x, y = planted(300, 8, 3)
    weight, strength = np.random.default_rng(0).random(300) + 0.5, 0.05
    z = x.astype(np.float32)
    gram = (z.T @ z).astype(np.float64) / 300
    truth = y if kind == "classes" else y[:, None] == np.arange(3)
    found = _Descent(kind, z, truth, weight, gram)(strength, np.zeros((9, 3)))
    C = 1.0 / (strength * weight.sum())
    for s in range(3):
        model = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(x, y if kind == "classes" else y == s, weight)
        coefficients = model.coef_[s] if kind == "classes" else model.coef_[0]
        assert np.allclose(found[:-1, s], coefficients, atol=0.02)


@pytest.mark.parametrize("classes", [3, 5, 80])
def test_ridge_takes_the_place_of_a_dear_logistic_regression_only_where_it_is_cheaper(classes):
    costs = [Linear.cost(20_000, features, classes) for features in range(1000, 4000, 100)]
    assert all(before < after < 1.3 * before for before, after in zip(costs, costs[1:]))


@pytest.mark.parametrize("of_group", [None, 3, 10])  # rows of a group: none, fewer and more than there are features
def test_ridge_left_out_answers_are_those_of_fits_without_the_row_or_its_group(of_group):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 5)).astype(np.float32)
    t, weight = rng.normal(size=(30, 2)), rng.random(30) + 0.5
    seen, groups = [], None if of_group is None else rng.permutation(30) // of_group
    _ridge(z, t, weight, groups, lambda left_out: (seen.append(left_out), np.array([-float(len(seen))] * 2))[1])
    unit = np.trace((z - np.average(z, 0, weight)).T @ ((z - np.average(z, 0, weight)) * weight[:, None])) / 5
    for step in (2, 4):
        strength = 64.0 / 4.0**step * unit
        for i in range(0, 30, 7):
            rest = np.arange(30) != i if groups is None else groups != groups[i]
            w, a, b = weight[rest], z[rest].astype(np.float64), t[rest]
            centre, mean = np.average(a, 0, w), np.average(b, 0, w)
            turned = (a - centre).T * w
            beta = np.linalg.solve(turned @ (a - centre) + strength * np.eye(5), turned @ (b - mean))
            assert np.allclose(seen[step][i], mean + (z[i] - centre) @ beta, atol=1e-3)


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_held_out_rows_are_whole_groups_and_leave_every_class(kind):
    rng = np.random.default_rng(0)
    groups = rng.permutation(200) // 4
    y = {"classes": rng.integers(0, 5, 200), "labels": rng.random((200, 3)) < 0.3, "numbers": rng.normal(size=(200, 2))}[kind]
    held = held_out(y, 0.2, 0, groups)
    assert 0.05 < held.mean() < 0.35
    assert not set(groups[held]) & set(groups[~held])
    if kind == "classes":
        assert set(y[~held]) == set(y)
    assert held_out(y, 0.2, 0, np.arange(200) // 100).any()  # two groups: too few to hold one out, so rows are


@pytest.mark.parametrize("name", ["linear", "svm", "neighbours", "boost", "fused"])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_copies_in_a_group_do_not_make_a_learner_sure_of_itself(name, kind):
    """Four copies of each of 200 rows whose answers are noise: judged by the copies, learning them by heart looks right."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(600, 10)), rng.integers(0, 2, 600)
    answers = y if kind == "classes" else y[:, None].astype(float)
    copies = np.repeat(np.arange(200), 4)
    cost = []
    for groups in (copies, None):
        learner = learners.build(name, task_for(kind, 2 if kind == "classes" else 1), numbers(10))
        learner.fit(x[copies].astype(np.float32), np.ones((800, 1), bool), answers[copies], None, groups, seed=0)
        out = answer(learner, x[200:])
        cost.append(log_loss(out, y[200:]) if kind == "classes" else ((out - answers[200:]) ** 2).mean())
    assert cost[0] < cost[1]
    assert cost[0] < (0.85 if kind == "classes" else 0.36)  # an answer that looks at nothing costs 0.69 or 0.25


@pytest.mark.parametrize("name", [*DENSE, "boost", "fused"])
def test_numbers_end_where_many_training_rows_do(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = np.c_[np.clip(2 * x[:, 0], -1, 1), x[:, 1]]  # the first is cut off at both ends, the second is not
    out = answer(learned(learners.build(name, task_for("numbers", 2), numbers(3)), x, y), 2 * x)
    assert out[:, 0].min() >= -1 and out[:, 0].max() <= 1 and np.corrcoef(out[:, 0], x[:, 0])[0, 1] > 0.5
    assert name != "linear" or out[:, 1].max() > y[:, 1].max()


@pytest.mark.parametrize("solver", ["logistic", "ridge"])
@pytest.mark.parametrize("classes", [2, 12])
def test_linear_probabilities_are_honest(solver, classes):
    x, y = planted(1600, 20, classes)
    learner = learned(Linear(task_for("classes", classes), numbers(20), solver=solver), x[:800], y[:800])
    p = answer(learner, x[800:])
    share = np.bincount(y[:800], minlength=classes) / 800
    assert np.allclose(p.sum(1), 1.0, atol=1e-4)
    assert log_loss(p, y[800:]) < 0.85 * log_loss(np.tile(share, (800, 1)), y[800:])
    assert abs(p.max(1).mean() - (p.argmax(1) == y[800:]).mean()) < 0.05  # as sure as it is right


@pytest.mark.parametrize("solver", ["logistic", "ridge"])
def test_more_features_than_rows(solver):
    rng = np.random.default_rng(0)
    y = np.arange(160) % 4
    x = rng.normal(size=(160, 600)) + 2.0 * rng.normal(size=(4, 600))[y] / 600**0.25
    learner = learned(Linear(task_for("classes", 4), numbers(600), solver=solver), x[:80], y[:80])
    assert learner.weights.shape == (600, 4)
    assert (answer(learner, x[80:]).argmax(1) == y[80:]).mean() > 0.9


def test_linear_numbers_are_those_of_the_rule():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    beta = rng.normal(size=(6, 3))
    y = x @ beta + [1.0, 0.0, -2.0]
    y[::4, 1] = np.nan
    y[:, 2] = np.nan  # never known
    found = answer(learned(Linear(task_for("numbers", 3), numbers(6)), x, y), x)
    assert np.allclose(found[:, :2], (x @ beta + [1.0, 0.0, -2.0])[:, :2], atol=0.05) and not found[:, 2].any()


def test_linear_refuses_an_unknown_solver():
    with pytest.raises(RecipeError, match="unknown solver 'newton'"):
        learners.build("linear", task_for("classes", 2), numbers(2), solver="newton")


def texts_and_table(rows, seed=0):
    """Counts of 60 terms, mostly zero, that a third of the rows do not have, and three numbers beside them."""
    rng = np.random.default_rng(seed)
    there = np.stack([rng.random(rows) > 1 / 3, np.ones(rows, bool)], 1)
    terms = rng.poisson(0.1, (rows, 60)) * there[:, :1]
    x = np.concatenate([terms, rng.normal(size=(rows, 3))], 1).astype(np.float32)
    rule = np.random.default_rng(7).normal(size=(63, 3))
    inputs = Inputs.of({"text": Layout((0,) * 60, (0,) * 60, 1, True), "table": Layout((0,) * 3, (0,) * 3, 1)})
    return inputs, x, there, x @ rule


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_sparse_features_are_learned_and_answered_as_csr_or_dense(kind):
    inputs, x, there, score = texts_and_table(900)
    y = {"classes": score.argmax(1), "labels": score > 0, "numbers": 1000.0 + 50.0 * score[:, :1]}[kind]
    made = [learners.build("linear-sparse", task_for(kind, 1 if kind == "numbers" else 3), inputs) for _ in range(2)]
    from_csr, from_dense = made
    from_csr.fit(sp.csr_matrix(x[:600]), there[:600], y[:600])
    from_dense.fit(np.where(there[:, inputs.owner], x, np.nan)[:600], there[:600], y[:600])
    with torch.no_grad():
        said = from_csr(sp.csr_matrix(x[600:]), torch.from_numpy(there[600:]))
        hidden = torch.from_numpy(np.where(there[:, inputs.owner], x, np.nan)[600:])
        torch.testing.assert_close(from_dense(hidden, torch.from_numpy(there[600:])), said, rtol=1e-4, atol=1e-4)
    found = answer(from_csr, x[600:], there[600:])
    if kind == "numbers":
        assert np.sqrt(np.mean((found - y[600:]) ** 2)) < 0.1 * y.std()
    else:
        right = (found.argmax(1) == y[600:]).mean() if kind == "classes" else ((found > 0.5) == y[600:]).mean()
        assert right > 0.85


def test_columns_that_are_nearly_alike_are_held_by_however_weak_a_penalty():
    z = np.repeat(np.random.default_rng(0).normal(size=(200, 1)), 40, 1).astype(np.float32)
    y, gram = z[:, :1] > 0, z.T @ z / 200 - 1e-6 * np.eye(40)  # as float32 may round it
    weights = _Descent("labels", z, y, np.ones(200), gram)(1e-8, np.zeros((41, 1)))
    assert np.isfinite(weights).all() and ((z @ weights[:-1] + weights[-1] > 0) == y).mean() > 0.99


def test_held_rows_are_put_last_in_place():
    z, held = np.random.default_rng(0).normal(size=(9001 * 2, 3)), np.random.default_rng(1).random(18002) < 0.7
    before = z.copy()
    order, first = _held_last(z, held)
    assert first == (~held).sum() and not held[order[:first]].any() and held[order[first:]].all()
    assert sorted(order) == list(range(len(z)))
    np.testing.assert_array_equal(z, before[order])


def test_sparse_weights_are_those_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    _, x, _, score = texts_and_table(500)
    y = (score[:, 0] > 0).astype(np.int64)
    z = sp.csr_matrix(x)
    ours = _Descent("labels", z, (y == 1)[:, None], np.ones(500), None)(1e-3, np.zeros((64, 1)), 1e-10)
    theirs = LogisticRegression(C=1 / (1e-3 * 500), tol=1e-8, max_iter=5000).fit(x, y)
    np.testing.assert_allclose(ours[:-1, 0], theirs.coef_[0], atol=5e-3)

    ease = np.random.default_rng(3).uniform(0.2, 2.0, (63, 1))
    ours = _Descent("labels", z, (y == 1)[:, None], np.ones(500), None, lambda *_: ease)(1e-3, np.zeros((64, 1)), 1e-10)
    theirs = LogisticRegression(C=1 / (1e-3 * 500), tol=1e-8, max_iter=5000).fit(x * ease.T, y)
    np.testing.assert_allclose(ours[:-1, 0], theirs.coef_[0] * ease[:, 0], atol=5e-3)


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_a_word_that_one_view_taught_is_known_in_another(kind):
    rng = np.random.default_rng(0)
    words, rows = 12, 600
    text = (rng.random((rows, words)) < 0.2).astype(np.float32)
    title = (rng.random((rows, words)) < 0.2).astype(np.float32)
    title[:, 0] = 0  # the first word is never in a title of these rows
    score = (text + title) @ np.concatenate([[3.0], rng.normal(size=words - 1)])
    y = {"classes": (score > 1).astype(int), "labels": (score > 1)[:, None], "numbers": score[:, None]}[kind]
    asked = np.zeros((2, 2 * words), np.float32)
    asked[1, words] = 1.0
    told = {}
    for alike in (True, False):
        terms = [tuple(range(1, words + 1)), tuple(range(1, words + 1) if alike else range(101, words + 101))]
        inputs = Inputs.of({v: Layout((0,) * words, (0,) * words, 1, True, own) for v, own in zip(("text", "title"), terms)})
        learner = learners.build("linear-sparse", task_for(kind, 2 if kind == "classes" else 1), inputs)
        learner.fit(sp.csr_matrix(np.concatenate([text, title], 1)), np.ones((rows, 2), bool), y)
        without, with_it = answer(learner, asked, np.ones((2, 2), bool))[:, -1]
        told[alike] = with_it - without
    assert told[True] > 0.1
    assert abs(told[False]) < 0.01


def test_sums_of_columns_that_are_never_made_multiply_as_if_they_were():
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.3, (50, 6)).astype(np.float32) * rng.choice([-1.0, 2.0], 6).astype(np.float32)
    common = sparse._common(np.array([3, 7, 0, 3, 0, 7]))
    whole = np.concatenate([dense, dense[:, [0]] + dense[:, [3]], dense[:, [1]] + dense[:, [5]]], 1)
    z = sparse._Shared(sp.csr_matrix(dense), common)
    weights, share = rng.normal(size=(8, 3)), rng.random((50, 3))
    some = rng.random(50) > 0.5
    assert z.shape == whole.shape and len(z[some]) == some.sum()
    np.testing.assert_allclose(z[some] @ weights, whole[some] @ weights, atol=1e-5)
    np.testing.assert_allclose(z.T @ share, whole.T @ share, atol=1e-5)
    has = np.concatenate([dense != 0, (dense[:, [0]] != 0) | (dense[:, [3]] != 0), (dense[:, [1]] != 0) | (dense[:, [5]] != 0)], 1)
    for rows in (z.rows_with(share)[0], z.rows_with(1.0 - share, share)[1]):
        np.testing.assert_allclose(rows, has.T @ share, atol=1e-4)


# -- svm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_svm_margins_are_those_of_scikit_learn(classes):
    from sklearn.svm import SVC

    x, y = planted(250, 6, classes)
    learner = learned(Svm(task_for("classes", classes), numbers(6)), x[:200], y[:200])
    z = learner.design(torch.from_numpy(x).float(), torch.ones(250, 1, dtype=torch.bool)) * learner.factor
    kernel = learner.kernel(z / learner.factor)
    own = torch.cdist(z.double(), z.double()).square().neg().exp().numpy()
    for C in (1.0, 10.0):  # it chose one of them
        model = SVC(kernel="precomputed", C=C, decision_function_shape="ovo").fit(own[:200, :200], y[:200])
        expected = model.decision_function(own[:, :200]).reshape(250, -1) * (-1.0 if classes == 2 else 1.0)
        found = _margins(kernel, learner.dual, learner.bias, learner.counts).numpy()
        if found.shape == expected.shape and np.allclose(found, expected, atol=1e-4):
            break
    else:
        pytest.fail("the margins are not those of scikit-learn")


def test_svm_score_is_the_mean_over_comparisons():
    rng = np.random.default_rng(0)
    counts, kernel = torch.tensor([2, 3, 1]), torch.from_numpy(rng.random((4, 6)))
    dual, bias = torch.from_numpy(rng.normal(size=(2, 6))).float(), torch.from_numpy(rng.normal(size=3)).float()
    scores = _scores(kernel, dual, bias, counts).numpy()
    k, d = kernel.numpy(), dual.double().numpy()
    of = [slice(0, 2), slice(2, 5), slice(5, 6)]
    for b in range(4):
        expected = np.zeros(3)
        for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
            margin = k[b, of[i]] @ d[j - 1, of[i]] + k[b, of[j]] @ d[i, of[j]] + float(bias[pair])
            expected[i] += -np.log1p(np.exp(-margin)) / 2
            expected[j] += -np.log1p(np.exp(margin)) / 2
        assert np.allclose(scores[b], expected, atol=1e-5)


def test_svm_learns_what_is_not_linear_from_few_rows_of_many():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 4))
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    learner = learned(Svm(task_for("classes", 2), numbers(4), most=400), x[:1000], y[:1000])
    assert len(learner.rows) <= 400
    assert (answer(learner, x[1000:]).argmax(1) == y[1000:]).mean() > 0.88
    linear = learned(Linear(task_for("classes", 2), numbers(4)), x[:1000], y[:1000])
    assert log_loss(answer(linear, x[1000:]), y[1000:]) < 0.71  # which is told nothing, and says so


def test_svm_numbers_and_labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    y = np.stack([np.sin(2 * x[:, 0]), x[:, 1] * x[:, 2]], 1)
    y[::5, 1] = np.nan
    learner = learned(Svm(task_for("numbers", 2), numbers(3)), x[:400], y[:400])
    assert np.nanmean((answer(learner, x[400:]) - y[400:]) ** 2) < 0.15
    labels = np.nan_to_num(y) > 0
    p = answer(learned(Svm(task_for("labels", 2), numbers(3)), x[:400], labels[:400]), x[400:])
    assert ((p > 0.5) == labels[400:]).mean() > 0.85


# -- nearest neighbours ---------------------------------------------------------------------------------------------


def test_nearest_rows_and_the_first_of_equal_ones():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.integers(0, 3, (60, 3))).float()  # many copies
    z = torch.from_numpy(rng.integers(0, 3, (20, 3))).float()
    near, at = _nearest(z, rows, 7)
    for b in range(20):
        d = ((rows - z[b]) ** 2).sum(1)
        order = sorted(range(60), key=lambda r: (float(d[r]), r))[:7]
        assert at[b].tolist() == order and np.allclose(near[b], d[order], atol=1e-6)
    _, others = _nearest(rows, rows, 7, (torch.arange(60), torch.arange(60)))
    assert not (others == torch.arange(60)[:, None]).any()  # never itself


def test_neighbours_remember_many_classes_of_few_rows():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 10)) * 2
    y = np.arange(240) % 40
    x = centres[y] + rng.normal(size=(240, 10)) * 0.7
    p = answer(learned(Neighbours(task_for("classes", 40), numbers(10)), x[:160], y[:160]), x[160:])
    assert (p.argmax(1) == y[160:]).mean() > 0.85 and log_loss(p, y[160:]) < 0.8 and p.min() > 0


def test_neighbours_by_angle_where_length_says_nothing():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 2
    x = np.stack([rng.normal(size=600) * 0.3 + 1 - 2 * y, rng.normal(size=600) * 0.3 + 1], 1) * np.exp(1.5 * rng.normal(size=(600, 1)))
    x = (x - x.mean(0)).astype(np.float32)
    costs = {m: log_loss(answer(learned(Neighbours(task_for("classes", 2), numbers(2), metric=m), x[:400], y[:400]), x[400:]), y[400:])
             for m in ("euclidean", "cosine", "auto")}  # fmt: skip
    assert costs["auto"] <= max(costs["euclidean"], costs["cosine"]) + 1e-9


def test_neighbours_keep_a_sample():
    x, y = planted(500, 3, 2)
    learner = learned(Neighbours(task_for("classes", 2), numbers(3), most=100), x, y)
    assert learner.rows.shape == (100, 3)
    with pytest.raises(RecipeError, match="unknown metric 'manhattan'"):
        Neighbours(task_for("classes", 2), numbers(3), metric="manhattan")


# -- what all bear --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSE)
class TestAll:
    def test_classes_without_a_row(self, name):
        x, y = planted(200, 5, 3)
        p = answer(learned(learners.build(name, task_for("classes", 300), numbers(5)), x, y), x)
        assert p.shape == (200, 300) and np.allclose(p.sum(1), 1.0, atol=1e-3)
        assert (p > 0).all() and (p[:, 3:] < p[:, :3].max(1, keepdims=True)).all()

    def test_one_class_one_row_and_no_features(self, name):
        x, y = planted(50, 5, 3)
        task = task_for("classes", 3)
        p = answer(learned(learners.build(name, task, numbers(5)), x, np.full(50, 2)), x)
        assert (p[:, 2] > 0.95).all() and np.allclose(p, p[0])
        assert answer(learned(learners.build(name, task, numbers(5)), x[:1], y[:1]), x).argmax(1).tolist() == [y[0]] * 50
        p = answer(learned(learners.build(name, task, numbers()), np.zeros((50, 0)), y), np.zeros((4, 0)))
        assert np.allclose(p, np.bincount(y, minlength=3) / 50, atol=0.03)
        p = answer(learned(learners.build(name, task, numbers(5)), np.ones((50, 5)), y), x)  # constant features
        assert np.allclose(p, np.bincount(y, minlength=3) / 50, atol=0.03)

    def test_every_class_once(self, name):
        x = np.random.default_rng(0).normal(size=(12, 4))
        p = answer(learned(learners.build(name, task_for("classes", 12), numbers(4)), x, np.arange(12)), x)
        assert np.isfinite(p).all() and np.allclose(p.sum(1), 1.0, atol=1e-3)

    def test_rare_classes(self, name):
        x, _ = planted(80, 4, 2)
        y = np.r_[np.zeros(70, np.int64), 1, 1, 2, 3, 4, 5, 6, 6, 6, 7]
        p = answer(learned(learners.build(name, task_for("classes", 8), numbers(4)), x, y), x)
        assert np.isfinite(np.log(p)).all()

    def test_labels_and_numbers_that_tell_nothing(self, name):
        x, y = planted(120, 4, 2)
        hot = np.stack([y == 1, np.zeros(120, bool), np.ones(120, bool)], 1)
        p = answer(learned(learners.build(name, task_for("labels", 3), numbers(4)), x, hot), x)
        assert (p[:, 1] < 0.01).all() and (p[:, 2] > 0.99).all() and np.ptp(p[:, 0]) > 0.1
        values = np.stack([x[:, 0], np.full(120, 3.5), np.full(120, np.nan)], 1)
        values[:60, 0] = np.nan
        found = answer(learned(learners.build(name, task_for("numbers", 3), numbers(4)), x, values), x)
        assert np.allclose(found[:, 1], 3.5, atol=1e-4) and np.isfinite(found).all() and np.ptp(found[:, 0]) > 0.1

    def test_rows_of_no_weight_are_as_good_as_none(self, name):
        x, y = planted(240, 5, 3)
        wrong = np.r_[y[:120], (y[120:] + 1) % 3]
        weight = np.repeat([1.0, 0.0], 120)
        task = task_for("classes", 3)
        p = answer(learned(learners.build(name, task, numbers(5)), x, wrong, weight), x)
        assert np.allclose(p, answer(learned(learners.build(name, task, numbers(5)), x[:120], y[:120]), x), atol=1e-6)

    def test_nothing_is_there_in_any_row(self, name):
        x, y = planted(60, 5, 3)
        there = np.zeros((60, 1), bool)
        learner = learned(learners.build(name, task_for("classes", 3), numbers(5)), x, y, there=there)
        assert np.allclose(answer(learner, x), np.bincount(y, minlength=3) / 60, atol=0.03)

    def test_a_view_of_two_numbers_is_heard_beside_one_of_two_hundred(self, name):
        rng = np.random.default_rng(0)
        y = np.arange(600) % 2
        x = rng.normal(size=(600, 202))
        x[:, 200] += 2.5 * y
        p = answer(learned(learners.build(name, task_for("classes", 2), numbers(200, 2)), x[:400], y[:400]), x[400:])
        assert (p.argmax(1) == y[400:]).mean() > 0.82

    def test_no_warnings_and_quick(self, name):
        x, y = planted(3000, 60, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            learned(learners.build(name, task_for("classes", 2), numbers(60)), x, y)


# -- as parts -------------------------------------------------------------------------------------------------------


def test_learners_are_listed_with_the_network():
    names = [e["name"] for e in list_parts("learners")["learners"]]
    assert names[0] == "net" and names[1:] == learners.names() and set(DENSE) <= set(names)


def test_checks_catch_a_learner_that_reads_behind_the_flags():
    @learners("leaky")
    class Leaky(Linear):
        def forward(self, x, there):
            return super().forward(x, torch.ones_like(there))

    try:
        failed = []
        for check in ("learner_hidden_values", "learner_nothing_there", "learner_every_view", "learner_row_alone"):
            try:
                run_check("learners", "leaky", check)
            except AssertionError:
                failed.append(check)
    finally:
        learners._parts.pop("leaky")
    assert failed == ["learner_hidden_values", "learner_nothing_there", "learner_every_view"]
