"""Robustness: areas of made-up curves, nested faults, what hiding means, the noise of every modality, files and commands."""

import csv
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import polyfuse as pf
from polyfuse import cli
from polyfuse.contract import fitted
from polyfuse.core import Batch, Cells, DataError, Draws, RecipeError, Tokens, codecs, tasks
from polyfuse.data import Opener
from polyfuse.data.rows import assemble, truth
from polyfuse.evaluate import curves, relative
from polyfuse.evaluate.robustness import area, checked_rates, excess, hidden

RATES = (0.0, 0.3, 0.6, 0.9)


# -- a made-up model: two views, each a one-hot class; the answer is the mean of what is there ----------------------


class Made:
    """Sees the views in `seen` only; without any of them it answers class 0."""

    def __init__(self, seen=("a", "b"), classes=4):
        self.views, self.targets, self.spans, self.seen = ["a", "b"], ["y"], {"a": "a", "b": "b"}, seen
        codec = codecs.build("category", "y")
        codec.fit(str(c) for c in range(classes) for _ in range(2))
        self.tasks = [tasks.build("multiclass", codec, 8)]
        self.tasks[0].fit({"index": torch.arange(classes).unsqueeze(1) + 1})

    def eval(self):
        return self

    def encode(self, batch):
        xs, masks = [], []
        for view in self.views:
            cells = batch.cells[view]
            x, mask = torch.zeros(batch.size, 1, 4), torch.zeros(batch.size, 1, dtype=torch.bool)
            if len(cells.rows):
                x[cells.rows, 0], mask[cells.rows, 0] = cells.x["value"], True
            xs.append(x), masks.append(mask)
        return Tokens(torch.cat(xs, 1), torch.cat(masks, 1), {"a": slice(0, 1), "b": slice(1, 2)})

    def answers(self, tokens):
        total = sum(tokens[v][0][:, 0] for v in self.seen)
        total[:, 0] += 1e-3
        return {"y": 10 * total}


def batches(rows=600, size=128, seed=0):
    y = torch.from_numpy(np.random.default_rng(seed).integers(4, size=rows))
    for at in range(0, rows, size):
        part = y[at : at + size]
        n = len(part)
        cells = {v: Cells({"value": torch.eye(4)[part]}, torch.arange(n), n) for v in "ab"}
        yield Batch(cells | {"y": Cells({"index": part.unsqueeze(1) + 1}, torch.arange(n), n)}, n), np.arange(at, at + n)


def measured(model, **options):
    made = {v: codecs.build("vector", v) for v in "ab"}
    found = curves(model, made, batches(), "y", **{"rates": RATES, "draws": 20, **options})
    return found, {(c.kind, c.views): c for c in found.curves}


def test_area_and_excess_by_hand():
    assert area([0, 0.5, 1], [1, 1, 1]) == 1
    assert area([0, 0.1, 0.9], [1.0, 0.8, 0.4]) == pytest.approx((0.1 * 0.9 + 0.8 * 0.6) / 0.9)
    assert area([0, 0.5], [1.0, None]) is None
    assert excess([0, 1], [0.9, 0.7], [0.5, 0.1]) == pytest.approx(0.1)  # falls by 0.2 instead of 0.4: 0.2 at the end, 0.1 on the mean
    assert excess([0, 1], [0.5, 0.1], [0.9, 0.7]) == pytest.approx(-0.1)
    assert excess([0, 1], [2.0, 3.0], [1.0, 4.0], higher=False) == pytest.approx(1.0)  # an error that rises less
    assert excess([0, 1], [2.0, None], [1.0, 4.0]) is None


def test_a_model_that_sees_one_view_is_flat_in_the_other():
    found, by = measured(Made(seen=("a",)))
    for kind in ("missing", "noise", "swap"):
        assert set(by[kind, ("b",)].values) == {1.0} and by[kind, ("b",)].relative == 1.0
        assert by[kind, ("a", "b")].values == by[kind, ("a",)].values
        assert by[kind, ("a",)].relative < 0.95
    assert found.metric == "accuracy" and found.higher and found.rows == 600 and found.naive == pytest.approx(0.25, abs=0.06)


def test_points_against_a_plain_loop():
    """Missing: right where a cell is left, or where class 0 was guessed. Two views: the draws are each view's own."""
    _, by = measured(Made())
    y = torch.cat([b.cells["y"].x["index"][:, 0] - 1 for b, _ in batches()])
    for at, rate in enumerate(RATES):
        lost_a, lost_b = (hidden(v, np.arange(600), rate) for v in "ab")
        right = [bool(not (a and b) or c == 0) for a, b, c in zip(lost_a, lost_b, y)]
        assert by["missing", ("a", "b")].values[at] == pytest.approx(np.mean(right))
        assert by["missing", ("a",)].values[at] == 1.0  # the other view has it all
        assert abs(float(lost_a.float().mean()) - rate) < 0.06


