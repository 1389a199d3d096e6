"""Late fusion, one head per view: the rules by hand, what each head learns from, what is fitted afterwards; and its opposite, `early`."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import polyfuse as pf
from polyfuse import cli, contract
from polyfuse.core import Batch, Cells, Column, RecipeError, Schema, Task, Tokens, Window, codecs, fusions, scatter, tasks
from polyfuse.core.progress import Progress
from polyfuse.data import Opener, Store, read
from polyfuse.data.rows import assemble
from polyfuse.learners import TrainOptions, train
from polyfuse.learners.net import _calibrate
from polyfuse.model import Model
from polyfuse.ready import Run, make_ready, new_bundle
from polyfuse.recipe import at_feature_level, resolve

D = 16
LATE = [name for name in fusions.names() if fusions.get(name).level == "decision"]
KINDS = {  # task: its modality and the cells of training rows, unevenly spread
    "multiclass": ("category", ["x"] * 6 + ["y"] * 3 + ["z"]),
    "binary": ("category", ["no"] * 3 + ["yes"] * 7),
    "multilabel": ("labels", [["s"], ["s", "t"], ["s"], ["u"], []]),
    "regression": ("number", [1.0, 2.0, 6.0]),
    "quantile": ("number", [1.0, 2.0, 3.0, 9.0]),
}
CLASSES = ("multiclass", "binary", "multilabel")
TAKES = [(name, kind) for name in LATE for kind in KINDS if kind in CLASSES or name in ("decision-mean", "decision-weighted")]
TAKES += [("decision-stacking", "regression")]
takes = pytest.mark.parametrize(("name", "kind"), TAKES)


def target_of(kind: str):
    """A fitted codec and the collated truth of its training rows."""
    modality, cells = KINDS[kind]
    codec = codecs.build(modality, "y")
    codec.fit(iter([codec.read(c) for c in cells]))
    return codec, codec.collate([codec.clean(codec.read(c)) for c in cells])


def task_of(kind: str, **options) -> Task:
    codec, truth = target_of(kind)
    torch.manual_seed(0)
    task = tasks.build(kind, codec, D, **options)
    task.fit(truth)
    return task.eval()


def model_of(name: str, kinds: dict[str, str], views=("a", "b", "c"), **options) -> Model:
    """A model on views of three numbers, its tasks fitted, without dropout."""
    torch.manual_seed(0)
    source, _ = contract.fitted("vector")
    fitted = {target: target_of(kind) for target, kind in kinds.items()}
    parts = {v: {"encoder": "vector-mlp", "dropout": 0.0} for v in views} | {t: {"task": k, "dropout": 0.0} for t, k in kinds.items()}
    fusion = {"name": name, "dropout": 0.0, **options}
    model = Model(dict.fromkeys(views, source), {t: codec for t, (codec, _) in fitted.items()}, D, fusion, parts)
    model.fit_tasks({t: truth for t, (_, truth) in fitted.items()})
    return model


def patterns(views: int, least: int = 1) -> torch.Tensor:
    """[B, V] bool: every way to be absent that leaves at least so many."""
    return torch.tensor([p for p in itertools.product([True, False], repeat=views) if sum(p) >= least])


def outs_of(task: Task, rows: int, views: int, seed: int = 0) -> torch.Tensor:
    """What `views` heads might answer: [rows, views, C]."""
    x = torch.randn(rows * views, 1, D, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(len(x), 1, dtype=torch.bool)
    with torch.no_grad():
        return 2 * task(Tokens(x, mask, {"row": slice(0, 1)})).unflatten(0, (rows, views))


# -- the rules, in plain loops --------------------------------------------------------------------------------------


def chances(kind: str, out: list[float]) -> list[float]:
    if kind == "multilabel":
        return [1 / (1 + math.exp(-x)) for x in out]
    total = sum(math.exp(x) for x in out)
    return [math.exp(x) / total for x in out]


def even(values: list[float]) -> list[float]:
    return [v / sum(values) for v in values]


def spread(kind: str, p: list[float]) -> float:
    """Entropy, 1 = as unsure as can be."""
    if kind == "multilabel":
        return sum(-q * math.log2(q) - (1 - q) * math.log2(1 - q) for q in p) / len(p)
    return sum(-q * math.log(q) for q in p) / math.log(len(p))


def product_by_hand(kind: str, ps: list[list[float]], share: list[float]) -> list[float]:
    """Bayes' rule for views that are independent given the class."""

    def joint(prior: float, found: list[float]) -> float:
        return prior * math.prod(p / prior for p in found)

    columns = list(zip(*ps))
    if kind == "multilabel":
        pairs = [(joint(s, list(ps)), joint(1 - s, [1 - p for p in ps])) for s, ps in zip(share, columns)]
        return [yes / (yes + no) for yes, no in pairs]
    return even([joint(s, list(ps)) for s, ps in zip(share, columns)])


