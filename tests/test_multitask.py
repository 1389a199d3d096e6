"""Several targets in one fit: how their losses are balanced, what a missing label costs, which of them chooses the checkpoint."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import polyfuse as pf
from polyfuse.card import summary
from polyfuse.core import Batch, Cells, Tokens
from polyfuse.learners import Interrupted, TrainOptions, checkpoint
from polyfuse.learners.balance import PULL, TargetBalance, balance_targets
from polyfuse.learners.net import _optimizer
from polyfuse.tasks.numbers import Regression

QUICK = {"size": "s", "columns": {"a": "vector"}}


class Trunk(nn.Module):
    """Stands for the fusion: its output is what the heads read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(3, 4)

    def forward(self, x):
        row = self.map(x).unsqueeze(1)
        return Tokens(row, torch.ones(len(x), 1, dtype=torch.bool), {"row": slice(0, 1)})


def losses_of(trunk, scales=(1.0, 3.0, 0.5), x=None):
    """{name: loss} of heads with fixed weights, `scales` as large."""
    row = trunk(torch.arange(15.0).view(5, 3) / 15 if x is None else x).row
    heads = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    return {n: s * ((row @ h - 1.0) ** 2).mean() for n, s, h in zip("abc", scales, heads)}


# -- formulas ---------------------------------------------------------------------------------------------------


def test_uncertainty_is_its_formula_and_so_are_its_gradients():
    trunk = Trunk()
    balance = TargetBalance(list("abc"), "uncertainty", trunk)
    with torch.no_grad():
        losses = losses_of(trunk)
        balance(losses)
        for log, first in zip(balance.logs, losses.values()):  # the start is where the rule would come to rest
            assert float(log) == pytest.approx(math.log(2 * float(first)), abs=1e-5)
        for log, s in zip(balance.logs, (0.3, -1.0, 2.0)):
            log.fill_(s)
    losses = losses_of(trunk)
    weighed = balance(losses)
    for (name, loss), s in zip(losses.items(), (0.3, -1.0, 2.0)):
        assert float(weighed[name].detach()) == pytest.approx(math.exp(-s) * float(loss.detach()) + s / 2, abs=1e-5)
    plain = {n: torch.autograd.grad(loss, trunk.map.weight, retain_graph=True)[0] for n, loss in losses.items()}
    sum(weighed.values()).backward()
    expected = sum(math.exp(-s) * plain[n] for n, s in zip("abc", (0.3, -1.0, 2.0)))
    assert torch.allclose(trunk.map.weight.grad, expected, atol=1e-5)
    for log, loss, s in zip(balance.logs, losses.values(), (0.3, -1.0, 2.0)):
        assert float(log.grad) == pytest.approx(0.5 - math.exp(-s) * float(loss.detach()), abs=1e-5)


def test_a_target_that_is_learned_to_the_last_is_not_weighed_without_bound():
    balance = TargetBalance(list("ab"), "uncertainty", Trunk())
    optimizer = torch.optim.AdamW(balance.parameters(), 0.1, weight_decay=0.0)
    loss = torch.tensor(2.0)
    balance({"a": loss, "b": loss})
    for _ in range(200):
        optimizer.zero_grad()
        sum(balance({"a": loss * 1e-9, "b": loss * 0.1}).values()).backward()
        optimizer.step()
    assert float(balance.logs[0].detach()) == pytest.approx(math.log(2 * 0.01 * 2.0), abs=0.05)
    assert float(balance.logs[1].detach()) == pytest.approx(math.log(2 * 0.1 * 2.0), abs=0.05)


def plain_gradnorm(trunk, weights, now, first):
    """Eq. 1-2 of Chen et al. with plain loops: the loss of the weights, the aims held where the weights are."""
    norms = []
    for loss in now.values():
        g = torch.autograd.grad(loss, trunk.seen, retain_graph=True)[0]
        norms.append(math.sqrt(sum(float(v) ** 2 for v in g.flatten())))
    pace = [float(now[n].detach()) / float(first[n]) for n in now]
    mean_pace = sum(pace) / len(pace)
    mean_norm = sum(w * g for w, g in zip(weights, norms)) / len(norms)
    aims = [mean_norm * (p / mean_pace) ** PULL for p in pace]
    return norms, aims, lambda ws: sum(abs(w * g - aim) for w, g, aim in zip(ws, norms, aims))