def test_faults_are_nested_and_independent_of_the_batches():
    rows = np.arange(500)
    sets = [hidden("a", rows, rate) for rate in (0.1, 0.3, 0.6, 0.9)]
    assert all(bool((more | ~less).all()) for less, more in zip(sets, sets[1:]))
    assert torch.equal(hidden("a", rows, 0.3)[100:200], hidden("a", rows[100:200], 0.3))
    assert not torch.equal(hidden("a", rows, 0.3), hidden("b", rows, 0.3))
    assert not torch.equal(hidden("a", rows, 0.3), hidden("a", rows, 0.3, seed=1))
    values = {c: measured(Made(seen=("a",)))[1]["missing", ("a",)].values for c in range(2)}
    assert values[0] == values[1] and values[0] == sorted(values[0], reverse=True)


def test_intervals_hold_the_value_and_shrink_to_none_without_draws():
    _, by = measured(Made(seen=("a",)), draws=100)
    for point in by["missing", ("a",)].points[1:]:
        assert point["low"] <= point["value"] <= point["high"] and point["low"] < point["high"]
    _, by = measured(Made(seen=("a",)), draws=0)
    assert by["missing", ("a",)].points[1]["low"] is None


def test_swapped_cells_are_worse_than_missing_ones():
    _, by = measured(Made(seen=("a",)))
    swap, missing = by["swap", ("a",)].values, by["missing", ("a",)].values
    assert swap[0] == 1 and swap == sorted(swap, reverse=True)
    assert swap[-1] == pytest.approx(0.1 + 0.9 / 4, abs=0.06) and missing[-1] == pytest.approx(0.1 + 0.9 / 4, abs=0.06)


def test_effective_is_zero_against_itself_and_none_for_unknown_views():
    one, _ = measured(Made(seen=("a",)))
    assert {c.effective for c in one.curves} == {None}
    assert {c.effective for c in one.over(one).curves} == {0.0}
    both, _ = measured(Made())
    gain = {(c.kind, c.views): c for c in both.over(one).curves}["missing", ("a",)]
    assert gain.effective == pytest.approx(1 - next(c.relative for c in one.curves if c.views == ("a",)))
    only_b, _ = measured(Made(), views=["b"])
    assert {c.effective is None for c in both.over(only_b).curves if c.views != ("b",)} == {True}


