"""The training loop on tensors: schedules, dropout of views, checkpoints, budgets."""

import math

import numpy as np
import pytest
import torch

import polyfuse as pf
from polyfuse.core import Cells, Draws, RecipeError, codecs
from polyfuse.data import Dataset, orders
from polyfuse.data.store import Prepared, PreparedTable
from polyfuse.learners import TrainOptions, net, train
from polyfuse.learners.net import _schedule, outputs
from polyfuse.model import Model, views_of

pf.Bundle  # noqa: B018  fills the registries


def planted(n=200, seed=0, missing=0.2):
    """A table view and a vector view; the class is the sign of the sum of one number of each."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.normal(size=(n, 4))
    label = np.where(a + b[:, 0] > 0, "yes", "no")
    schema = pf.Schema((pf.Column("a", "number"), pf.Column("b", "vector"), pf.Column("y", "category", "target")))
    made = {c.name: codecs.build(c.modality, c.name) for c in schema.columns}
    made["a"].fit(iter(a.tolist())), made["b"].fit(iter([made["b"].read(v.tolist()) for v in b])), made["y"].fit(iter(label.tolist()))
    views = views_of(schema, made)
    table = views["table"].empty(n)
    here = rng.random(n) >= missing
    table["value"][here] = np.stack([made["a"].clean(v)["value"] for v in a])[here]
    table["present"][here] = True
    vectors = [made["b"].clean(made["b"].read(v.tolist())) for v in b]
    index = np.where(rng.random(n) >= missing, np.arange(n), -1)
    data = Dataset(
        {"table": PreparedTable(table), "b": Prepared(index, {k: np.stack([v[k] for v in vectors]) for k in vectors[0]}, None)},
        {"y": Prepared(np.arange(n), {"index": np.stack([made["y"].clean(v)["index"] for v in label])}, None)},
        views,
        n,
    )
    torch.manual_seed(0)
    parts = {"table": {"encoder": "table-mlp"}, "b": {"encoder": "vector-mlp"}, "y": {"task": "binary"}}
    return data, Model(views, {"y": made["y"]}, 32, {"name": "concat"}, parts)


def go(data, model, **options):
    settings = {"epochs": 6, "batch": 16} | options.pop("train", {})
    return train(model, data, np.arange(160), np.arange(160, 200), TrainOptions(**settings), device="cpu", **options)


def test_the_last_weights_are_kept_where_that_is_asked_for(monkeypatch):
    found = {}
    for keep, better in (("best", -1), ("best", 1), ("last", -1)):
        scores = iter(range(0, 99 * better, better))
        monkeypatch.setattr(net, "validate", lambda *a, scores=scores: {"score": next(scores), "held_loss": 1.0})
        data, model = planted()
        done = go(data, model, train={"keep": keep})
        found[keep, better] = done.best_epoch, model.state_dict()
    assert [epoch for epoch, _ in found.values()] == [0, 5, 5]
    first, last, asked = (weights for _, weights in found.values())
    assert all(v.equal(last[k]) for k, v in asked.items()) and not all(v.equal(first[k]) for k, v in asked.items())


def test_it_learns_and_keeps_the_best_epoch():
    data, model = planted(missing=0.0)
    done = go(data, model, train={"epochs": 25})
    outs, truth = outputs(model, data, np.arange(160, 200))
    assert (outs["y"].argmax(-1) == truth["y"].x["index"][:, 0] - 1).float().mean() > 0.85
    assert done.history[done.best_epoch]["score"] == max(e["score"] for e in done.history)


def test_interrupted_midway_and_resumed_is_the_same_as_never_interrupted(tmp_path):
    whole = planted()
    go(*whole)

    class Stop(Exception):
        pass

    def stop(entry):
        if entry["epoch"] == 2:
            raise Stop

    data, model = planted()
    with pytest.raises(Stop):
        go(data, model, folder=tmp_path, train={"checkpoint_s": 0}, log=stop)
    data, model = planted()
    done = go(data, model, folder=tmp_path, resume=True, train={"checkpoint_s": 0})
    assert all(v.equal(whole[1].state_dict()[k]) for k, v in model.state_dict().items())
    assert len(done.history) == 6


def test_a_torn_checkpoint_starts_anew(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a file")
    data, model = planted()
    assert len(go(data, model, folder=tmp_path, resume=True).history) == 6


def test_accumulated_batches_are_one_batch():
    """Two halves with accumulation give the gradient of the whole (dropout off: the draws belong to the rows)."""
    weights = []
    for pieces in (1, 2):
        data, model = planted(missing=0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        go(data, model, train={"epochs": 1, "accumulate": pieces, "drop": 0.0, "clip": 0.0})
        weights.append(model.state_dict())
    assert all(torch.allclose(v, weights[1][k], atol=1e-4) for k, v in weights[0].items())


def test_bf16_trains():
    data, model = planted()
    done = go(data, model, train={"precision": "bf16", "epochs": 2})
    assert all(math.isfinite(e["loss"]) for e in done.history)


def test_patience_stops_early():
    data, model = planted()
    assert len(go(data, model, train={"epochs": 200, "patience": 3, "rate": 0.0}).history) <= 5


def test_the_rate_rises_then_falls_to_zero():
    rates = [_schedule(s, 100, 0.1) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0
    assert all(a >= b for a, b in zip(rates[9:], rates[10:])) and rates[-1] < 0.01


def test_each_epoch_visits_every_row_once_in_an_order_of_its_own():
    rows = np.arange(10, 33)
    first, again, second = (np.concatenate(list(orders(rows, 8, 1, e))) for e in (0, 0, 1))
    assert sorted(first) == rows.tolist() and (first == again).all() and (first != second).any()


def test_modality_dropout_hides_at_the_asked_rate_and_never_all():
    data, _ = planted(n=2000, missing=0.0)
    batch = data.batch(np.arange(2000), (0, 0), 0.5)
    present = torch.stack([batch.cells[v].present() for v in ("table", "b")], 1)
    assert present.any(1).all()
    assert 0.45 < (~present).float().mean() * 2 < 0.8
    again = data.batch(np.arange(500, 600), (0, 0), 0.5)
    assert again.cells["b"].present().equal(batch.cells["b"].present()[500:600]), "the draws belong to the rows, not to the batch"


def test_hiding_is_the_same_as_never_having_had():
    data, model = planted(missing=0.0)
    rows = np.arange(20)
    batch = data.batch(rows)
    hidden = data.batch(rows)
    hidden.cells["b"] = hidden.cells["b"].keep(torch.zeros(20, dtype=torch.bool))
    never = data.batch(rows)
    never.cells["b"] = Cells({}, torch.zeros(0, dtype=torch.long), 20)
    with torch.no_grad():
        a, b, c = (model.eval()(x)[0]["y"] for x in (hidden, never, batch))
    assert torch.allclose(a, b, atol=1e-6) and not torch.allclose(a, c)


@pytest.mark.parametrize("option", [{"epochs": -1}, {"rate": math.nan}, {"drop": "often"}, {"precision": "fp8"}])
def test_wrong_training_options_are_refused(option):
    with pytest.raises(RecipeError, match=f"train.{next(iter(option))}"):
        TrainOptions(**option)


def test_draws_are_uniform_and_normal():
    draws = Draws(3, 1, "p", np.arange(20000))
    u, z = draws.uniform(3), draws.normal(2)
    assert abs(float(u.mean()) - 0.5) < 0.01 and abs(float(u.std()) - 12**-0.5) < 0.01
    assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.02
    assert abs(float(torch.corrcoef(u.T)[0, 1])) < 0.03