def test_gradnorm_is_its_formula_and_so_are_its_gradients():
    trunk = Trunk()
    balance = TargetBalance(list("abc"), "gradnorm", trunk)
    trunk.register_forward_hook(lambda module, inputs, out: setattr(trunk, "seen", out.x))
    first = {n: float(v.detach()) for n, v in losses_of(trunk).items()}
    balance(losses_of(trunk))
    with torch.no_grad():
        for log, w in zip(balance.logs, (0.2, -0.4, 0.1)):
            log.fill_(w)
        trunk.map.weight.mul_(0.7)  # the targets have come on by different shares
    now = losses_of(trunk)
    total = sum(math.exp(w) for w in (0.2, -0.4, 0.1))
    weights = [3 * math.exp(w) / total for w in (0.2, -0.4, 0.1)]
    _, _, loss = plain_gradnorm(trunk, weights, now, first)
    weighed = balance(now)
    for (name, value), w in zip(now.items(), weights):
        assert float(weighed[name].detach()) == pytest.approx(w * float(value.detach()), abs=1e-5)
    sum(weighed.values()).backward()
    for i, log in enumerate(balance.logs):  # the slope along log w_i, by a small step
        step = 1e-4
        moved = [w * math.exp(step * (k == i)) for k, w in enumerate(weights)]
        assert float(log.grad) == pytest.approx((loss(moved) - loss(weights)) / step, rel=1e-3, abs=1e-4)
    balance.close()
    assert len(trunk._forward_hooks) == 1, "of the two only the test's own listens on"


def test_gradnorm_brings_the_norms_of_targets_that_learn_alike_together():
    trunk = Trunk()
    balance = TargetBalance(list("ab"), "gradnorm", trunk)
    trunk.register_forward_hook(lambda module, inputs, out: setattr(trunk, "seen", out.x))
    optimizer = torch.optim.AdamW(balance.parameters(), 0.05, weight_decay=0.0)
    for _ in range(150):
        losses = {n: v for n, v in losses_of(trunk, (1.0, 50.0)).items()}
        optimizer.zero_grad()
        sum(balance(losses).values()).backward()
        optimizer.step()
    weighed = balance(losses_of(trunk, (1.0, 50.0)))
    norms = [float(torch.autograd.grad(v, trunk.seen, retain_graph=True)[0].norm()) for v in weighed.values()]
    assert 0.8 < norms[0] / norms[1] < 1.25
    logs = torch.stack([p.detach() for p in balance.logs])
    assert float((logs.softmax(0) * 2).sum()) == pytest.approx(2.0)


@pytest.mark.parametrize("how", ["uncertainty", "gradnorm"])
def test_a_target_without_labels_keeps_its_weight_whatever_the_optimizer_remembers(how):
    trunk = Trunk()
    balance = TargetBalance(list("abc"), how, trunk)
    optimizer = torch.optim.AdamW(balance.parameters(), 0.1, weight_decay=0.0)

    def step(absent):
        with torch.no_grad():
            trunk.map.weight.mul_(0.8)  # the losses do not stay as they are
        losses = losses_of(trunk)
        losses |= {n: losses[n] * 0.0 for n in absent}
        optimizer.zero_grad()
        sum(balance(losses).values()).backward()
        optimizer.step()
        return [float(p.detach()) for p in balance.logs]

    step("")
    before = step("")
    after = step("b")
    assert after[1] == before[1] and after[0] != before[0] and after[2] != before[2]
    assert step("abc") == after
    assert step("bc")[1:] == after[1:]
    assert step("") != after


@pytest.mark.parametrize("how", ["uncertainty", "gradnorm"])
def test_a_target_that_is_first_seen_late_starts_then(how):
    trunk = Trunk()
    balance = TargetBalance(list("ab"), how, trunk)
    losses = losses_of(trunk)
    balance({"a": losses["a"], "b": losses["b"] * 0.0})
    assert balance.first[0] > 0 and balance.first[1] == 0
    balance({"a": losses["a"] * 2, "b": losses["b"]})
    assert float(balance.first[0]) == pytest.approx(float(losses["a"].detach()))
    assert float(balance.first[1]) == pytest.approx(float(losses["b"].detach()))


def test_a_loss_below_zero_is_weighed_but_moves_no_weight():
    trunk = Trunk()
    balance = TargetBalance(list("ab"), "uncertainty", trunk)
    losses = losses_of(trunk)
    balance({n: losses[n] for n in "ab"})
    sum(balance({"a": losses["a"], "b": -losses["b"]}).values()).backward()
    assert balance.logs[1].grad is None and balance.logs[0].grad is not None