def test_means_are_over_single_views():
    found, by = measured(Made(seen=("a",)))
    assert found.means()["missing"]["relative"] == pytest.approx((by["missing", ("a",)].relative + 1) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": [0.2, 1.0]}, "1.0 is among them"),
        ({"rates": [-0.1]}, "-0.1 is among them"),
        ({"rates": [float("nan")]}, "nan is among them"),
        ({"rates": [0]}, "none is above 0"),
        ({"rates": []}, "none is above 0"),
        ({"views": ["c"]}, "view 'c': is unknown. Expected one of a, b"),
        ({"kinds": ["mising"]}, "did you mean 'missing'"),
        ({"kinds": []}, "none is named"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(RecipeError, match=message):
        measured(Made(), **options)
    assert checked_rates([0.9, 0.3, 0.3]) == (0.0, 0.3, 0.9)


# -- noise of each modality -----------------------------------------------------------------------------------------


def noisy(name, level, x=None, seed=0):
    codec, values = fitted(name)
    x = codec.collate(values) if x is None else x
    first = next(iter(x.values()))
    return codec, x, codec.noise(x, level, Draws(seed, 0, name, np.arange(len(first))))


@pytest.mark.parametrize("name", [*codecs.names(), "table"])
def test_noise_belongs_to_the_row(name):
    codec, values = fitted(name)
    whole = codec.noise(codec.collate(values), 0.7, Draws(3, 0, name, np.arange(len(values))))
    for i, value in enumerate(values):
        alone = codec.noise(codec.collate([value]), 0.7, Draws(3, 0, name, np.array([i])))
        for key, one in alone.items():
            inside = whole[key][i][tuple(slice(n) for n in one.shape[1:])]
            if "mask" in alone and alone["mask"].shape == one.shape[:2]:
                one, inside = one[0][alone["mask"][0]], inside[alone["mask"][0]]
            else:
                one = one[0]
            assert torch.allclose(one.float(), inside.float(), atol=2e-2)


def test_noise_of_numbers_keeps_value_and_rank_together():
    codec = codecs.build("number", "n")
    numbers = np.random.default_rng(0).lognormal(size=3000)
    codec.fit(iter(numbers))
    x = {"value": torch.from_numpy(codec.clean_many(numbers)["value"])}
    out = codec.noise(x, 1.0, Draws(0, 0, "n", np.arange(3000)))["value"]
    moved = out[:, 0] - x["value"][:, 0]
    assert abs(float(moved.mean())) < 0.06 and 0.9 < float(moved.std()) < 1.1
    assert np.allclose(out.numpy(), codec.clean_many(codec.restore(out[:, 0].double()).numpy())["value"], atol=1e-3)


@pytest.mark.parametrize("level", [0.3, 1.0])
def test_noise_of_categories_replaces_a_share(level):
    codec = codecs.build("category", "c")
    codec.fit(iter("abcde"))
    index = torch.from_numpy(np.random.default_rng(0).integers(6, size=(4000, 1)))
    out = codec.noise({"index": index}, level, Draws(0, 0, "c", np.arange(4000)))["index"]
    assert abs(float((out != index).float().mean()) - level) < 0.03
    assert set(out[out != index].tolist()) == {1, 2, 3, 4, 5}


def test_noise_of_text_replaces_a_share_of_words_and_no_marks():
    codec, x, _ = noisy("text", 0.0)
    ids = torch.full((50, 200), 65, dtype=torch.int32)
    mask = torch.ones(50, 200, dtype=torch.bool)
    mask[:, 150:] = False
    out = codec.noise({"ids": ids, "mask": mask}, 0.4, Draws(0, 0, "t", np.arange(50)))["ids"]
    assert abs(float((out != ids)[mask].float().mean()) - 0.4) < 0.02
    assert torch.equal(out[~mask], ids[~mask]) and not (out == codec.blank).any() and int(out.max()) < codec.size


def test_noise_of_pictures_is_as_strong_as_said():
    codec, _, _ = noisy("image", 0.0)
    grey = torch.full((20, 1, 3, 16, 16), 128, dtype=torch.uint8)
    x = {"pixels": grey, "mask": torch.ones(20, 1, dtype=torch.bool)}
    out = codec.noise(x, 0.25, Draws(0, 0, "i", np.arange(20)))["pixels"]
    assert out.dtype == torch.uint8 and abs(float(out.float().std()) - 32) < 2 and torch.equal(grey, torch.full_like(grey, 128))


@pytest.mark.parametrize("loud", [1.0, 0.01])
def test_noise_of_sound_is_white_noise_on_the_wave(loud):
    """Level 1 on a spectrogram agrees with white noise of equal power added to the samples, however loud the sound is."""
    rng = np.random.default_rng(0)
    t = np.arange(16000) / 16000
    sounds = [(loud * np.sin(2 * np.pi * f * t)).astype(np.float32) for f in (300, 700, 1500, 3000)]
    codec = codecs.build("audio", "s")
    codec.fit(iter([codec.read(s) for s in sounds]))
    x = codec.collate([codec.clean(codec.read(s)) for s in sounds])
    out = codec.noise(x, 1.0, Draws(0, 0, "s", np.arange(4)))
    true = [s + rng.normal(0, np.sqrt((s**2).mean()), len(s)).astype(np.float32) for s in sounds]
    wanted = codec.collate([codec.clean(codec.read(s)) for s in true])
    unit = torch.tensor(codec.std)
    ours, theirs = (v["mel"].float() * unit for v in (out, wanted))
    assert float((ours.mean(1) - theirs.mean(1)).abs().mean()) < 0.35  # natural log of energy
    assert float((x["mel"].float() * unit).sub(theirs).mean(1).abs().mean()) > 1.0  # it was far before


# -- a fitted bundle ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A bundle of two numbers' view, a text and a series, fitted on planted rows; and labelled rows."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)

    def rows(count):
        made = []
        for _ in range(count):
            hot = bool(rng.random() < 0.5)
            trace = [round(float(v), 2) for v in rng.normal(1 if hot else -1, 1, 6)]
            note = f"{'warm sunny day' if hot else 'cold rainy night'} {rng.integers(9)}"
            made.append(
                {
                    "age": round(float(rng.normal(40 if hot else 30, 5)), 1),
                    "note": note,
                    "trace": json.dumps(trace),
                    "label": "hot" if hot else "cold",
                }
            )
        return made

    table = rows(120)
    pf.fit(table, "label", out=folder / "a", columns={"note": "text", "trace": "series"}, size="s", set=["train.epochs=4"], quiet=True)
    return SimpleNamespace(path=folder / "a", bundle=pf.Bundle.load(folder / "a"), rows=rows(80), folder=folder)


def test_hiding_is_the_table_without_these_cells(tiny):
    found = tiny.bundle.robustness(tiny.rows, kinds=["missing"], rates=RATES, draws=0)
    for curve in found.curves:
        for point in curve.points:
            emptied = [dict(r) for r in tiny.rows]
            for view in curve.views:
                for row in torch.nonzero(hidden(view, np.arange(len(emptied)), point["rate"])).flatten().tolist():
                    for column in ("age",) if view == "table" else (view,):
                        emptied[row][column] = None
            scored = tiny.bundle.evaluate(emptied)["metrics"]["label"][found.metric]
            assert point["value"] == pytest.approx(scored["value"]), (curve.views, point)
    assert len(found.curves) == 6 and {c.views for c in found.curves} >= {("table", "note"), ("note", "trace")}


def test_noise_is_the_table_of_noisy_cells(tiny):
    """One view encoded alone and put among the others gives what the whole batch, encoded with the noise, gives."""
    bundle = tiny.bundle
    _, batches_ = bundle._labelled(pf.read(tiny.rows), "label", 0, 0, False)
    batch, rows = next(iter(batches_))
    cells = batch.cells["trace"]
    noisy_x = bundle.views["trace"].noise(cells.x, 0.6, Draws(0, 0, "noise trace", rows[cells.rows.numpy()]))
    with torch.inference_mode():
        outs = bundle.model(Batch(batch.cells | {"trace": Cells(noisy_x, cells.rows, cells.size)}, batch.size))[0]["label"]
    wanted = bundle.model.tasks[0].scores(outs, batch.cells["label"])[bundle.model.tasks[0].metric]
    found = bundle.robustness(tiny.rows, kinds=["noise"], views=["trace"], rates=[0.6], draws=0)
    assert found.curves[0].values[1] == pytest.approx(wanted)


def test_same_seed_same_figures_and_zero_against_itself(tiny):
    one = tiny.bundle.robustness(tiny.rows, rates=[0.5], against=tiny.bundle, draws=20)
    two = tiny.bundle.robustness(tiny.rows, rates=[0.5], against=tiny.bundle, draws=20)
    assert one.to_json() == two.to_json()
    assert {c.effective for c in one.curves} == {0.0} and one.means()["noise"]["effective"] == 0.0
    other = tiny.bundle.robustness(tiny.rows, rates=[0.5], seed=1, draws=20)
    assert one.to_json()["curves"] != other.to_json()["curves"]
    assert one.curves[0].values[0] == pytest.approx(tiny.bundle.evaluate(tiny.rows)["metrics"]["label"][one.metric]["value"])


def test_fewer_rows_and_one_view(tiny):
    assert tiny.bundle.robustness(tiny.rows, rates=[0.5], most=30, draws=0).rows == 30
    assert [c.views for c in tiny.bundle.robustness(tiny.rows, rates=[0.5], views=["note"], draws=0, kinds=["swap"]).curves] == [("note",)]
    found = tiny.bundle.robustness([{k: v for k, v in r.items() if k != "trace"} for r in tiny.rows], rates=[0.5], draws=0)
    assert any("'trace' is not in" in note for note in found.notes)
    assert not [c for c in found.curves if "trace" in c.views]  # what is nowhere can be harmed no further


def test_files_and_picture(tiny, tmp_path):
    found = tiny.bundle.robustness(tiny.rows, rates=RATES, against=tiny.bundle, draws=20)
    folder = found.write(tmp_path / "deep" / "out")
    assert json.loads((folder / "robustness.json").read_text("utf-8")) == json.loads(json.dumps(found.to_json()))
    with open(folder / "curves.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 6 * len(RATES) and lines[0] | {"value": 0, "low": 0, "high": 0} == {
        "kind": "missing",
        "views": "table",
        "rate": "0.0",
        "value": 0,
        "low": 0,
        "high": 0,
    }
    with Image.open(folder / "robustness.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    text = found.lines()
    assert "looks at nothing" in text[0] and any("mean of single views" in line for line in text) and max(map(len, text)) < 100
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        found.write(tmp_path / "file")


def test_without_matplotlib_the_tables_are_written_and_the_missing_picture_is_named(tiny, tmp_path, monkeypatch, caplog):
    found = tiny.bundle.robustness(tiny.rows, rates=[0.5], kinds=["missing"], draws=0)
    found.write(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert tiny.bundle.robustness(tiny.rows, rates=[0.5], kinds=["missing"], draws=0).write(tmp_path) == tmp_path
    assert {f.name for f in tmp_path.iterdir()} == {"curves.csv", "robustness.json"}, "the picture of the run before was left"
    needed = 'robustness.png was not drawn: it needs matplotlib, which is not installed; pip install "polyfuse[plot]"'
    assert caplog.messages == [needed]


def test_any_name_can_be_drawn(tiny, tmp_path):
    found = tiny.bundle.robustness(tiny.rows, rates=[0.5], kinds=["missing"], draws=0)
    names = iter(["价格 $", "_hidden $x$", "a" * 90])
    for curve in found.curves[:3]:
        curve.views = (next(names),)
    found.target = "ціна_$^"
    found.curves[0].points[1] = {"rate": 0.5, "value": None, "low": None, "high": None}
    assert found.write(tmp_path).is_dir() and found.lines()


def test_errors_of_a_bundle(tiny):
    with pytest.raises(RecipeError, match="view 'nota': is unknown.*did you mean 'note'"):
        tiny.bundle.robustness(tiny.rows, views=["nota"])
    with pytest.raises(RecipeError, match="target 'x': is not what this bundle answers. Expected one of label"):
        tiny.bundle.robustness(tiny.rows, target="x")
    with pytest.raises(DataError, match="target 'label': is not a column"):
        tiny.bundle.robustness([{"note": "warm"}])
    with pytest.raises(DataError, match="no readable label"):
        tiny.bundle.robustness([{"note": "warm", "label": None}])
    other = SimpleNamespace(targets=["price"], views={})
    with pytest.raises(RecipeError, match="is not what the reference answers. Expected one of price"):
        tiny.bundle.robustness(tiny.rows, against=other, rates=[0.5], draws=0)


def test_one_figure_for_a_comparison(tiny):
    """On prepared rows it is the mean of the single views' areas under `missing`."""

    class Prepared:
        def batch(self, rows):
            some, opener = [tiny.rows[i] for i in rows], Opener(None, False)
            batch, _ = assemble(tiny.bundle._raws(some), len(some), tiny.bundle.views, opener)
            return Batch(batch.cells | {"label": truth([r["label"] for r in some], tiny.bundle.codecs["label"], opener)[0]}, len(some))

    wanted = tiny.bundle.robustness(tiny.rows, kinds=["missing"], rates=RATES, draws=0).means()["missing"]["relative"]
    assert relative(tiny.bundle.model, Prepared(), np.arange(80), "label", rates=RATES) == pytest.approx(wanted)


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capfd):
    def call(*args):
        monkeypatch.setattr("sys.argv", ["polyfuse", "robustness", *map(str, args)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out = capfd.readouterr()
        return status, out.out, out.err

    return call


@pytest.fixture
def table(tiny, tmp_path):
    with open(tmp_path / "test.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(tiny.rows[0]))
        writer.writeheader()
        writer.writerows(tiny.rows)
    return tmp_path / "test.csv"


def test_command(run, tiny, table, tmp_path):
    status, out, err = run(
        tiny.path, table, "--against", tiny.path, "--out", tmp_path / "r", "--rates", "0,.3,.9", "--kinds", "missing,swap"
    )
    assert status == 0 and "wrote" in err and "effective" in out and "table + note" in out and "noise" not in out
    assert {f.name for f in (tmp_path / "r").iterdir()} == {"curves.csv", "robustness.json", "robustness.png"}
    status, out, _ = run(tiny.path, table, "--json", "--rates", ".5", "--view", "note", "--kinds", "noise")
    assert status == 0 and [c["views"] for c in json.loads(out)["curves"]] == [["note"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rates", "0,1"], "1.0 is among them"),
        (["--rates", "a"], "are no numbers"),
        (["--kinds", "nois"], "did you mean 'noise'"),
        (["--view", "nota"], "did you mean 'note'"),
        (["--target", "x"], "is not what this bundle answers"),
    ],
)
def test_command_says_what_is_wrong(run, tiny, table, options, message):
    status, _, err = run(tiny.path, table, *options)
    assert status == 2 and message in err and "Traceback" not in err


def test_command_on_an_empty_table(run, tiny, tmp_path):
    (tmp_path / "empty.csv").write_text("age,note,trace,label\n", "utf-8")
    status, _, err = run(tiny.path, tmp_path / "empty.csv")
    assert status == 2 and err.startswith("error:") and "empty.csv" in err or "no readable label in 0 rows" in err
