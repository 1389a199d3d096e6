"""Views that are missing in training, and views that learn at different speeds."""

import math
import sys

import numpy as np
import pytest
import torch

import polyfuse as pf
from polyfuse.core import RecipeError, codecs
from polyfuse.data import Dataset
from polyfuse.data.store import Prepared
from polyfuse.evaluate import knowledge, told
from polyfuse.learners import TrainOptions, shown, some, train
from polyfuse.learners.modality import blend_weights, coefficients, make_balance
from polyfuse.model import Model, views_of

from .conftest import write_csv

pf.Bundle  # noqa: B018  fills the registries


def planted(n=400, seed=0, here=None, signal=(2.0, 1.0, 0.0), objectives=None, hard=""):
    """Three vector views a, b, c whose first number tells the class with this much signal; `here` [n, 3] bool is what is present.

    Of the view `hard` the sign of the product of two numbers tells it in nine of ten rows.
    """
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.5
    names, here = "abc"[: len(signal)], np.ones((n, len(signal)), bool) if here is None else here
    schema = pf.Schema((*(pf.Column(v, "vector") for v in names), pf.Column("y", "category", "target")))
    made = {c.name: codecs.build(c.modality, c.name) for c in schema.columns}
    made["y"].fit(iter(np.where(label, "yes", "no").tolist()))
    prepared = {}
    for v, name in enumerate(names):
        x = rng.normal(size=(n, 6))
        x[:, 0] += np.where(label, signal[v], -signal[v])
        if name == hard:
            told = np.where(label, 1, -1) * np.where(rng.random(n) < 0.1, -1, 1)
            x[:, 1] = np.abs(x[:, 1]) * np.sign(x[:, 0]) * told
        codec = made[name]
        codec.fit(iter([codec.read(row.tolist()) for row in x]))
        cleaned = [codec.clean(codec.read(row.tolist())) for row in x]
        prepared[name] = Prepared(np.where(here[:, v], np.arange(n), -1), {k: np.stack([c[k] for c in cleaned]) for k in cleaned[0]}, None)
    target = Prepared(np.arange(n), {"index": np.stack([made["y"].clean(v)["index"] for v in np.where(label, "yes", "no")])}, None)
    views = views_of(schema, made)
    torch.manual_seed(seed)
    parts = {name: {"encoder": "vector-mlp"} for name in names} | {"y": {"task": "binary"}}
    data = Dataset(prepared, {"y": target}, views, n)
    return data, Model(views, {"y": made["y"]}, 32, {"name": "concat"}, parts, objectives)


def go(data, model, held=100, **options):
    settings = {"epochs": 4, "batch": 32} | options.pop("train", {})
    rows = np.arange(data.size)
    return train(model, data, rows[:-held], rows[-held:], TrainOptions(**settings), device="cpu", **options)


HEADS = {"heads": {"weight": 1.0}}


# -- dropout that knows the table ---------------------------------------------------------------------------------


def test_rates_make_up_what_the_table_does_not_lack_already():
    n, rows, held = 1000, np.arange(800), np.arange(800, 1000)
    here = np.ones((n, 3), bool)
    here[:40, 0] = False  # 5 % of the training rows
    here[:400, 1] = False  # half of them
    here[800:900, 2] = False  # half of the validation rows
    data, _ = planted(n, here=here)
    rates = data.drop_rates(rows, held, 0.1)
    assert rates["a"] == rates["b"] == 0.1, "what the table lacks by itself takes nothing off"
    assert rates["c"] == pytest.approx(0.5), "as often as the validation rows lack it"
    assert data.drop_rates(rows, held, 0.0) == {"a": 0.0, "b": 0.0, "c": 0.0}, "0 is never"
    assert data.drop_rates(rows, held[:0], 0.3)["c"] == pytest.approx(0.3), "no validation rows"


def test_a_complete_table_is_hidden_from_at_the_asked_rate():
    data, _ = planted(200)
    assert data.drop_rates(np.arange(100), np.arange(100, 200), 0.1) == {"a": 0.1, "b": 0.1, "c": 0.1}


def test_a_view_absent_everywhere_in_training_or_validation_has_a_usable_rate():
    here = np.ones((200, 3), bool)
    here[:100, 0], here[100:, 1] = False, False
    data, _ = planted(200, here=here)
    rates = data.drop_rates(np.arange(100), np.arange(100, 200), 0.1)
    assert rates["a"] == 0.0 and rates["b"] == pytest.approx(0.9), "some rows must still show it"


def test_one_view_is_never_hidden():
    data, _ = planted(50, signal=(1.0,))
    assert data.drop_rates(np.arange(40), np.arange(40, 50), 0.5) == {"a": 0.0}