def by_hand(name: str, kind: str, task: Task, fusion, outs: list[list[float]], here: list[int]) -> list[float]:
    """Of one row: probabilities of the classes, or numbers; `outs` of the views that are `here`."""
    ps = [chances(kind, out) for out in outs] if kind in CLASSES else outs
    rows, c = len(ps), len(ps[0])
    if name == "decision-product":
        return product_by_hand(kind, ps, task.share.tolist())
    if name == "decision-stacking":
        a, absent, bias = (fusion.numbers("y")[k].tolist() for k in ("factor", "absent", "bias"))
        gone = [v for v in range(len(a)) if v not in here]
        mixed = [
            len(a) / rows * sum(a[v][k] * out[k] for v, out in zip(here, outs)) + sum(absent[v][k] for v in gone) + bias[k]
            for k in range(c)
        ]
        return chances(kind, mixed) if kind in CLASSES else mixed
    weights = [1 / rows] * rows
    if name == "decision-weighted":
        weights = even([math.exp(fusion.numbers("y")["scores"][v]) for v in here])
    elif name == "decision-confidence":
        weights = even([1 - spread(kind, p) for p in ps])
    elif name == "decision-vote":
        said = [[float(q >= 0.5 if kind == "multilabel" else q == max(p)) for q in p] for p in ps]
        ps = [[0.999 * s + 0.001 * q for s, q in zip(*both)] for both in zip(said, ps)]
    return [sum(w * p[k] for w, p in zip(weights, ps)) for k in range(c)]


@takes
@pytest.mark.parametrize("views", [1, 3])
@torch.no_grad()
def test_each_rule_is_its_formula_whatever_is_absent(name, kind, views):
    task, fusion = task_of(kind), fusions.build(name, list("abc")[:views], D)
    fusion.add_target("y", task)
    for buffer in fusion.buffers():
        buffer += torch.randn(buffer.shape, generator=torch.Generator().manual_seed(2))
    present = patterns(views)
    outs = outs_of(task, len(present), views)
    found = fusion.combine("y", outs, present, task)
    junk = outs.masked_fill(~present.unsqueeze(-1), 50.0)
    torch.testing.assert_close(fusion.combine("y", junk, present, task), found, rtol=0, atol=1e-6)
    found = task.probability(found) if kind in CLASSES else found
    for row, out, given in zip(found, outs, present):
        here = given.nonzero()[:, 0].tolist()
        expected = by_hand(name, kind, task, fusion, out[here].tolist(), here)
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), [t for t in TAKES if t[0] not in ("decision-product", "decision-vote")])  # these get surer
def test_before_anything_is_fitted_equal_views_answer_as_one(name, kind):
    task, fusion = task_of(kind), fusions.build(name, list("abc"), D)
    fusion.add_target("y", task)
    present = patterns(3)
    outs = outs_of(task, len(present), 1).expand(-1, 3, -1)
    found = fusion.combine("y", outs, present, task)
    one = outs[:, 0]
    if kind in CLASSES:
        found, one = task.probability(found), task.probability(one)
    torch.testing.assert_close(found, one, rtol=0, atol=1e-5)


