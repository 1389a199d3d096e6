"""Boosted trees, TabM and the fusion of stored features: what they learn, and what they answer where there is little to learn."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from polyfuse import parts as _parts  # noqa: F401  fills the registries
from polyfuse.core import Inputs, Layout, RecipeError, codecs, learners, tasks
from polyfuse.learners.boost import most_telling
from polyfuse.learners.descent import batch_for, descend, seeded
from polyfuse.learners.library import Library
from polyfuse.learners.needs import missing, need
from polyfuse.learners.scores import held_out
from polyfuse.learners.trees import Bins, Forest

OURS = [name for name in ("boost", "fused", "tabm") if not learners.get(name).exempt]
QUICK = {"boost": {"rounds": 20}, "fused": {"epochs": 3}, "tabm": {"epochs": 6, "members": 4, "width": 32}}


def inputs_of(*views):
    """Views of so many numbers, each with a flag of its own."""
    return Inputs.of({f"v{i}": Layout((0,) * n, tuple(range(n)), n) for i, n in enumerate(views)})


def task_of(kind, outputs=2):
    if kind == "numbers":
        codec = codecs.build("vector" if outputs > 1 else "number", "y")
        codec.fit(iter([codec.read([float(i)] * outputs if outputs > 1 else float(i)) for i in range(5)]))
        return tasks.build("regression", codec, 8)
    codec = codecs.build("labels" if kind == "labels" else "category", "y")
    names = [f"c{i:03d}" for i in range(outputs)]
    codec.fit(iter([names] * 2 if kind == "labels" else names * 2))
    return tasks.build("multilabel" if kind == "labels" else "multiclass", codec, 8)


def taught(name, task, x, y, weight=None, there=None, views=None, **options):
    learner = learners.build(name, task, inputs_of(*(views or [x.shape[1]])), **(QUICK.get(name, {}) | options))
    learner.fit(x, np.ones(x.shape, bool) if there is None else there, y, weight, seed=0)
    return learner.eval()


@torch.no_grad()
def answers(learner, x, there=None):
    there = np.ones(x.shape, bool) if there is None else there
    out = learner(torch.from_numpy(x), torch.from_numpy(there))
    assert torch.isfinite(out).all()
    chances = learner.task.probability(out)
    return (out if chances is None else chances).double().numpy()


def table(rows=400, columns=6, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


# -- trees ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 2, 4])
@pytest.mark.parametrize("bins", [16, 255])
def test_trees_answer_as_the_library_does(classes, bins):
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    rng = np.random.default_rng(classes)
    x = table(500)
    x[:, 1] = rng.integers(0, 4, 500)
    x[:, 2] = 1e30 * x[:, 2]
    score = x[:, 0] + x[:, 1] * x[:, 3]
    x[rng.random(x.shape) < 0.2] = np.nan
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)) if classes else score
    binned = Bins(x, bins)
    made = (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(max_iter=12, max_leaf_nodes=9, max_bins=255)
    made.fit(binned.codes(x), y)
    forest, outputs = Forest(), max(classes, 1) if classes != 2 else 1
    forest.add(binned.trees_of(made, 12), list(range(outputs)) * 12, x.shape[1])
    new = table(300, seed=1)
    edges = np.concatenate([e[:20] for e in binned.edges])
    new[: len(edges), :] = edges[:, None]  # a number that is an edge itself goes left
    new[-3:] = [[np.nan] * 6, [np.inf] * 6, [-np.inf] * 6]
    ours = forest(torch.from_numpy(new), outputs).numpy() + made._baseline_prediction.ravel()
    codes = binned.codes(new)
    theirs = made.decision_function(codes) if classes else made.predict(codes)
    np.testing.assert_allclose(ours, theirs.reshape(len(new), -1), atol=1e-5)


def test_a_forest_walks_each_tree_from_its_root_to_a_leaf():
    from sklearn.ensemble import HistGradientBoostingRegressor

    x = table(200, 3)
    x[::7, 1] = np.nan
    binned = Bins(x, 63)
    made = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=5).fit(binned.codes(x), x[:, 0] * np.nan_to_num(x[:, 1]))
    trees = binned.trees_of(made, 5)
    forest = Forest()
    forest.add(trees[:2], [0, 1], 3)
    forest.add(trees[2:], [1, 0, 1], 3)  # more trees later are the same as all at once
    expected = np.zeros((len(x), 2))
    for nodes, output in zip(trees, [0, 1, 1, 0, 1]):
        for r, row in enumerate(x):
            at = 0
            while not nodes[at]["is_leaf"]:
                value = row[nodes[at]["feature_idx"]]
                left = nodes[at]["missing_go_to_left"] if np.isnan(value) else value <= nodes[at]["num_threshold"]
                at = nodes[at]["left"] if left else nodes[at]["right"]
            expected[r, output] += nodes[at]["value"]
    np.testing.assert_allclose(forest(torch.from_numpy(x), 2).numpy(), expected, atol=1e-6)


def test_a_forest_without_trees_adds_nothing():
    assert torch.equal(Forest()(torch.zeros(3, 0), 2), torch.zeros(3, 2))


def test_bins_hold_about_equally_many_rows():
    x = np.exp(table(2000, 1))
    binned = Bins(x, 8)
    codes = binned.codes(x)[:, 0].astype(int)
    assert np.bincount(codes).tolist() == pytest.approx([250] * 8, abs=2)
    assert all(x[codes == c].max() <= binned.edges[0][c] < x[codes == c + 1].min() for c in range(7))


def test_bins_of_few_values_are_these_values():
    x = np.array([[3.0], [1.0], [np.nan], [3.0], [2.0]], np.float32)
    assert np.array_equal(Bins(x, 8).codes(x)[:, 0], [2, 0, np.nan, 2, 1], equal_nan=True)
    assert Bins(x, 8).edges[0].tolist() == [1.5, 2.5]
    assert Bins(np.full((4, 1), np.nan, np.float32), 8).edges[0].tolist() == []


def test_the_most_telling_columns_are_those_of_an_analysis_of_variance():
    from sklearn.feature_selection import f_classif

    x = table(300, 40)
    y = np.random.default_rng(1).integers(0, 3, 300)
    x[:, 5] += y
    x[:, 30] -= 2.0 * (y == 1)
    expected = np.sort(np.argsort(-f_classif(x, y)[0])[:10])
    assert most_telling(x, y, np.ones(300), 10).tolist() == expected.tolist()
    assert most_telling(x, y, np.ones(300), 40).tolist() == list(range(40))
    x[::3, 5] = np.nan  # what is not there counts as the mean
    assert 5 in most_telling(x, y, np.ones(300), 2)
    assert 5 in most_telling(x, np.stack([y == 2, y == 0], 1), np.ones(300), 2)
    assert 5 in most_telling(x, np.where(x[:, :1] > 0, y[:, None], np.nan), np.ones(300), 2)


# -- held-out rows -------------------------------------------------------------------------------------------------


def test_held_out_rows_are_spread_over_the_classes():
    y = np.repeat([0, 1, 2, 3], [600, 300, 100, 1])
    held = held_out(y, 0.1, 3)
    assert np.bincount(y[held], minlength=4).tolist() == pytest.approx([60, 30, 10, 0], abs=1)
    assert held_out(y, 0.1, 3).tolist() == held.tolist() != held_out(y, 0.1, 4).tolist()


def test_every_class_keeps_a_row_to_learn_from():
    y = np.arange(50).repeat(2)
    for seed in range(5):
        held = held_out(y, 0.2, seed)
        assert 10 <= held.sum() <= 20 and set(y[~held]) == set(range(50))


def test_held_out_numbers_cover_their_range():
    y = np.random.default_rng(0).permutation(1000).astype(float)
    held = np.sort(y[held_out(y, 0.1, 0)])
    assert 99 <= len(held) <= 101 and np.diff(held).max() <= 20
    rare = np.zeros((200, 2), bool)
    rare[:, 0], rare[:20, 1] = True, True
    assert rare[held_out(rare, 0.2, 0)].sum(0).tolist() == pytest.approx([40, 4], abs=2)


# -- what each of them bears ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_a_class_without_rows_gets_a_small_probability(name):
    x = table(120)
    p = answers(taught(name, task_of("classes", 4), x, np.where(x[:, 0] > 0, 3, 1)), x)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert p[:, [0, 2]] == pytest.approx(np.full((120, 2), 0.5 / 121), rel=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_one_class_only_is_answered_everywhere(name):
    x = table(50)
    p = answers(taught(name, task_of("classes", 3), x, np.full(50, 1)), x)
    assert (p[:, 1] > 0.95).all() and np.ptp(p, 0).max() < 1e-6


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("nothing", ["no features", "constant", "absent", "one row", "no weight"])
def test_without_anything_to_learn_from_the_shares_are_the_answer(name, nothing):
    x = np.ones((60, 0 if nothing == "no features" else 3), np.float32)
    y, weight = np.repeat([0, 1], [45, 15]), None
    there = np.full(x.shape, nothing != "absent")
    if nothing == "one row":
        x, y, there = table(1, 3), y[:1], there[:1]
    if nothing == "no weight":
        x, weight = table(60, 3), np.zeros(60)
    p = answers(taught(name, task_of("classes", 2), x, y, weight, there), x, there)
    expected = {"one row": [0.667, 0.333], "no weight": [0.5, 0.5]}.get(nothing, [0.75, 0.25])
    assert p == pytest.approx(np.tile(expected, (len(x), 1)), abs=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_rows_of_no_weight_teach_nothing(name):
    x = table(200)
    y, weight = (x[:, 0] > 0).astype(int), np.repeat([2.0, 0.0], 100)
    whole = taught(name, task_of("classes"), x, np.where(weight > 0, y, 1 - y), weight)
    part = taught(name, task_of("classes"), x[:100], y[:100])
    np.testing.assert_allclose(answers(whole, x), answers(part, x), atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_numbers_are_learned_from_the_rows_that_have_them(name):
    x = table(400)
    y = np.stack([x[:, 0], -2.0 * x[:, 1], np.full(400, 0.5)], 1).astype(np.float64)
    y[::3, 0], y[1::3, 1], y[5] = np.nan, np.nan, np.nan
    options = {"boost": {"rounds": 100}, "fused": {"epochs": 20}, "tabm": {"epochs": 20, "width": 32}}[name]
    found = answers(taught(name, task_of("numbers", 3), x, y, **options), table(200, seed=1))
    truth = table(200, seed=1)
    assert np.corrcoef(found[:, 0], truth[:, 0])[0, 1] > 0.9 and np.corrcoef(found[:, 1], truth[:, 1])[0, 1] < -0.9
    assert abs(found[:, 2] - 0.5).max() < 0.3
    y[:, 1] = np.nan  # nothing at all is known of one
    assert answers(taught(name, task_of("numbers", 3), x, y), x)[:, 1] == pytest.approx(np.zeros(400), abs=0.2)


@pytest.mark.parametrize("name", OURS)
def test_labels_that_all_or_no_rows_have(name):
    x = table(100)
    y = np.stack([np.ones(100, bool), np.zeros(100, bool), x[:, 0] > 0], 1)
    p = answers(taught(name, task_of("labels", 3), x, y), x)
    assert (p[:, 0] > 0.9).all() and (p[:, 1] < 0.1).all() and np.ptp(p[:, 2]) > 0.03


@pytest.mark.parametrize("name", OURS)
def test_many_classes_of_few_rows(name):
    rng = np.random.default_rng(0)
    y = np.arange(70).repeat(3)
    x = (rng.normal(size=(70, 12))[y] + 0.1 * rng.normal(size=(210, 12))).astype(np.float32)
    options = {"boost": {"rounds": 8}, "fused": {"epochs": 40}, "tabm": {"epochs": 15, "width": 64}}[name]
    assert (answers(taught(name, task_of("classes", 70), x, y, **options), x).argmax(1) == y).mean() > 0.6


@pytest.mark.parametrize("name", OURS)
def test_the_gap_between_two_fits_leaves_no_trace(name):
    x = table(80)
    y = (x[:, 0] > 0).astype(int)
    learner = taught(name, task_of("classes"), x, y)
    first, state = answers(learner, x), torch.random.get_rng_state()
    learner.fit(x[:, ::-1].copy(), np.ones(x.shape, bool), 1 - y, seed=5)
    learner.fit(x, np.ones(x.shape, bool), np.zeros(80, np.int64), seed=5)
    learner.fit(x, np.ones(x.shape, bool), y, seed=0)
    assert np.array_equal(answers(learner.eval(), x), first)
    assert torch.equal(torch.random.get_rng_state(), state), "it draws from a generator that is not its own"


@pytest.mark.parametrize("name", OURS)
def test_what_is_saved_is_tensors(name, tmp_path):
    from safetensors.torch import load_file, save_file

    x = table(100)
    learner = taught(name, task_of("labels", 2), x, x[:, :2] > 0)
    save_file({k: v.contiguous() for k, v in learner.state_dict().items()}, tmp_path / "state.safetensors")
    again = learners.build(name, task_of("labels", 2), inputs_of(6), **QUICK[name])
    again.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert np.array_equal(answers(again.eval(), x), answers(learner, x))


@pytest.mark.parametrize("name", ["boost", "boost-lightgbm", "boost-catboost", "fused", "tabm"])
def test_the_cost_rises_with_rows_features_and_outputs(name):
    cost = learners.get(name).cost
    small = cost(1000, 50, 2)
    assert 0 < small < min(cost(20_000, 50, 2), cost(1000, 5000, 2)) and small <= cost(1000, 50, 20)


# -- boosting ------------------------------------------------------------------------------------------------------


def test_noise_is_answered_by_the_shares():
    x, y = table(600, 30), np.random.default_rng(3).integers(0, 2, 600)
    learner = taught("boost", task_of("classes"), x, y, rounds=300)
    new = answers(learner, table(600, 30, seed=9))
    assert abs(new[:, 0] - 0.5).mean() < 0.2 and len(learner.forest.root) < 60


def test_two_facts_that_only_together_tell():
    x = table(1500, 5)
    y = ((x[:, 0] > 0) ^ (x[:, 3] > 0)).astype(int)
    new = table(500, 5, seed=1)
    p = answers(taught("boost", task_of("classes"), x, y, rounds=200), new)
    assert (p.argmax(1) == ((new[:, 0] > 0) ^ (new[:, 3] > 0))).mean() > 0.9


def test_absence_itself_tells():
    x, there = table(400, 2), np.ones((400, 2), bool)
    there[::4, 1] = False
    p = answers(taught("boost", task_of("classes"), x, (~there[:, 1]).astype(int), there=there, rounds=60), x, there)
    assert (p.argmax(1) == ~there[:, 1]).all()


def test_trees_and_features_have_their_bounds():
    x, y = table(300, 50), np.arange(300) % 20
    learner = taught("boost", task_of("classes", 20), x, y, rounds=300, most_features=7, most_trees=60)
    assert len(learner.forest.root) <= 60 and len(learner.columns) == 7


def test_a_category_of_many_values_is_learned():
    rng = np.random.default_rng(0)
    inputs = Inputs.of({"t": Layout((200, 0), (0, 1), 2)})
    good = rng.random(200) < 0.5
    x = np.stack([rng.integers(0, 200, 3000), rng.normal(size=3000)], 1).astype(np.float32)
    learner = learners.build("boost", task_of("classes"), inputs, rounds=50)
    learner.fit(x, np.ones((3000, 2), bool), good[x[:, 0].astype(int)].astype(int), seed=0)
    assert (answers(learner.eval(), x).argmax(1) == good[x[:, 0].astype(int)]).mean() > 0.95


# -- boosting by a library -----------------------------------------------------------------------------------------


class Means(Library):
    """A library that knows one thing: what the mean of the first column is worth."""

    name, package = "means", "json"

    def grow(self, z, y, weight, held, classes, rounds, rate, seed):
        return {"slope": [float(c + 1) for c in range(classes if classes > 2 else 1)]}, rounds

    def said(self, model, rounds):
        return json.dumps(model).encode()

    def read(self, text):
        return json.loads(text)

    def raw(self, model, z):
        found = z[:, :1] * np.array([model["slope"]])
        return found[:, 0] if found.shape[1] == 1 else found


@pytest.mark.parametrize(("kind", "outputs", "slopes"), [("classes", 2, [0, 1]), ("classes", 3, [1, 2, 3]), ("labels", 3, [1, 0, 1])])
def test_models_of_a_library_are_kept_as_its_text(kind, outputs, slopes):
    x = table(100, 2)
    y = np.arange(100) % outputs if kind == "classes" else np.stack([x[:, 0] > 0, np.zeros(100, bool), x[:, 1] > 0], 1)
    learner = Means(task_of(kind, outputs), inputs_of(2))
    learner.fit(x, np.ones(x.shape, bool), y)
    again = Means(task_of(kind, outputs), inputs_of(2))
    again.load_state_dict(learner.state_dict())
    scores = torch.from_numpy(x[:, :1] * np.array(slopes, np.float32))
    if kind == "labels":
        scores[:, 1] = math.log(0.5 / 100.5)  # the label that no row has
    expected = (scores.softmax(1) if kind == "classes" else scores.sigmoid()).numpy()
    for one in (learner, again):
        np.testing.assert_allclose(answers(one, x), expected, atol=1e-5)
    assert learner.text.dtype == torch.uint8 and answers(again, x[:0]).shape == (0, outputs)


@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
@pytest.mark.parametrize(("kind", "outputs"), [("classes", 2), ("classes", 4), ("labels", 2), ("numbers", 2)])
def test_the_libraries_themselves(package, kind, outputs):
    pytest.importorskip(package)
    x = table(500)
    x[::5, 0] = 0.0
    there = np.ones(x.shape, bool)
    there[::5, 0] = False
    score = x[:, :outputs] + x[:, 2:3]
    y = {"classes": score.argmax(1), "labels": score > 0, "numbers": score.astype(np.float64)}[kind]
    learner = taught(f"boost-{package}", task_of(kind, outputs), x, y, there=there, rounds=60)
    again = learners.build(f"boost-{package}", task_of(kind, outputs), inputs_of(6))
    again.load_state_dict(learner.state_dict())
    found = answers(again.eval(), x, there)
    np.testing.assert_allclose(found, answers(learner, x, there), atol=1e-6)
    right = np.corrcoef(found[:, 0], y[:, 0])[0, 1] if kind == "numbers" else ((found > 0.5) == y).mean() if kind == "labels" else 0
    assert (right if kind != "classes" else (found.argmax(1) == y).mean()) > 0.8


def test_a_package_that_is_not_installed_is_named_with_what_brings_it():
    with pytest.raises(RecipeError, match=r"learner 'x': needs no_such_thing, which is not installed. Fix: pip install polyfuse\[boost\]"):
        need("x", "boost", "json", "no_such_thing")
    need("x", "boost", "json")
    assert missing("json") == {} and "no_such_thing" in missing("json", "no_such_thing")["all"]


# -- networks ------------------------------------------------------------------------------------------------------


def test_descent_keeps_the_weights_of_the_cheapest_epoch():
    net, costs, seen = nn.Linear(1, 1), iter([3.0, 1.0, 2.0, 2.5, 0.0]), []

    def judge():
        seen.append(net.weight.detach().clone())
        return next(costs)

    with seeded(0):
        descend(net, 100, lambda rows: net(rows[:, None].float()).mean(), judge, epochs=9, rate=0.1, decay=0.0, patience=2)
    assert len(seen) == 4, "two epochs without a better cost end it"
    assert torch.equal(net.weight, seen[1]) and not net.training


def test_batches_grow_with_the_table():
    assert [batch_for(n) for n in (2, 1000, 5000, 10**6)] == [32, 32, 128, 256]


def test_fusion_learns_what_only_two_views_together_tell():
    x = np.sign(table(800, 4))
    y = (x[:, 0] * x[:, 2] > 0).astype(int)  # one number of each view
    learner = taught("fused", task_of("classes"), x, y, views=[2, 2], epochs=15, fusion="multiply")
    new = np.sign(table(300, 4, seed=1))
    assert (answers(learner, new).argmax(1) == (new[:, 0] * new[:, 2] > 0)).mean() > 0.95
    linear = taught("linear", task_of("classes"), x, y, views=[2, 2])
    assert (answers(linear, new).argmax(1) == (new[:, 0] * new[:, 2] > 0)).mean() < 0.7


def test_a_hidden_view_leaves_what_the_other_says():
    x = table(800, 4)
    x[:, 2] = x[:, 0] + 0.1 * x[:, 2]  # both views tell
    y = (x[:, 0] > 0).astype(int)
    learner = taught("fused", task_of("classes"), x, y, views=[2, 2], epochs=20, drop=0.3)
    for hidden in (slice(0, 2), slice(2, 4)):
        there = np.ones(x.shape, bool)
        there[:, hidden] = False
        assert (answers(learner, x, there).argmax(1) == y).mean() > 0.85


def test_fusion_refuses_what_has_no_tokens():
    task = task_of("classes")
    with pytest.raises(RecipeError, match="'decision-mean', which fuses at decision level"):
        learners.build("fused", task, inputs_of(2, 2), fusion="decision-mean")
    with pytest.raises(RecipeError, match="did you mean 'concat'"):
        learners.build("fused", task, inputs_of(2, 2), fusion="cocnat")
    with pytest.raises(RecipeError, match="no option 'hiden'"):
        taught("fused", task, table(30, 2), np.arange(30) % 2, options={"hiden": 3})


def test_fusion_options_reach_the_fusion():
    learner = taught("fused", task_of("classes"), table(40, 4), np.arange(40) % 2, views=[2, 2], options={"hidden": 5}, width=8)
    assert learner.net.fusion.out[0].out_features == 40


def test_a_view_of_nothing_but_constants_is_no_view():
    x = table(200, 4)
    x[:, 2:] = 1.0
    learner = taught("fused", task_of("classes"), x, (x[:, 0] > 0).astype(int), views=[2, 2], epochs=20)
    assert learner.sizes.tolist() == [2, 0] and (answers(learner, x).argmax(1) == (x[:, 0] > 0)).mean() > 0.85


def test_the_members_of_tabm_are_averaged_as_probabilities():
    pytest.importorskip("tabm")
    x = table(100, 3)
    learner = taught("tabm", task_of("classes"), x, (x[:, 0] > 0).astype(int))
    with torch.no_grad():
        each = learner.start + learner.net(learner.design(torch.from_numpy(x), torch.ones(x.shape, dtype=torch.bool)))
    assert each.shape == (100, 4, 2)
    expected = np.mean([each[:, k].softmax(1).numpy() for k in range(4)], 0)
    np.testing.assert_allclose(answers(learner, x), expected, atol=1e-6)


@pytest.mark.parametrize(("columns", "embedded"), [(4, 3), (120, 0)])
def test_tabm_embeds_the_numbers_of_a_table_that_has_few(columns, embedded):
    pytest.importorskip("tabm")
    x = table(100, columns)
    x[:, 1] = x[:, 1] > 0  # two values have no thresholds to learn
    learner = taught("tabm", task_of("classes"), x, (x[:, 0] > 0).astype(int))
    assert len(learner.embedded) == embedded