def test_rows_that_have_a_view_lose_it_as_often_as_asked():
    here = np.random.default_rng(1).random((4000, 3)) >= [0.0, 0.2, 0.0]
    data, _ = planted(4000, here=here)
    rows = np.arange(4000)
    batch = data.batch(rows, (0, 0), data.drop_rates(rows, rows[:0], 0.3))
    for v, had in zip("abc", here.T):
        kept = batch.cells[v].present().numpy()
        assert not (kept & ~had).any() and 1 - kept[had].mean() == pytest.approx(0.3, abs=0.04)


# -- patterns of absence ------------------------------------------------------------------------------------------


def present(batch):
    return torch.stack([batch.cells[v].present() for v in "abc"], 1)


def test_patterns_hide_exactly_their_views_at_the_asked_rate():
    data, _ = planted(6000)
    rows = np.arange(6000)
    seen = present(data.batch(rows, (0, 3), 0.0, absent=[["a"], ["b", "c"]], absent_share=0.4))
    kinds = {tuple(row): int(count) for row, count in zip(*(t.tolist() for t in seen.unique(dim=0, return_counts=True)))}
    assert set(kinds) == {(True, True, True), (False, True, True), (True, False, False)}
    assert kinds[True, True, True] / 6000 == pytest.approx(0.6, abs=0.03)
    assert kinds[False, True, True] / 6000 == pytest.approx(0.2, abs=0.03)
    again = present(data.batch(rows[2000:2100], (0, 3), 0.0, absent=[["a"], ["b", "c"]], absent_share=0.4))
    assert again.equal(seen[2000:2100]), "the draws belong to the rows, not to the batch"
    other = present(data.batch(rows, (0, 4), 0.0, absent=[["a"], ["b", "c"]], absent_share=0.4))
    assert not other.equal(seen), "each epoch has its own"


def test_a_row_that_would_have_nothing_left_keeps_what_it_has():
    here = np.ones((100, 3), bool)
    here[:50, 1:] = False
    data, _ = planted(100, here=here)
    seen = present(data.batch(np.arange(100), (0, 0), 0.0, absent=[["a"]], absent_share=1.0))
    assert seen[:50, 0].all() and not seen[50:, 0].any() and seen[50:, 1:].all()


def test_rows_under_a_pattern_are_spared_by_dropout():
    data, _ = planted(2000)
    seen = present(data.batch(np.arange(2000), (0, 0), 0.5, absent=[["a"]], absent_share=1.0))
    assert not seen[:, 0].any() and seen[:, 1:].all()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("phota", "did you mean 'photo'"), ("photo+sounds", "did you mean 'sound'"), ("photo+sound+table", "hides every view")],
)
def test_wrong_patterns_are_refused(mixed, pattern, message):
    table = mixed(20)
    with pytest.raises(RecipeError, match=message):
        pf.fit(table, "label", ignore=["degrees", "note", "trace"], absent=[pattern])


def test_patterns_are_in_the_recipe_and_rates_in_the_card(mixed):
    bundle = pf.fit(
        mixed(40), "label", ignore=["degrees", "note", "trace"], absent=["photo", "photo+sound"], size="s", set=["train.epochs=1"]
    )
    assert bundle.recipe["absent"] == [["photo"], ["photo", "sound"]]
    assert set(bundle.card["data"]["dropped"]) == {"photo", "sound", "table"}
    assert "alone" in bundle.card["history"][0]


# -- balance ------------------------------------------------------------------------------------------------------


def test_modulation_coefficients_are_the_papers():
    scores, alpha = [0.9, 0.5, 0.2], 0.3
    expected = []
    for v in range(3):
        others = [scores[w] for w in range(3) if w != v]
        ratio = scores[v] / (sum(others) / len(others))
        expected.append(1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0)
    assert coefficients(scores, alpha) == pytest.approx(expected)
    assert coefficients([0.9, math.nan, 0.3], alpha)[1:] == [1.0, 1.0], "a view nowhere in the batch"
    assert coefficients([0.9, math.nan], alpha) == [1.0, 1.0], "nothing to compare with"


def test_blend_weights_by_hand():
    before = {"a": [1.0, 1.1], "b": [0.9, 1.0], "fused": [0.8, 0.9]}
    now = {"a": [0.6, 0.9], "b": [0.7, 0.95], "fused": [0.3, 0.6]}
    gain = {"a": 0.2, "b": 0.05, "fused": 0.3}
    growth = {"a": 0.3 - 0.1, "b": 0.25 - 0.1, "fused": 0.3 - 0.1}
    raw = {n: gain[n] / growth[n] ** 2 for n in gain}
    found = blend_weights(before, now)
    assert found == pytest.approx({n: 3 * r / sum(raw.values()) for n, r in raw.items()})
    assert sum(found.values()) == pytest.approx(3.0)