@takes
@torch.no_grad()
def test_a_row_with_nothing_gets_the_answer_that_looks_at_no_input(name, kind):
    model = model_of(name, {"y": kind}).eval()
    task = model.tasks[0]
    if kind in CLASSES:
        task.temperature.fill_(1.7)
    x = torch.randn(8, 3, D, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(x, patterns(3, least=0), {v: slice(i, i + 1) for i, v in enumerate("abc")})
    out = model.answer(model.fusion(tokens))["y"]
    torch.testing.assert_close(out[-1:], task.constant(1))
    alone = model.answer(model.fusion(Tokens(x[:-1], tokens.mask[:-1], tokens.spans)))["y"]
    torch.testing.assert_close(out[:-1], alone)
    torch.testing.assert_close(model.answer(model.fusion(Tokens(x[-1:], tokens.mask[-1:], tokens.spans)))["y"], out[-1:])


def test_quantiles_never_cross():
    task = task_of("quantile")
    for name in ("decision-mean", "decision-weighted"):
        fusion = fusions.build(name, list("abc"), D)
        fusion.add_target("y", task)
        assert (fusion.combine("y", outs_of(task, 7, 3), patterns(3), task).diff(dim=1) >= 0).all()


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_a_tied_vote_goes_to_the_surer_mean(kind):
    task, fusion = task_of(kind), fusions.build("decision-vote", ["a", "b"], D)
    c = len(task.values)
    first, second = [0.6] + [0.4 / (c - 1)] * (c - 1), [0.1 / (c - 1)] * (c - 1) + [0.9]
    found = fusion.combine("y", torch.tensor([[first, second]]).log(), torch.ones(1, 2, dtype=torch.bool), task)
    assert found.argmax(1).item() == c - 1


def test_the_product_takes_from_the_heads_what_the_loss_made_them_begin_with():
    """With weights for rare classes the heads answer as if classes were even: nothing is left to divide by."""
    fusion, present = fusions.build("decision-product", ["a", "b"], D), torch.ones(1, 2, dtype=torch.bool)
    for kind, chance in (("multiclass", 1 / 3), ("multilabel", 0.5)):
        task = task_of(kind, balance="inverse")
        p = task.probability(fusion.combine("y", torch.zeros(1, 2, 3), present, task))
        assert p[0].tolist() == pytest.approx([chance] * 3)


# -- what a task has to give ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_probability_and_its_inverse(kind):
    task = task_of(kind)
    out = outs_of(task, 6, 2)
    p = task.probability(out)
    if kind not in CLASSES:
        assert p is None
        return
    assert p.shape == out.shape and (p > 0).all() and (p < 1).all()
    assert [chances(kind, o) for o in out[:, 0].tolist()] == [pytest.approx(row) for row in p[:, 0].tolist()]
    torch.testing.assert_close(task.probability(task.out_of(p)), p)
    torch.testing.assert_close(task.probability(task.constant(1))[0], task.share)


@pytest.mark.parametrize("kind", KINDS)
def test_averaged_over_one_head_is_that_head(kind):
    task = task_of(kind)
    out = outs_of(task, 6, 1)
    found, one = task.averaged(out, torch.ones(6, 1)), out[:, 0]
    if kind in CLASSES:
        found, one = task.probability(found), task.probability(one)
    torch.testing.assert_close(found, one)


@takes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_certain_answers_stay_finite_in_few_bits(name, kind, dtype):
    task, fusion = task_of(kind), fusions.build(name, ["a", "b"], D)
    fusion.add_target("y", task)
    outs = torch.zeros_like(outs_of(task, 3, 2))
    outs[0, :, 0], outs[1, 0, 0], outs[1, 1, -1], outs[2, :, -1] = 500.0, 500.0, 500.0, -500.0
    found = fusion.combine("y", outs.to(dtype), torch.ones(3, 2, dtype=torch.bool), task)
    assert torch.isfinite(found).all()
    if kind in CLASSES:
        assert torch.isfinite(task.probability(found)).all() and torch.isfinite(task.loss(found, cells_of(kind, 3)))


# -- what the heads learn from --------------------------------------------------------------------------------------


def cells_of(kind: str, rows: int, seed: int = 0) -> Cells:
    codec, _ = target_of(kind)
    known = [codec.clean(codec.read(c)) for c in KINDS[kind][1]]
    chosen = np.random.default_rng(seed).integers(len(known), size=rows)
    return Cells(codec.collate([known[i] for i in chosen]), torch.arange(rows), rows)


def batch_of(kind: str, rows: int = 10, weight: torch.Tensor | None = None) -> Batch:
    """Views a, b and c of every row, and its label."""
    g, every = torch.Generator().manual_seed(1), torch.arange(rows)
    real = torch.ones(rows, 3, dtype=torch.bool)
    views = {v: Cells({"value": torch.randn(rows, 3, generator=g), "real": real}, every, rows) for v in "abc"}
    return Batch(views | {"y": cells_of(kind, rows)}, rows, weight)


def changed(batch: Batch, weight: torch.Tensor | None = None, **cells: Cells) -> Batch:
    return Batch(batch.cells | cells, batch.size, batch.weight if weight is None else weight)


def taught(model: Model, batch: Batch) -> dict[str, torch.Tensor]:
    """The gradient of every parameter that belongs to view a: encoder, trunk and head."""
    model.train().zero_grad()
    outs, losses = model(batch)
    model.loss(outs, losses, batch, {}).backward()
    parts = {"encoder": model.encoders[0], "trunk": model.fusion.trunks[0], "head": model.heads[0][0]}
    return {f"{part}.{n}": p.grad.clone() for part, module in parts.items() for n, p in module.named_parameters() if p.grad is not None}


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.allclose(v, second[k], atol=1e-7) for k, v in first.items())