def test_several_processes_share_the_mean_gradient_and_none_where_no_process_has_one():
    trunk = Trunk()
    other = torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]])  # gradients and whether there is one, in the other process
    balance = TargetBalance(list("abc"), "uncertainty", trunk, lambda x: (x + other) / 2 if x.shape == other.shape else x)
    losses = losses_of(trunk)
    losses["c"] = losses["c"] * 0.0
    losses["a"] = losses["a"] * 0.0
    balance(losses)
    sum(balance({n: v * 2 for n, v in losses.items()}).values()).backward()
    own = float(balance.logs[1].grad)
    balance.share()
    assert float(balance.logs[0].grad) == 0.25 and float(balance.logs[1].grad) == pytest.approx(own / 2) and balance.logs[2].grad is None


# -- through fit ------------------------------------------------------------------------------------------------


def table(n=60, seed=0, scale=1000.0, noise=0.1):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        a = rng.normal(size=4)
        row = {"a": a.round(3).tolist(), "n": float(rng.normal())}
        out.append(row | {"kind": ["no", "yes"][int(a[0] > 0)], "size": float(scale * (a[1] + noise * rng.normal()))})
    return out


def ran(rows, targets=("kind", "size"), **options):
    settings = {"train.epochs": 2} | options.pop("set", {})
    return pf.fit(rows, list(targets), set=settings, **QUICK, **options)


def same(one, two):
    return all(torch.equal(v, two.model.state_dict()[k]) for k, v in one.model.state_dict().items())


@pytest.mark.parametrize("how", ["uncertainty", "gradnorm", "none"])
def test_every_balance_trains_and_the_same_seed_gives_the_same(how):
    rows = table()
    one, two = (ran(rows, set={"train.targets": how}) for _ in range(2))
    assert same(one, two) and one.recipe["train"]["targets"] == how
    assert not one.model.fusion._forward_hooks, "nothing listens to the fusion once training has ended"


def test_the_balances_differ_from_each_other():
    rows = table()
    found = [ran(rows, set={"train.targets": how}) for how in ("uncertainty", "gradnorm", "none")]
    assert not same(found[0], found[1]) and not same(found[0], found[2]) and not same(found[1], found[2])


def test_one_target_has_nothing_to_balance():
    rows = table()
    found = [ran(rows, ["kind"], ignore=["size"], set={"train.targets": how}) for how in ("uncertainty", "gradnorm", "none")]
    assert same(found[0], found[1]) and same(found[0], found[2])


@pytest.mark.parametrize("how", ["uncertainty", "gradnorm"])
def test_at_decision_level_too(how):
    bundle = ran(table(), fusion="decision-mean", set={"train.targets": how})
    assert all(math.isfinite(e["loss"]) for e in bundle.card["history"])


SCRIPT = """
import sys
import polyfuse as pf
rows = [{"a": i / 10, "text": f"word{i % 7}", "y": "ab"[i % 2], "z": float(i % 5)} for i in range(64)]
still = {f"{part}.dropout": 0.0 for part in ("text", "table", "fusion", "y", "z")}  # its draws depend on the batch's shape
options = {"train.epochs": 2, "train.batch": 16, "train.drop": 0.0} | still
pf.fit(rows, ["y", "z"], out=sys.argv[1], size="s", device="cpu", columns={"text": "text"}, set=options, threads=1)
"""


