"""Fusion at several depths: the formulas in plain loops, the way of the depths through the model, saved and loaded."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import polyfuse as pf
from polyfuse.core import Fusion, RecipeError, Tokens, fusions, scatter
from polyfuse.core.progress import Progress
from polyfuse.data import Store, read
from polyfuse.ready import Run, make_ready, new_bundle
from polyfuse.recipe import parse_settings, resolve

D = 6
VIEWS = ["photo", "note"]
NAMES = ["hierarchical", "mmtm"]


def level_of(seed: int, each: int) -> Tokens:
    """Three rows: both views, the first only, none; `each` tokens a view, the last of row 0 masked."""
    g = torch.Generator().manual_seed(seed)
    photo = torch.ones(2, each, dtype=torch.bool)
    photo[0, -1] = each == 1
    note = torch.ones(1, each, dtype=torch.bool)
    return scatter(
        {
            "photo": (torch.randn(2, each, D, generator=g), photo, torch.tensor([0, 1])),
            "note": (torch.randn(1, each, D, generator=g), note, torch.tensor([0])),
        },
        3,
    )


def tokens_of(depths: int = 2) -> Tokens:
    return replace(level_of(0, 2), depths=tuple(level_of(1 + i, 3 + i) for i in range(depths)))


def built(name: str, **options) -> Fusion:
    torch.manual_seed(3)
    return fusions.build(name, VIEWS, D, **options).eval()


# -- the formulas in plain loops --------------------------------------------------------------------------------


def linear(layer: torch.nn.Linear, x: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(layer.weight.tolist(), layer.bias.tolist())]


def perceptron(mlp: torch.nn.Module, x: list[float]) -> list[float]:
    hidden = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in linear(mlp[0], x)]
    return linear(mlp[3], hidden)


def normed_mean(tokens: Tokens, view: str, row: int) -> tuple[list[float], float]:
    """The normed mean of the real tokens, and 1 where there are any."""
    x, mask = tokens[view]
    real = [vector for vector, here in zip(x[row].tolist(), mask[row].tolist()) if here]
    if not real:
        return [0.0] * D, 0.0
    mean = [sum(column) / len(real) for column in zip(*real)]
    middle = sum(mean) / D
    spread = math.sqrt(sum((v - middle) ** 2 for v in mean) / D + 1e-5)
    return [(v - middle) / spread for v in mean], 1.0


def hierarchical(fusion: Fusion, levels: list[Tokens], row: int) -> list[float]:
    h: list[float] = []
    for layer, level in zip([fusion.first, *fusion.deeper], levels):
        means = [normed_mean(level, view, row) for view in VIEWS]
        step = perceptron(layer, h + [v for x, _ in means for v in x] + [there for _, there in means])
        h = [a + b for a, b in zip(h, step)] if h else step
    return h


def mmtm(fusion: Fusion, levels: list[Tokens], row: int) -> list[float]:
    scaled: list[list[float]] = []
    for at, level in enumerate(levels):
        joined: list[float] = []
        for v, view in enumerate(VIEWS):
            s, there = normed_mean(level, view, row)
            if at and there:
                s = [a + b for a, b in zip(s, linear(fusion.carry[at - 1][v], scaled[v]))]
            joined += s
        z = [max(0.0, v) for v in linear(fusion.transfers[at].squeeze, joined)]
        e = linear(fusion.transfers[at].excite, z)
        gained = [2 / (1 + math.exp(-g)) * s for g, s in zip(e, joined)]
        scaled = [gained[v * D : (v + 1) * D] for v in range(len(VIEWS))]
    return perceptron(fusion.out, [v for x in scaled for v in x])


@pytest.mark.parametrize(("name", "formula"), [("hierarchical", hierarchical), ("mmtm", mmtm)])
def test_the_row_is_what_the_formula_gives(name, formula):
    tokens, fusion = tokens_of(), built(name)
    expected = [formula(fusion, [*tokens.depths, tokens], row) for row in range(3)]
    torch.testing.assert_close(fusion(tokens).row, torch.tensor(expected), atol=1e-5, rtol=0)


# -- depths in the fusion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_depth_changes_the_answer_of_the_rows_that_have_it_only(name):
    tokens, fusion = tokens_of(), built(name)
    before = fusion(tokens).row
    for at, level in enumerate(tokens.depths):
        other = replace(level, x=(level.x + torch.randn(level.x.shape)).masked_fill(~level.mask.unsqueeze(-1), 0.0))
        after = fusion(replace(tokens, depths=(*tokens.depths[:at], other, *tokens.depths[at + 1 :]))).row
        changed = (after - before).abs().amax(1) > 1e-6
        assert changed.tolist() == [True, True, False]


@pytest.mark.parametrize("name", NAMES)
def test_the_last_tokens_stand_for_depths_that_are_not_there(name):
    tokens, fusion = tokens_of(), built(name)
    bare = replace(tokens, depths=())
    torch.testing.assert_close(fusion(bare).row, fusion(replace(bare, depths=(bare, bare))).row)
    one = replace(tokens, depths=tokens.depths[1:])
    torch.testing.assert_close(fusion(one).row, fusion(replace(tokens, depths=(bare, tokens.depths[1]))).row)
    more = replace(tokens, depths=(level_of(9, 4), *tokens.depths))
    assert torch.equal(fusion(more).row, fusion(tokens).row), "of more depths the deepest count"


@pytest.mark.parametrize("name", NAMES)
def test_a_hidden_view_is_hidden_at_every_depth(name):
    tokens, fusion = tokens_of(), built(name)
    hidden = tokens.hide({"note": torch.tensor([True, False, False])})
    assert not any(level["note"][1].any() or level["note"][0].any() for level in (hidden, *hidden.depths))
    assert all(level["photo"][1][:2].any(1).all() for level in hidden.depths)
    torch.testing.assert_close(fusion(hidden).row[0], fusion(without_note(tokens)).row[0])


def without_note(tokens: Tokens) -> Tokens:
    def without(level: Tokens) -> Tokens:
        nothing = torch.zeros(0, 1, D), torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0, dtype=torch.long)
        return scatter({"photo": (*level["photo"], torch.arange(3)), "note": nothing}, 3)

    return replace(without(tokens), depths=tuple(without(level) for level in tokens.depths))


def test_what_a_fusion_gives_keeps_the_depths():
    tokens = tokens_of()
    fused = tokens.with_row(torch.zeros(3, D))
    assert fused.depths is tokens.depths and "row" not in fused.depths[0].spans


@pytest.mark.parametrize(("name", "options"), [("hierarchical", {"depths": 0}), ("mmtm", {"depths": -1}), ("mmtm", {"ratio": 0})])
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(RecipeError, match=f"fusion '{name}', option '{next(iter(options))}'.*from 1 on"):
        built(name, **options)


# -- depths of real encoders in a model -------------------------------------------------------------------------

SETTINGS = ["photo.encoder=image-cnn", "sound.encoder=audio-cnn", "note.encoder=text-transformer", "table.encoder=table-tokens"]


@pytest.fixture
def made(mixed, tmp_path):
    """made(fusion, *settings): a bundle before its training, on pictures, sounds, text and a table with absent cells, and its data."""
    table = read(mixed(24, missing=0.3))
    schema = pf.look(table, "label", ignore=["degrees", "trace"]).schema

    def make(fusion: str, *settings: str):
        recipe = resolve(schema, fusion=fusion, size="s", seed=0, settings=parse_settings([*SETTINGS, *settings]))
        run = Run(schema, recipe, table, Progress(True), Store(tmp_path / "store"), 1, 0.1, False)
        ready = make_ready(run)
        return new_bundle(ready), ready.data

    return make


def dense_of(data, batch) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The batch with a filler in the place of every absent cell, and which cells are there."""
    dense, present = {}, {}
    for view, codec in data.codecs.items():
        cells, filler = batch.cells[view], codec.collate([codec.filler()])
        dense[view] = {}
        for name, real in cells.x.items():
            full = real.new_zeros(batch.size, *real.shape[1:])
            full[(slice(None), *(slice(0, s) for s in filler[name].shape[1:]))] = filler[name][0]
            dense[view][name] = full.index_copy(0, cells.rows, real)
        present[view] = cells.present()
    return dense, present