@takes
def test_a_view_learns_from_its_own_loss_alone(name, kind):
    model, batch = model_of(name, {"y": kind}), batch_of(kind)
    before = taught(model, batch)
    assert all(g.abs().sum() > 0 for g in before.values())
    b = batch.cells["b"]
    assert equal(taught(model, changed(batch, b=Cells(b.x | {"value": b.x["value"] + 9}, b.rows, b.size))), before)
    assert equal(taught(model, changed(batch, b=b.keep(b.rows < 0))), before)
    assert not equal(taught(model, changed(batch, a=batch.cells["b"])), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_teaches_only_the_views_it_has(kind):
    model, batch = model_of("decision-mean", {"y": kind}), batch_of(kind)
    a, other = batch.cells["a"], cells_of(kind, 10, seed=5)
    mine = a.rows % 2 == 0
    y = batch.cells["y"].x
    mixed = Cells({k: torch.where(mine.view(-1, *[1] * (v.ndim - 1)), v, other.x[k]) for k, v in y.items()}, a.rows, 10)
    half = changed(batch, a=a.keep(mine))
    assert not torch.equal(next(iter(mixed.x.values())), next(iter(y.values())))
    assert equal(taught(model, half), taught(model, changed(half, y=mixed)))
    assert all((g == 0).all() for g in taught(model, changed(batch, a=a.keep(a.rows < 0))).values())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_missing_labels_of_rows_are_respected(kind):
    model, batch = model_of("decision-mean", {"y": kind}), batch_of(kind)
    unlabelled = changed(batch, y=batch.cells["y"].keep(torch.arange(10) >= 4))
    ignored = changed(batch, weight=(torch.arange(10) >= 4).float() * 3)
    assert equal(taught(model, unlabelled), taught(model, ignored))
    assert not equal(taught(model, batch), taught(model, ignored))
    nothing = changed(batch, y=batch.cells["y"].keep(torch.arange(10) < 0))
    assert all((g == 0).all() for g in taught(model, nothing).values())


def test_the_loss_is_the_mean_over_the_views():
    model, weight = model_of("decision-vote", {"y": "multiclass"}), torch.rand(10, generator=torch.Generator().manual_seed(3))
    batch = batch_of("multiclass", weight=weight)
    batch = changed(batch, b=batch.cells["b"].keep(torch.arange(10) > 3))
    outs, losses = model.train()(batch)
    assert outs["y"].shape == (10, 3, 3)
    total = 0.0
    for v, view in enumerate("abc"):
        rows = batch.cells[view].rows.tolist()
        own = [-math.log(chances("multiclass", outs["y"][r, v].tolist())[batch.cells["y"].x["index"][r, 0] - 1]) for r in rows]
        total += sum(w * o for w, o in zip(weight[rows].tolist(), own)) / float(weight[rows].sum()) / 3
    assert model.loss(outs, losses, batch, {}).item() == pytest.approx(total, rel=1e-5)


# -- fitted on tables -----------------------------------------------------------------------------------------------

VIEWS = {"good": "vector", "noise": "vector"}


def table(rows: int = 160, seed: int = 0, missing: float = 0.1) -> list[dict]:
    """The class is nearly the sign of `good`; `noise` knows nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        good, noise = rng.normal(size=3), rng.normal(size=3)
        y = "yes" if good[0] + 0.3 * rng.normal() > 0 else "no"
        row = {"good": good.tolist(), "noise": noise.tolist(), "y": y}
        if rng.random() < missing:
            row["good" if i % 2 else "noise"] = None
        made.append(row)
    return made


def fitted(fusion: str, rows=None, target="y", columns=VIEWS, **options):
    settings = {"train.epochs": 6, "train.batch": 16} | options.pop("set", {})
    return pf.fit(rows or table(), target, fusion=fusion, columns=columns, size="s", device="cpu", set=settings, **options)


@pytest.fixture(scope="module")
def mean(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fitted("decision-mean")


def given(answers) -> list[list[float]]:
    return [list(a["answer"]["y"]["probability"].values()) for a in answers]


def test_the_answer_is_the_ensemble_of_the_heads(mean):
    rows = table(20, seed=7)
    model, raws = mean.model, {v: [r[v] for r in rows] for v in VIEWS}
    batch, _ = assemble(raws, len(rows), mean.views, Opener(None))
    with torch.no_grad():
        tokens = model.fusion(model.encode(batch))
        heads = [head.head(tokens[view][0][:, 0]) / head.temperature for view, head in zip(VIEWS, model.heads[0])]
    assert len({float(h.temperature) for h in model.heads[0]} | {1.0}) == 3, "each head is calibrated"
    for i, (row, found) in enumerate(zip(rows, given(mean.predict(rows)))):
        ps = [chances("binary", heads[v][i].tolist()) for v, view in enumerate(VIEWS) if row[view] is not None]
        p = [sum(q) / len(ps) for q in zip(*ps)]
        assert found == pytest.approx(even([q ** (1 / float(model.tasks[0].temperature)) for q in p]), abs=1e-5)


def test_without_a_view_the_others_answer_stands(mean):
    rows = [r for r in table(20, seed=8, missing=0.0)]
    model = mean.model
    for v, view in enumerate(VIEWS):
        only = [{view: r[view]} for r in rows]
        batch, _ = assemble({view: [r[view] for r in rows]}, len(rows), mean.views, Opener(None))
        with torch.no_grad():
            own = model.heads[0][v].head(model.fusion(model.encode(batch))[view][0][:, 0])
        own = own / model.heads[0][v].temperature
        for out, found in zip(own, given(mean.predict(only))):
            p = chances("binary", out.tolist())
            assert found == pytest.approx(even([q ** (1 / float(model.tasks[0].temperature)) for q in p]), abs=1e-5)
    answer = mean.predict_rows([{}])[0]
    assert list(answer["answer"]["y"]["probability"].values()) == pytest.approx(model.tasks[0].share.tolist(), abs=1e-5)
    assert "no cell" in answer["warnings"][0]


def test_saved_loaded_and_embedded(mean, tmp_path):
    rows = table(12, seed=9)
    mean.save(tmp_path / "b")
    again = pf.Bundle.load(tmp_path / "b")
    assert json.dumps(list(again.predict(rows))) == json.dumps(list(mean.predict(rows)))
    vectors = mean.embed(rows)
    assert vectors.shape == (12, 64) and np.array_equal(vectors, again.embed(rows)) and np.ptp(vectors) > 0


def test_each_head_is_calibrated_on_the_held_out_rows_that_have_its_view():
    bundle, ready = prepared("decision-weighted", table(missing=0.7))
    train(bundle.model, ready.data, ready.rows, ready.held, TrainOptions(epochs=3, batch=16), device="cpu")
    model, batch, truth = bundle.model, ready.data.batch(ready.held), ready.data.targets["y"].cells(ready.held)
    with torch.no_grad():
        outs = model.each(model.fusion(model.encode(batch)))["y"]
    for v, view in enumerate(VIEWS):
        rows = batch.cells[view].rows
        assert 0 < len(rows) < len(ready.held)
        twin = copy.deepcopy(model.heads[0][v])
        twin.calibrate(outs[rows, v], Cells({"index": truth.x["index"][rows]}, torch.arange(len(rows)), len(rows)))
        assert model.heads[0][v].temperature.item() == pytest.approx(twin.temperature.item(), rel=1e-3) != 1.0


def test_calibrated_again_nothing_changes():
    bundle, ready = prepared("decision-weighted", table())
    train(bundle.model, ready.data, ready.rows, ready.held, TrainOptions(epochs=3, batch=16), device="cpu")
    before = {k: v.clone() for k, v in bundle.model.state_dict().items()}
    _calibrate(bundle.model, ready.data, ready.held)
    for name, value in bundle.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-3)


def test_weights_favour_the_view_that_knows():
    bundle = fitted("decision-weighted", table(300))
    weights = bundle.model.fusion.numbers("y")["scores"].softmax(0)
    assert weights[0] > 0.75
    new = table(400, seed=5, missing=0.0)
    assert bundle.evaluate(new)["metrics"]["y"]["accuracy"]["value"] > 0.85


def test_stacking_lets_each_view_speak_of_what_it_knows():
    """One view tells x from the rest, the other z: no one weight for all classes is right."""
    task, fusion = task_of("multiclass"), fusions.build("decision-stacking", ["a", "b"], D)
    fusion.add_target("y", task)
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (400,), generator=g)
    outs = torch.randn(400, 2, 3, generator=g)
    outs[:, 0, 0] += 3.0 * (y == 0)
    outs[:, 1, 2] += 3.0 * (y == 2)
    truth, present = Cells({"index": y.view(-1, 1) + 1}, torch.arange(400), 400), torch.ones(400, 2, dtype=torch.bool)
    before = task.loss(fusion.combine("y", outs, present, task), truth)
    fusion.fit_target("y", outs, present, truth, task)
    factor = fusion.numbers("y")["factor"]
    assert factor[0, 0] > 3 * factor[1, 0].abs() and factor[1, 2] > 3 * factor[0, 2].abs()
    assert task.loss(fusion.combine("y", outs, present, task), truth) < 0.9 * before


@pytest.mark.parametrize("name", ["decision-weighted", "decision-stacking"])
@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_a_strong_ridge_keeps_the_even_combination(name, kind):
    task, present = task_of(kind), torch.ones(40, 3, dtype=torch.bool)
    outs, truth = outs_of(task, 40, 3), cells_of(kind, 40)
    moved = []
    for ridge in (1e6, 1.0):
        fusion = fusions.build(name, list("abc"), D, ridge=ridge)
        fusion.add_target("y", task)
        start = {k: v.clone() for k, v in fusion.numbers("y").items()}
        fusion.fit_target("y", outs, present, truth, task)
        moved.append(max(float((v - start[k]).abs().max()) for k, v in fusion.numbers("y").items()))
    assert moved[0] < 1e-3 < moved[1]


def prepared(fusion: str, rows: list[dict], whole: bool = False):
    """A bundle before its first step and the table made ready."""
    read_rows = read(rows)
    schema = pf.look(read_rows, "y", columns=VIEWS).schema
    recipe = resolve(schema, fusion=fusion, size="s", seed=0, settings={})
    ready = make_ready(Run(schema, recipe, read_rows, Progress(True), Store(), 1, 0.1, False), whole=whole)
    return new_bundle(ready), ready


@pytest.mark.parametrize("name", ["decision-weighted", "decision-stacking"])
def test_without_held_out_rows_it_stays_even(name):
    bundle, ready = prepared(name, table(60), whole=True)
    assert not len(ready.held)
    train(bundle.model, ready.data, ready.rows, ready.held, TrainOptions(epochs=2, batch=16), device="cpu")
    start = bundle.model.fusion.starts(2)
    assert all(torch.equal(v, start[k]) for k, v in bundle.model.fusion.numbers("y").items())


@pytest.mark.parametrize("name", ["decision-product", "decision-stacking"])
def test_resumed_after_a_kill_it_ends_the_same(name, tmp_path):
    class Stop(Exception):
        pass

    def stop(entry):
        if entry["epoch"] == 1:
            raise Stop

    options, ended = TrainOptions(epochs=4, batch=16, checkpoint_s=0), []
    for calls in ([{}], [{"folder": tmp_path, "log": stop}, {"folder": tmp_path, "resume": True}]):
        for call in calls:
            bundle, ready = prepared(name, table())
            try:
                train(bundle.model, ready.data, ready.rows, ready.held, options, device="cpu", **call)
            except Stop:
                assert "log" in call
        ended.append(bundle.model.state_dict())
    assert all(torch.equal(v, ended[1][k]) for k, v in ended[0].items())


@pytest.mark.parametrize("name", ["decision-mean", "decision-weighted", "decision-stacking"])
def test_several_targets_of_different_kinds(name, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        r | {"its size.cm": 5 * r["noise"][0] if r["noise"] else 0.0, "tags": ["hot"] * (i % 2) + ["old"] * (i % 3 == 0)}
        for i, r in enumerate(table(80))
    ]
    for r in rows:
        if rng.random() < 0.3:
            r["its size.cm"] = None
    targets = ["y", "its size.cm", "tags"]
    bundle = fitted(name, rows, targets, columns=VIEWS | {"tags": "labels"}, set={"train.epochs": 2})
    answer = bundle.predict({"good": [1, 2, 3]})
    assert list(answer) == targets and isinstance(answer["its size.cm"]["value"], float) and isinstance(answer["tags"]["value"], list)
    bundle.save(tmp_path / "b")
    assert pf.Bundle.load(tmp_path / "b").predict({"good": [1, 2, 3]}) == answer
    assert set(bundle.evaluate(rows)["metrics"]) == set(targets)


REFUSED = [(n, "regression", "decision-mean") for n in LATE if (n, "regression") not in TAKES] + [
    (n, "quantile", "decision-mean") for n in LATE if (n, "quantile") not in TAKES
]


@pytest.mark.parametrize(("name", "task", "instead"), REFUSED)
def test_a_task_it_cannot_take_is_refused_with_the_one_that_can(name, task, instead):
    with pytest.raises(RecipeError, match=rf"fusion '{name}'.*task '{task}' of target 'y'.*--fusion {instead}"):
        model_of(name, {"y": task})


def test_the_refusal_through_api_and_command_line(tmp_path, monkeypatch, capfd):
    rows = [{"a": i / 7, "b": f"w{i % 3}", "y": i * 1.5} for i in range(30)]
    with pytest.raises(RecipeError, match="'decision-vote': cannot take the task 'regression'.*decision-mean"):
        pf.fit(rows, "y", fusion="decision-vote", size="s", device="cpu")
    (tmp_path / "t.csv").write_text("a,b,y\n" + "\n".join(f"{r['a']},{r['b']},{r['y']}" for r in rows), "utf-8")
    monkeypatch.chdir(tmp_path)
    command = ["fit", "t.csv", "--target", "y", "--out", "b", "--fusion", "decision-stacking", "--task", "quantile"]
    monkeypatch.setattr("sys.argv", ["polyfuse", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = " ".join(capfd.readouterr().err.split())
    assert stop.value.code == 2 and "could cross" in said and "decision-mean" in said and not (tmp_path / "b").exists()


# -- feature level --------------------------------------------------------------------------------------------------


def leaves(rows: int = 60) -> list[dict]:
    """Two joined sets of measurements and two plain numbers; the kind is in the product of one of each set."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(rows):
        values = rng.normal(size=8).round(3).tolist()
        row = dict(zip(["s0", "s1", "s2", "t0", "t1", "t2", "long", "wide"], values))
        found.append(row | {"kind": "ab"[values[0] * values[3] > 0], "note": f"leaf {rng.integers(9)}"})
    return found


JOINED = {"shape": ("vector", ["s0", "s1", "s2"]), "texture": ("vector", ["t*"])}


def test_early_joins_all_plain_numbers(tmp_path):
    rows = leaves()
    bundle = fitted("early", rows, "kind", columns={"note": "text"}, join=JOINED, set={"train.epochs": 2})
    column = bundle.schema["numbers"]
    assert column.modality == "vector" and sorted(column.sources) == sorted(["s0", "s1", "s2", "t0", "t1", "t2", "long", "wide"])
    assert list(bundle.views) == ["numbers", "note"]
    assert [c["name"] for c in bundle.recipe["schema"]["columns"] if c["role"] == "input"] == ["numbers", "note"]
    bundle.save(tmp_path / "b")
    answers = pf.Bundle.load(tmp_path / "b").predict(rows[:5])
    assert [a["warnings"] for a in answers] == [[]] * 5 and list(answers) == list(bundle.predict(rows[:5]))
    with_gap = {k: v for k, v in rows[0].items() if k not in ("s1", "wide")}
    assert bundle.predict(with_gap)["kind"]["probability"] != answers[0]["answer"]["kind"]["probability"]
    assert bundle.predict(with_gap | {"s1": None, "wide": ""}) == bundle.predict(with_gap)
    assert fitted("early", rows, recipe=bundle.recipe, target=None).predict(rows[0]) == bundle.predict(rows[0])


def test_early_reads_what_the_columns_alone_would():
    """The words that stand for a missing number are as good in a joined column."""
    rows = [{"a": "NA" if i % 5 == 0 else str(i), "b": "-" if i % 3 == 0 else str(-i), "y": "ab"[i % 2]} for i in range(40)]
    bundle = fitted("early", rows, columns={"a": "number", "b": "number"}, set={"train.epochs": 1})
    assert bundle.predict({"a": "n/a", "b": "3"}) == bundle.predict({"b": 3.0})
    assert "no cell" in bundle.predict_rows([{"a": "NA", "b": "-"}])[0]["warnings"][0]


def inputs(*columns: Column, window: Window | None = None) -> list[str]:
    made = at_feature_level(Schema((*columns, Column("y", "category", "target")), window))
    assert made.having("target") and made.window == window
    return [c.name for c in made.having("input")]


def test_what_early_joins_and_what_it_leaves():
    a, b, cell = Column("a", "number"), Column("b", "number"), Column("embedding", "vector")
    joined = Column("v", "vector", sources=("v1", "v2"))
    assert inputs(a, Column("note", "text"), b) == ["numbers", "note"]
    assert inputs(a, b, cell, Column("town", "category")) == ["numbers", "embedding", "town"], "cells that are lists stay apart"
    assert inputs(a, cell) == ["a", "embedding"] and inputs(joined, cell) == ["v", "embedding"], "one alone has nothing to join"
    assert inputs(a, b, window=Window("id", "t", 4)) == ["a", "b"]
    assert inputs(Column("numbers", "text"), a, b) == ["numbers_", "numbers"]
    assert inputs(joined, a, Column("w", "vector", sources=("numbers", "v2"))) == ["numbers_"]
    both = at_feature_level(Schema((joined, Column("v2", "number"), Column("y", "number", "target")), None))
    assert both["numbers"].sources == ("v1", "v2"), "a column that is read twice counts once"
    assert at_feature_level(both) == both


def test_early_without_numbers_is_concat():
    views, tokens = ["a", "b"], scatter({v: (torch.randn(4, 2, D), torch.ones(4, 2, dtype=torch.bool), torch.arange(4)) for v in "ab"}, 4)
    rows = []
    for name in ("early", "concat"):
        torch.manual_seed(0)
        rows.append(fusions.build(name, views, D).eval()(tokens).row)
    assert torch.equal(*rows)


# -- similarity -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_similarity_by_hand():
    torch.manual_seed(0)
    fusion = fusions.build("similarity", list("abc"), D, heads=4).eval()
    mask = patterns(3, least=0)
    tokens = Tokens(torch.randn(8, 3, D), mask, {v: slice(i, i + 1) for i, v in enumerate("abc")})
    row = fusion(tokens).row
    for r in range(8):
        x = [F.layer_norm(tokens.x[r, v], (D,)) if mask[r, v] else torch.zeros(D) for v in range(3)]
        z = [fusion.maps[v](x[v]) for v in range(3)]
        cosines = []
        for u, v in ((0, 1), (0, 2), (1, 2)):
            for h in range(4):
                at = slice(h * 4, h * 4 + 4)
                both = mask[r, u] and mask[r, v]
                cosines.append(float(z[u][at] @ z[v][at] / (z[u][at].norm() * z[v][at].norm())) if both else 0.0)
        expected = fusion.out(torch.cat([*x, mask[r].float()])) + fusion.told.weight @ torch.tensor(cosines)
        torch.testing.assert_close(row[r], expected, rtol=0, atol=1e-4)


def test_similarity_of_one_view_is_a_perceptron():
    torch.manual_seed(0)
    fusion = fusions.build("similarity", ["a"], D).eval()
    x = torch.randn(4, 1, D)
    found = fusion(Tokens(x, torch.ones(4, 1, dtype=torch.bool), {"a": slice(0, 1)})).row
    torch.testing.assert_close(found, fusion.out(torch.cat([F.layer_norm(x[:, 0], (D,)), torch.ones(4, 1)], 1)))
    assert len(fusion.maps) == 0 and fusion.told is None


def matched(name: str, seed: int, rows: int = 300, width: int = 64, steps: int = 300) -> float:
    """Accuracy at telling whether two views carry the same code, each under a linear map of its own and much noise."""
    g, size = torch.Generator().manual_seed(seed), rows + 1000
    code, other = torch.randn(2, size, 16, generator=g)
    y = torch.randint(2, (size,), generator=g)
    maps = torch.randn(2, 16, width, generator=g) / 4
    x = torch.stack([code @ maps[0], torch.where(y.view(-1, 1) == 1, code, other) @ maps[1]], 1)
    x = x + torch.randn(x.shape, generator=g)
    tokens = Tokens(x, torch.ones(size, 2, dtype=torch.bool), {"a": slice(0, 1), "b": slice(1, 2)})
    torch.manual_seed(seed)
    fusion, head = fusions.build(name, ["a", "b"], width), torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW([*fusion.parameters(), *head.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        at = torch.randint(rows, (64,), generator=g)
        loss = F.cross_entropy(head(fusion(Tokens(x[at], tokens.mask[at], tokens.spans)).row), y[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        answer = head(fusion.eval()(Tokens(x[rows:], tokens.mask[rows:], tokens.spans)).row).argmax(1)
    return float((answer == y[rows:]).float().mean())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_similarity_learns_from_few_rows_that_two_views_agree(seed):
    found = matched("similarity", seed)
    assert found > matched("concat", seed) + 0.08
    assert all(found > matched(name, seed) + 0.04 for name in ("multiply", "bilinear"))
