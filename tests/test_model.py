"""The whole network with every fusion: its dense twin, saved and loaded, one row alone, every column heard."""

import json

import pytest
import torch

import polyfuse as pf
from polyfuse.core import fusions
from polyfuse.core.progress import Progress
from polyfuse.data import Store, read
from polyfuse.ready import Run, make_ready, new_bundle
from polyfuse.recipe import at_feature_level, resolve

FUSIONS = fusions.names()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """40 rows of a text, a series, two numbers and a category, one cell in four missing."""
    rng = torch.Generator().manual_seed(0)
    rows = []
    for i in range(40):
        row = {
            "note": f"word{i % 7} and word{i % 3}",
            "trace": [float(i % 5), 2.0, float(i % 2)],
            "a": i / 10,
            "b": -float(i),
            "town": "uvw"[i % 3],
        }
        lost = (torch.rand(5, generator=rng) < 0.25).tolist()
        rows.append({k: None if gone else v for (k, v), gone in zip(row.items(), lost)} | {"y": "ab"[i % 2]})
    return read(rows)


@pytest.fixture(scope="module")
def ready_for(table, tmp_path_factory):
    """ready_for(fusion): the table made ready, once for all; at feature level its numbers are one column."""
    schema = pf.look(table, "y", columns={"note": "text", "trace": "series"}).schema
    store, made = Store(tmp_path_factory.mktemp("store")), {}

    def ready(fusion):
        joined = fusions.get(fusion).level == "feature"
        columns = at_feature_level(schema) if joined else schema
        if joined not in made:
            recipe = resolve(columns, fusion=fusion, size="s", seed=0, settings={})
            made[joined] = make_ready(Run(columns, recipe, table, Progress(True), store, 1, 0.1, False))
        return made[joined]

    return ready


def bundle_with(ready_for, fusion):
    ready = ready_for(fusion)
    recipe = resolve(ready.run.schema, fusion=fusion, size="s", seed=0, settings={})
    recipe["parts"] |= {k: v for k, v in ready.run.recipe["parts"].items() if k in recipe["parts"] and "task" in v}
    ready.run.recipe = recipe
    return new_bundle(ready)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_dense_twin_equals_the_sparse_path(ready_for, fusion):
    model, ready = bundle_with(ready_for, fusion).model.eval(), ready_for(fusion)
    rows = torch.arange(12).numpy()
    batch = ready.data.batch(rows)
    dense, present = {}, {}
    for view, codec in ready.data.codecs.items():
        cells = batch.cells[view]
        here = set(cells.rows.tolist())
        # a filler where a cell is absent, padded to the lengths of the real ones
        filler = codec.collate([codec.filler()])
        x = {}
        for name, real in cells.x.items():
            full = real.new_zeros(len(rows), *real.shape[1:])
            full[cells.rows] = real
            for row in set(range(len(rows))) - here:
                piece = filler[name][0]
                full[row][tuple(slice(0, s) for s in piece.shape)] = piece
            x[name] = full
        dense[view] = x
        present[view] = cells.present()
    with torch.inference_mode():
        sparse = model(batch)[0]["y"]
        twin = model.answer(model.fusion(model.encode_dense(dense, present)))["y"]
    torch.testing.assert_close(twin, sparse, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_saved_and_loaded_the_answers_are_equal(ready_for, table, fusion, tmp_path):
    bundle = bundle_with(ready_for, fusion)
    bundle.save(tmp_path / "b")
    again = pf.Bundle.load(tmp_path / "b")
    assert json.dumps(bundle.predict(table)) == json.dumps(again.predict(table))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_row_alone_is_answered_as_in_the_table(ready_for, table, fusion):
    bundle = bundle_with(ready_for, fusion)
    together = bundle.predict(table)
    for i in (0, 3, 17):
        alone = bundle.predict({n: table.column(n)[i].as_py() for n in table.names})
        assert alone["y"]["probability"] == pytest.approx(together[i]["answer"]["y"]["probability"], abs=2e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_column_can_change_the_answer(ready_for, fusion):
    bundle = bundle_with(ready_for, fusion)
    full = {"note": "word1 and word2", "trace": [1.0, 2.0], "a": 1.0, "b": 2.0, "town": "u"}
    before = bundle.embed([full])
    for column in full:
        after = bundle.embed([{k: v for k, v in full.items() if k != column}])
        assert abs(after - before).max() > 1e-7, column