@pytest.mark.parametrize("name", NAMES)
def test_the_dense_twin_has_the_same_depths_and_answer(made, name):
    bundle, data = made(name)
    model, batch = bundle.model.eval(), data.batch(torch.arange(24).numpy())
    dense, present = dense_of(data, batch)
    assert not all(p.all() for p in present.values())
    with torch.inference_mode():
        sparse, twin = model.encode(batch), model.encode_dense(dense, present)
        assert len(sparse.depths) == len(twin.depths) == 2
        for a, b in zip((sparse, *sparse.depths), (twin, *twin.depths)):
            assert torch.equal(a.mask, b.mask) and a.spans == b.spans and a.x.shape[2] == model.width
            torch.testing.assert_close(a.x, b.x, atol=1e-5, rtol=0)
            assert torch.equal(a.present(model.views), sparse.present(model.views))
        torch.testing.assert_close(model.fusion(twin).row, model.fusion(sparse).row, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_any_cell_of_a_view_is_answered(made, name):
    bundle, data = made(name)
    batch = data.batch(torch.arange(24).numpy())
    none = {view: cells.keep(torch.zeros(len(cells.rows), dtype=torch.bool)) for view, cells in batch.cells.items() if view in data.codecs}
    model = bundle.model.eval()
    without = replace(batch, cells=batch.cells | {"photo": none["photo"]})
    hidden = model.encode(batch).hide({"photo": torch.ones(24, dtype=torch.bool)})
    torch.testing.assert_close(model.fusion(model.encode(without)).row, model.fusion(hidden).row, atol=1e-5, rtol=0)
    nothing = model.fusion(model.encode(replace(batch, cells=batch.cells | none)))
    assert torch.isfinite(nothing.row).all()


def test_a_view_with_fewer_depths_stands_with_its_last_tokens_in_the_shallowest(made):
    bundle, data = made("hierarchical", "fusion.depths=3")
    model = bundle.model.eval()
    widths = {view: encoder.depth_widths for view, encoder in zip(model.views, model.encoders)}
    assert len(widths["photo"]) == 1 and len(widths["sound"]) == 2  # a picture of 16 x 16 has two stages
    assert [len(maps) for maps in model.depth_maps] == [min(3, len(w)) for w in widths.values()]
    with torch.inference_mode():
        tokens = model.encode(data.batch(torch.arange(24).numpy()))
    for view, count in (("photo", 2), ("sound", 1)):
        x, mask = tokens[view]
        for at, level in enumerate(tokens.depths):
            same = level[view][0].shape == x.shape and torch.equal(level[view][0], x) and torch.equal(level[view][1], mask)
            assert same == (at < count), (view, at)


@pytest.mark.parametrize("name", NAMES)
def test_every_depth_map_learns(made, name):
    bundle, data = made(name)
    model, batch = bundle.model.train(), data.batch(torch.arange(24).numpy())
    outs, losses = model(batch)
    model.loss(outs, losses, batch, {}).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.depth_maps.parameters())


def test_without_such_a_fusion_no_encoder_gives_depths(made):
    bundle, data = made("concat")
    tokens = bundle.model.encode(data.batch(torch.arange(4).numpy()))
    assert tokens.depths == () and not list(bundle.model.depth_maps.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_fitted_saved_and_loaded_the_answers_are_equal(mixed, tmp_path, name):
    path = mixed(40)
    settings = {"train.epochs": 2, "fusion.depths": 1}
    bundle = pf.fit(path, "label", fusion=name, size="s", ignore=["degrees", "sound"], set=settings, out=tmp_path / "run", threads=1)
    again = pf.Bundle.load(tmp_path / "run")
    assert json.dumps(bundle.predict(path)) == json.dumps(again.predict(path))
    assert again.model.fusion.depths == 1