@pytest.mark.slow
def test_two_processes_balance_as_one_does(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, command in (("one", [sys.executable]), ("two", launch)):
        done = subprocess.run([*command, str(tmp_path / "script.py"), str(tmp_path / name)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert max((one[k].float() - two[k].float()).abs().max().item() for k in one) < 1e-5


def test_weight_decay_leaves_the_balance_alone():
    model = ran(table(20)).model

    class OneProcess:
        device = "cpu"

    targets = balance_targets(model, "uncertainty", OneProcess())
    optimizer = _optimizer(model, TrainOptions(decay=0.5), targets)
    mine = {id(p) for p in targets.parameters()}
    groups = [g for g in optimizer.param_groups if mine & {id(p) for p in g["params"]}]
    assert len(groups) == 1 and groups[0]["weight_decay"] == 0.0 and {id(p) for p in groups[0]["params"]} == mine


@pytest.mark.parametrize("how", ["uncertainty", "gradnorm"])
def test_interrupted_and_resumed_is_the_same_as_never_interrupted(tmp_path, how, monkeypatch):
    rows = table()
    options = {"train.targets": how, "train.epochs": 3, "train.batch": 8, "train.checkpoint_s": 0}
    whole = ran(rows, set=options, out=tmp_path / "whole")
    saved, count = checkpoint.save, 0

    def killed(*args):
        nonlocal count
        saved(*args)
        count += 1
        if count == 5:
            raise Interrupted

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises((KeyboardInterrupt, pf.RecipeError)):
        ran(rows, set=options, out=tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "save", saved)
    resumed = ran(rows, set=options, out=tmp_path / "cut", resume=True)
    assert same(whole, resumed)


@pytest.mark.parametrize("how", ["uncertainty", "none"])
def test_a_loss_many_times_larger_drowns_the_other_only_without_balance(how, monkeypatch):
    """The regression's loss is made 1000 times as large; without balance the clipped step is all its own."""
    plain = Regression.loss
    monkeypatch.setattr(Regression, "loss", lambda self, *args: 1000.0 * plain(self, *args))
    rows = table(200, noise=2.0)
    bundle = ran(rows, set={"train.targets": how, "train.epochs": 8, "train.rate": 5e-4}, main="kind")
    found = bundle.evaluate(table(200, seed=1))["metrics"]["kind"]["log_loss"]["value"]
    assert (found < 0.5) == (how == "uncertainty"), found


def test_a_missing_label_changes_nothing_of_the_other_targets_loss():
    bundle = ran(table())
    kind, size = bundle.codecs["kind"], bundle.codecs["size"]
    rows = table(6, seed=3)
    vector = bundle.codecs["a"]
    a = Cells(vector.collate([vector.clean(vector.read(r["a"])) for r in rows]), torch.arange(6), 6)
    kinds = Cells(kind.collate([kind.clean(r["kind"]) for r in rows]), torch.arange(6), 6)
    sizes = Cells(size.collate([size.clean(r["size"]) for r in rows]), torch.arange(6), 6)
    model, parts = bundle.model, []
    for truth in (kinds, kinds.keep(torch.tensor([True, False, True, False, False, True])), Cells({}, torch.zeros(0, dtype=torch.long), 6)):
        cells = {v: a if v == "a" else Cells({}, torch.zeros(0, dtype=torch.long), 6) for v in model.views}
        batch = Batch({**cells, "kind": truth, "size": sizes}, 6)
        outs, losses = model(batch)
        seen = {}
        model.loss(outs, losses, batch, {}, lambda given, seen=seen: seen.update(given) or given)
        parts.append({t: float(v.detach()) for t, v in seen.items()})
    assert parts[0]["size"] == parts[1]["size"] == parts[2]["size"]
    assert parts[2]["kind"] == 0.0 and parts[0]["kind"] != parts[1]["kind"]


def test_labels_missing_here_and_there_and_a_target_absent_from_the_held_out_rows():
    rows = [r | {"kind": r["kind"] if i % 3 else None, "size": r["size"] if i % 2 else None} for i, r in enumerate(table(90))]
    for how in ("uncertainty", "gradnorm"):
        bundle = ran(rows, set={"train.targets": how})
        assert all(math.isfinite(e["loss"]) for e in bundle.card["history"])
    val = [r | {"kind": None} for r in table(20, seed=5)]
    bundle = ran(table(), val=val, main="kind")
    assert [e["score"] for e in bundle.card["history"]] == [-e["size rmse"] for e in bundle.card["history"]]


def test_the_main_target_chooses_the_checkpoint_and_is_named():
    rows = table()
    first, named = ran(rows), ran(rows, main="size")
    assert first.recipe["main"] == "kind" and named.recipe["main"] == "size"
    for bundle, metric, sign in ((first, "kind roc_auc", 1), (named, "size rmse", -1)):
        history = bundle.card["history"]
        assert [e["score"] for e in history] == [sign * e[metric] for e in history]
        assert bundle.card["best_epoch"] == max(history, key=lambda e: (e["score"], -e["held_loss"]))["epoch"]
    assert set(named.card["metrics"]) == {"kind", "size"} and named.card["main"] == "size"
    assert [("(main)" in line) for line in summary(named.card) if line.startswith("held-out rows, '")][:2] == [False, True]
    again = pf.fit(rows, recipe=named.recipe)
    assert same(named, again)


def test_the_first_target_named_is_the_main_one_wherever_it_stands_in_the_table():
    rows = table()
    assert list(rows[0]).index("kind") < list(rows[0]).index("size")
    bundle = pf.fit(rows, ["size", "kind"], size="s", set={"train.epochs": 1})
    assert bundle.recipe["main"] == "size"


def test_a_training_that_diverges_is_an_error_not_a_bundle():
    with pytest.raises(pf.RecipeError, match="diverged.*lower --set train.rate"):
        ran(table(), set={"train.rate": 1e12, "train.epochs": 2, "train.clip": 0, "train.average": 0})


def test_wrong_values_are_told():
    with pytest.raises(pf.RecipeError, match="train.targets.*did you mean 'uncertainty'"):
        ran(table(), set={"train.targets": "uncertanty"})
    with pytest.raises(pf.RecipeError, match="main target 'a'.*one of kind, size"):
        ran(table(), main="a")