def test_blend_keeps_every_loss_alive_and_waits_for_a_gain():
    worse = blend_weights({"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"a": [0.5, 0.8], "b": [0.2, 1.4]})
    assert worse["b"] > 0.05 and worse["a"] > 1.8
    assert blend_weights({"a": [1.0, 1.0]}, {"a": [0.5, 1.2]}) == {}
    assert blend_weights({}, {"a": [0.5, 1.2]}) == {}


class _Alone:
    """An accelerator of one process."""

    num_processes, device = 1, "cpu"


def test_modulation_shortens_the_step_of_the_view_that_is_ahead():
    data, model = planted(64, signal=(1.0, 1.0), objectives=HEADS)
    ogm = make_balance("ogm", model, 0, 0.3, {})
    batch = data.batch(np.arange(64))
    outs, losses = model.train()(batch)
    model.loss(outs, losses, batch, {}).backward()
    view = model.objectives["heads"].last["y"]
    view["a"], view["b"] = (torch.zeros(10), torch.arange(10)), (torch.full((5,), math.log(2.0)), torch.arange(5))  # scores 1 and 1/2
    ogm.listen()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    old = {k: p.detach().clone() for k, p in model.named_parameters()}
    with ogm.stepping(7, _Alone()):
        optimizer.step()
    k = 1 - math.tanh(0.3 * 2)
    for name, p in model.named_parameters():
        if p.grad is not None:
            ahead = name.startswith("encoders.0.")
            assert torch.allclose(old[name] - p, 0.1 * (k if ahead else 1.0) * p.grad, atol=1e-6), name
            assert ahead or p.grad.equal(given[name]), "noise goes to the view that is held back only"
    encoder = {n: p for n, p in model.named_parameters() if n.startswith("encoders.0.") and p.ndim > 1}
    noise = torch.cat([(p.grad - given[n]).flatten() / given[n].std() for n, p in encoder.items()])
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("balance", ["ogm", "blend"])
def test_balanced_runs_resume_bit_for_bit(tmp_path, balance):
    settings = {"epochs": 4, "checkpoint_s": 0, "balance": balance, "batch": 100}
    data, whole = planted(objectives=HEADS)
    go(data, whole, train=settings)

    class Stop(Exception):
        pass

    def stop(entry):
        if entry["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        go(*planted(objectives=HEADS), folder=tmp_path, train=settings, log=stop)
    data, model = planted(objectives=HEADS)
    go(data, model, folder=tmp_path, resume=True, train=settings)
    assert all(v.equal(whole.state_dict()[k]) for k, v in model.state_dict().items())
    _, plain = planted(objectives=HEADS)
    go(data, plain, train=settings | {"balance": "none"})
    assert any(not v.equal(whole.state_dict()[k]) for k, v in plain.state_dict().items()), "balancing changes something"


def test_patterns_resume_bit_for_bit(tmp_path):
    data, whole = planted()
    go(data, whole, absent=[["a"]])

    class Stop(Exception):
        pass

    def stop(entry):
        if entry["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        go(*planted(), folder=tmp_path, train={"checkpoint_s": 0}, absent=[["a"]], log=stop)
    data, model = planted()
    go(data, model, folder=tmp_path, resume=True, train={"checkpoint_s": 0}, absent=[["a"]])
    assert all(v.equal(whole.state_dict()[k]) for k, v in model.state_dict().items())


def test_balance_switches_the_heads_on(mixed):
    bundle = pf.fit(mixed(30), "label", ignore=["degrees", "note", "trace"], size="s", set=["train.epochs=1", "train.balance=ogm"])
    assert bundle.recipe["objectives"]["heads"]["weight"] == 1.0


@pytest.mark.parametrize("option", [{"balance": "omg"}, {"absent_share": 1.5}, {"drop": 1.5}, {"balance_alpha": -1}])
def test_wrong_options_are_refused(option):
    with pytest.raises(RecipeError, match=f"train.{next(iter(option))}"):
        TrainOptions(**option)


# -- what each view knows -----------------------------------------------------------------------------------------


def test_shown_is_the_same_as_never_having_had():
    data, model = planted(60)
    outs, _ = shown(model, data, np.arange(60), {"only b": ["b"], "all": ["a", "b", "c"]}, "y")
    here = np.zeros((60, 3), bool)
    here[:, 1] = True
    lone, _ = planted(60, here=here)
    with torch.no_grad():
        assert torch.allclose(outs["only b"], model.eval()(lone.batch(np.arange(60)))[0]["y"], atol=1e-6)
        assert torch.allclose(outs["all"], model(data.batch(np.arange(60)))[0]["y"], atol=1e-6)


def test_some_rows_are_spread_and_the_same_every_time():
    rows = some(np.arange(10, 5010), 100)
    assert len(rows) == 100 and rows[0] == 10 and rows[-1] == 5009 and (np.diff(rows) > 40).all()


def starving(signal, seed=0, drop=0.1, **train_options):
    data, model = planted(900, signal=signal, seed=seed)
    done = go(data, model, held=300, train={"epochs": 8, "drop": drop} | train_options)
    return knowledge(model, data, np.arange(600), np.arange(600, 900), "y"), done


@pytest.mark.parametrize("seed", range(3))
def test_no_warning_where_views_are_balanced(seed):
    found, done = starving((0.8, 0.8), seed)
    assert found["starved"] == [] and told(found) == []
    assert set(found["views"]) == {"a", "b"} and found["naive"] == pytest.approx(0.5)
    assert set(done.history[-1]["alone"]) == {"a", "b"}


@pytest.mark.parametrize("seed", range(2))
def test_a_view_of_noise_may_know_nothing(seed):
    found, _ = starving((2.0, 0.0), seed)
    assert [s["verdict"] for s in found["starved"]] in (["unclear"], [])
    for line in told(found):
        assert "Either it knows nothing or 'a' starves it" in line


def test_a_view_whose_tokens_know_more_than_the_answer_uses_is_starved():
    """The answer's weights for the tokens of `b` are taken away: what its tokens know no longer reaches the answer."""
    data, model = planted(900, signal=(2.5, 1.0))
    go(data, model, held=300, train={"epochs": 8})
    model.fusion.forward = (lambda whole: lambda tokens: whole(tokens.hide({"b": torch.ones(len(tokens.x), dtype=torch.bool)})))(
        model.fusion.forward
    )
    found = knowledge(model, data, np.arange(600), np.arange(600, 900), "y")
    assert [(s["view"], s["by"], s["verdict"]) for s in found["starved"]] == [("b", "a", "starved")]
    assert "'a' starves it" in told(found)[0] and "train.balance=ogm" in told(found)[0]


@pytest.mark.slow
def test_a_view_that_learns_slowly_is_starved_and_modulation_feeds_it():
    reached = {"none": [], "ogm": []}
    for seed in range(3):
        for balance, figures in reached.items():
            data, model = planted(1200, seed, signal=(2.5, 0.0), hard="b", objectives=HEADS if balance == "ogm" else None)
            go(data, model, held=400, train={"epochs": 12, "drop": 0.0, "balance": balance}, seed=seed)
            found = knowledge(model, data, np.arange(800), np.arange(800, 1200), "y")
            figures.append(found["views"]["b"]["value"])
            if balance == "none":
                assert [(s["view"], s["by"]) for s in found["starved"]] == [("b", "a")]
    assert np.mean(reached["ogm"]) > np.mean(reached["none"]) + 0.05


def test_one_view_or_no_held_out_rows_tell_nothing():
    data, model = planted(60, signal=(1.0,))
    assert knowledge(model, data, np.arange(40), np.arange(40, 60), "y") == {}
    data, model = planted(60)
    assert knowledge(model, data, np.arange(60), np.arange(0), "y") == {}


def test_the_picture_and_info(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(80):
        hot = rng.random() < 0.5
        word = "sunny" if hot else "rainy"
        rows.append({"天气": f"{word} day", "_b$": round(float(rng.normal(2 if hot else -2)), 3), "y": "hot" if hot else "cold"})
    table = write_csv(tmp_path / "t.csv", rows)
    from polyfuse import cli

    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr("sys.argv", ["polyfuse", *args])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
        return 0

    fit = ["fit", str(table), "--target", "y", "--out", "b", "--size", "s", "--set", "train.epochs=3", "--column", "天气=text"]
    assert call(*fit, "--absent", "天气", "--set", "train.balance=blend") == 0
    assert call("info", "b", "--plot", "learning.png") == 0
    assert "'天气' alone: roc_auc" in capsys.readouterr().out
    assert (tmp_path / "learning.png").read_bytes()[:4] == b"\x89PNG"
    assert call(*fit, "--overwrite", "--absent", "table+天气") == 2
    assert "hides every view" in capsys.readouterr().err
    assert call("info", "b", "--plot", "nowhere/learning.png") == 2
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call(*fit, "--overwrite") == 0 and call("info", "b") == 0, "neither draws"
    capsys.readouterr()
    assert call("info", "b", "--plot", "absent.png") == 2 and not (tmp_path / "absent.png").exists()
    assert 'needs matplotlib, which is not installed. Fix: pip install "polyfuse[plot]"' in capsys.readouterr().err


def test_balance_has_nothing_to_do_at_decision_level():
    rows = [{"a": [i / 9.0, 1.0], "x": i, "y": "no" if i % 2 else "yes"} for i in range(30)]
    with pytest.raises(pf.RecipeError, match="train.balance.*decision-mean.*own loss already"):
        pf.fit(rows, "y", fusion="decision-mean", columns={"a": "vector"}, set={"train.balance": "ogm"})
