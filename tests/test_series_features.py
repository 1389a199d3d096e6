"""Series and lists of ids described without training: what the numbers say, and that gaps, padding and neighbours say nothing."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from polyfuse.core import RecipeError, codecs, encoders
from polyfuse.core.sample import evenly
from polyfuse.modalities.ids import IdsCodec, IdsCounts
from polyfuse.modalities.series import SeriesCodec, SeriesFeatures
from polyfuse.modalities.series.statistics import LEVELS, SHAPES, bridged, levels, longest_stretch, shapes

NAN = float("nan")


def series(cells, **options):
    """A fitted codec, the collated cells and the fitted encoder."""
    codec = SeriesCodec("s")
    read = [codec.read(c) for c in cells]
    codec.fit(iter(read))
    x = codec.collate([codec.clean(v) for v in read])
    encoder = encoders.build("series-features", codec, 16, **options).eval()
    encoder.fit([x])
    return codec, x, encoder


def given(encoder, codec, cells):
    return encoder.features(codec.collate([codec.clean(codec.read(c)) for c in cells])).x[:, 0]


def random_cells(count=40, length=30, channels=3, seed=0):
    draws = np.random.default_rng(seed)
    return [draws.normal(size=(int(draws.integers(2, length + 1)), channels)).cumsum(0) for _ in range(count)]


def one(row, gaps=()):
    """A single channel [1, 1, T] and where it has readings."""
    value = torch.tensor(row, dtype=torch.float32).view(1, 1, -1)
    real = torch.ones_like(value, dtype=torch.bool)
    real[..., list(gaps)] = False
    return value, real


def nearest_class(train, labels, test):
    """Ridge regression on the classes, by the normal equations."""
    targets = np.eye(labels.max() + 1)[labels] - 1 / (labels.max() + 1)
    a, b = np.asarray(train, np.float64), np.asarray(test, np.float64)
    weights = a.T @ np.linalg.solve(a @ a.T + 100 * np.eye(len(a)), targets)
    return (b @ weights).argmax(1)


# -- statistics ---------------------------------------------------------------------------------------------------


def test_gaps_are_bridged_by_straight_lines():
    draws = np.random.default_rng(1)
    value, real = draws.normal(size=(20, 15)), draws.random((20, 15)) < 0.5
    real[0], real[1], real[2, :] = True, False, False
    real[2, 7] = True
    found = bridged(torch.tensor(value), torch.tensor(real)).numpy()
    for v, r, f in zip(value, real, found):
        at = np.flatnonzero(r)
        assert np.allclose(f, np.interp(np.arange(15), at, v[at]) if len(at) else 0.0)


def test_levels_by_plain_loops():
    row, gaps = [2.0, 1.0, 99.0, 4.0, 8.0, 7.0, -99.0], (2, 6)
    found = levels(*one(row, gaps))[0, 0]
    assert found.shape == (LEVELS,)
    times, values = [0, 1, 3, 4, 5], [2.0, 1.0, 4.0, 8.0, 7.0]
    mean = sum(values) / 5
    middle = sum(times) / 5
    slope = sum((t - middle) * v for t, v in zip(times, values)) / sum((t - middle) ** 2 for t in times)
    rest = math.sqrt(sum((v - mean - slope * (t - middle)) ** 2 for t, v in zip(times, values)) / 5)
    decayed = []
    for decay in (1.5, 4.0, 10.0, 25.0):
        weights = [math.exp(-age / decay) for age in (4, 3, 2, 1, 0)]
        decayed.append(sum(w * v for w, v in zip(weights, values)) / sum(weights))
    expected = [mean, np.std(values), *np.quantile(values, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]), 7.0, *decayed]
    expected += [1.5, 7.0, 5.5, 6.0 - (1.5 + 7.0) / 2]  # readings 0-1, 2-3 and 4
    expected += [slope * 5, mean + slope * (5 - middle), rest, slope / rest]
    assert np.allclose(found, expected, atol=1e-5)


def test_shapes_by_plain_loops():
    row = [0.0, 2.0, 5.0, 3.0, 1.0, 1.0, 4.0, 0.0, 0.0, 2.0]
    value, real = one(row)
    found = shapes(value, real, 10)[0, 0].numpy()
    assert found.shape == (SHAPES,)
    z = (np.array(row) - np.mean(row)) / np.std(row)
    lags = [sum(z[t] * z[t + lag] for t in range(10 - lag)) / 10 for lag in (1, 2, 3, 5, 8)] + [0.0]
    expected = [np.mean(z**3), np.mean(z**4), *lags, 0.2, 0.0]  # the highest is reading 2; of three lowest the first
    expected += [5 / 9, 3 / 10]  # above the mean, 1.8, are readings 1, 2, 3, 6 and 9
    steps = np.diff(z)
    expected += [math.sqrt(np.mean(np.diff(row) ** 2)), np.mean(abs(steps)), np.mean(steps**2), np.mean(steps**3)]
    expected += [np.mean(abs(steps) > 1), 3 / 9, 2 / 10]
    assert np.allclose(found[: len(expected)], expected, atol=1e-5)
    power = np.array([abs(sum(z[t] * np.exp(-2j * np.pi * k / 10 * t) for t in range(10))) ** 2 for k in range(1, 6)])
    share = power / power.sum()
    octaves = [share[2:].sum(), share[1], share[0]]  # above 0.25, above 0.125, above 0.0625 cycles a reading
    centre = (share * np.arange(1, 6) / 10).sum()
    assert np.allclose(found[-9:-6], octaves, atol=1e-4) and np.allclose(found[-6:-3], 0)
    assert np.allclose(found[-3:-1], [centre, -(share * np.log(share)).sum()], atol=1e-4)


def test_the_spectrum_finds_the_frequency():
    times = np.arange(64)
    peaks = [float(shapes(*one(np.sin(2 * np.pi * f * times)), 64)[0, 0, -1]) for f in (4 / 64, 10 / 64, 25 / 64)]
    assert np.allclose(peaks, [4 / 64, 10 / 64, 25 / 64], atol=0.01)


def test_longest_stretch():
    flags = torch.tensor([[1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    assert longest_stretch(flags).flatten().tolist() == [3, 0, 7]
    assert longest_stretch(flags[:, :0]).flatten().tolist() == [0, 0, 0]


# -- the convolutions ---------------------------------------------------------------------------------------------


def test_kernels_by_plain_loops():
    _, x, encoder = series(random_cells())
    assert encoder.dilations == [1, 2] and encoder.bias.shape == (2, 3, 84)
    line = bridged(x["value"].transpose(1, 2), (x["real"] & x["mask"].unsqueeze(-1)).transpose(1, 2))
    answers, steps = encoder._answers(line, 1)[0], line.shape[2]
    triples = list(combinations(range(9), 3))
    for kernel in (0, 17, 83):
        sees = encoder.weights[1, kernel].abs().sum(1) > 0
        together = line[0, sees].sum(0)
        for t in (0, 5, steps - 1):
            at = [min(max(t + 2 * (j - 4), 0), steps - 1) for j in range(9)]
            expected = sum((2 if j in triples[kernel] else -1) * float(together[at[j]]) for j in range(9))
            assert float(answers[kernel, t]) == pytest.approx(expected, abs=1e-4)


def test_biases_are_quantiles_over_all_cells():
    _, x, encoder = series([np.random.default_rng(i).normal(size=(40, 1)) for i in range(200)])
    line = x["value"].transpose(1, 2)
    above = (encoder._answers(line, 0).unsqueeze(1) > encoder.bias[0].unsqueeze(-1).unsqueeze(0)).float().mean((0, 3)).flatten()
    golden = (5**0.5 - 1) / 2
    expected = [1 - (i * golden) % 1 for i in range(1, 1 + len(above))]
    assert np.allclose(above, expected, atol=0.03)


def test_level_does_not_move_the_convolutions():
    _, x, encoder = series([np.random.default_rng(i).normal(size=(30, 1)) for i in range(20)])
    high = {**x, "value": x["value"] + 5.0}
    count = encoder.bias.numel()
    assert torch.allclose(encoder.features(x).x[..., -count:], encoder.features(high).x[..., -count:], atol=1e-2)


# -- the encoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "longest", "options", "size"),
    [
        (1, 20, {}, 1 + 22 + 28 + 2 * 3 * 84),
        (3, 20, {}, 1 + 22 * 3 + 50 * 6 + 504),
        (24, 40, {}, 1 + 22 * 24 + 50 * 8 + 504),
        (24, 40, {"combined": 2, "channels": 8}, 1 + 22 * 8 + 50 * 4 + 504),
        (24, 40, {"kernels": 2000}, 1 + 22 * 24 + 50 * 8 + 24 * 84),
        (50, 300, {}, 1 + 22 * 32 + 50 * 8 + 6 * 84),
        (2, 1, {}, 1 + 50 * 4 + 22 * 2 + 504),
    ],
)
def test_one_vector_of_known_size(channels, longest, options, size):
    draws = np.random.default_rng(0)
    codec, x, encoder = series([draws.normal(size=(longest, channels)) for _ in range(12)], **options)
    found = encoder.features(x)
    assert found.x.shape == (12, 1, size) and found.mask.all() and torch.isfinite(found.x).all()
    assert encoder.frozen and not [n for n, _ in encoder.named_parameters() if not n.startswith("out.")]
    assert encoder(x)[0].shape == (12, 1, 16)


def test_features_are_scaled_over_the_training_cells():
    _, x, encoder = series(random_cells(300))
    found = encoder.features(x).x[:, 0]
    assert (found.abs() <= 10).all()
    assert found.mean(0).abs().max() < 0.2 and (found.std(0) < 1.1).all() and float((found.std(0) > 0.8).float().mean()) > 0.9


def test_it_is_the_untrained_encoder_of_series():
    assert codecs.get("series").untrained == "series-features" and codecs.get("ids").untrained == "ids-counts"
    assert encoders.get("series-features") is SeriesFeatures


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_a_row_alone_and_what_lies_under_gaps(channels):
    cells = random_cells(20, channels=channels)
    cells += [np.ones((9, channels)), np.arange(3.0)[:, None].repeat(channels, 1), np.zeros((1, channels))]  # ties everywhere
    for cell in cells[:10]:
        cell[np.random.default_rng(len(cell)).random(cell.shape) < 0.3] = NAN
        cell[-1, 0] = 1.0
    cells[3][:, -1] = NAN if channels > 1 else 0.0
    codec, x, encoder = series(cells)
    found = encoder.features(x).x
    assert torch.isfinite(found).all()
    for i in range(len(cells)):
        one = {k: v[i : i + 1, : int(x["mask"][i].sum())] for k, v in x.items()}
        assert torch.allclose(encoder.features(one).x[0], found[i], atol=1e-4, rtol=1e-4)
    for junk in (NAN, 1e30):
        dirty = {**x, "value": x["value"].masked_fill(~(x["real"] & x["mask"].unsqueeze(-1)), junk)}
        assert torch.equal(encoder.features(dirty).x, found)
    assert torch.allclose(encoder.features({k: v[[4, 2]] for k, v in x.items()}).x[1], found[2], atol=1e-5)


def test_a_gap_on_a_straight_line_changes_no_shape():
    codec, _, encoder = series(random_cells(channels=1))
    whole = [[float(t)] for t in range(20)]
    holed = [[None] if t in (4, 5, 11) else row for t, row in enumerate(whole)]
    a, b = given(encoder, codec, [whole, holed])
    assert torch.allclose(a[1 + LEVELS :], b[1 + LEVELS :], atol=1e-3)
    assert not torch.allclose(a[1 : 1 + LEVELS], b[1 : 1 + LEVELS], atol=1e-3)  # quantiles are of real readings


def test_a_drift_that_noise_hides_is_found():
    draws = np.random.default_rng(0)
    drift = draws.normal(size=6)
    drift[0] = 0.0
    loud = draws.normal(size=(6, 2)) * 5

    def cell():
        start, speed = draws.normal(), draws.normal() / 30
        time = np.arange(30)[:, None]
        return (start + speed * time) * drift + draws.normal(size=(30, 2)) @ loud.T + 0.1 * draws.normal(size=(30, 6))

    codec, x, encoder = series([cell() for _ in range(200)])
    slowest = (encoder.combine[4] / torch.tensor(codec.std)).double().numpy()
    signal, rest = abs(slowest @ drift), np.linalg.norm(loud.T @ slowest)
    assert signal > 10 * rest  # the drift's strength in it, and the loud noise's
    principal = (encoder.combine[0] / torch.tensor(codec.std)).double().numpy()
    assert abs(principal @ drift) < np.linalg.norm(loud.T @ principal)


def test_combinations_are_orthogonal_and_signed():
    _, _, encoder = series(random_cells(channels=5))
    principal = encoder.combine[:4]
    assert torch.allclose(principal @ principal.T, torch.eye(4), atol=1e-5)
    assert (encoder.combine.gather(1, encoder.combine.abs().argmax(1, keepdim=True)) > 0).all()


def test_frequencies_and_shapes_are_told_apart():
    draws = np.random.default_rng(0)
    labels = np.arange(300) % 4

    def cell(label):
        time, noise = np.arange(60), draws.normal(size=60)
        if label < 2:
            wave = np.sin(2 * np.pi * (0.06, 0.09)[label] * time + draws.uniform(0, 6.3))
        else:  # the same bump, steep at its front or at its end
            at = time - draws.integers(5, 40)
            bump = np.where((at >= 0) & (at < 12), at / 6, 0.0)
            wave = bump if label == 2 else np.where((at >= 0) & (at < 12), (12 - at) / 6, 0.0)
        return (2 * wave + 0.3 * noise)[:, None]

    _, x, encoder = series([cell(label) for label in labels])
    found = encoder.features(x).x[:, 0].numpy()
    answers = nearest_class(found[:200], labels[:200], found[200:])
    assert (answers == labels[200:]).mean() >= 0.97


def test_fitting_twice_gives_the_same_and_state_is_taken():
    cells = random_cells()
    codec, x, encoder = series(cells)
    _, _, again = series(cells)
    for (name, a), (_, b) in zip(encoder.named_buffers(), again.named_buffers()):
        assert torch.equal(a, b), name
    other = SeriesCodec("s")
    other.load_state(codec.state())
    fresh = encoders.build("series-features", other, 16).eval()
    assert torch.isfinite(fresh(x)[0]).all()  # never fitted
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(fresh.features(x).x, encoder.features(x).x)


def test_nothing_or_little_to_fit_on():
    codec, x, encoder = series(random_cells())
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    encoder.fit([])
    encoder.fit([{k: v[:0] for k, v in x.items()}])
    assert all(torch.equal(before[n], b) for n, b in encoder.named_buffers())
    codec, x, encoder = series([[[1.0, 5.0]]])
    assert torch.isfinite(encoder(x)[0]).all()


def test_one_pass_over_a_long_stream_keeps_few_cells():
    _, x, encoder = series(random_cells(64, length=5))
    encoder.fit(x for _ in range(100))
    seen = iter(range(100_000))
    kept = evenly(seen, 500)
    assert 500 <= len(kept) < 1000 and next(seen, None) is None
    assert len(set(np.diff(kept))) == 1 and kept[0] == 0
    assert evenly(iter(()), 5) == []


@pytest.mark.parametrize(("option", "value"), [("kernels", -1), ("combined", 0), ("channels", 0)])
def test_impossible_options_are_refused(option, value):
    with pytest.raises(RecipeError, match=rf"series-features.*{option}.* is {value}"):
        encoders.build("series-features", SeriesCodec("s"), 16, **{option: value})


# -- ids ----------------------------------------------------------------------------------------------------------


def lists(cells, **options):
    codec = IdsCodec("i", min_count=1)
    codec.fit(iter(cells))
    x = codec.collate([codec.clean(c) for c in cells])
    encoder = encoders.build("ids-counts", codec, 16, **options).eval()
    encoder.fit([x])
    return codec, x, encoder


BASKETS = [["tea", "milk"], ["tea", "milk", "milk", "milk"], ["nail"], ["nail", "saw", "saw"], ["tea"], ["saw", "nail", "milk"]]


def test_ids_by_plain_loops():
    codec, x, encoder = lists(BASKETS, dims=3)
    found = encoder.features(x).x[:, 0]
    directions, names = encoder.directions.numpy(), ["other", *codec.values]
    for basket, row in zip(BASKETS, found.numpy()):
        weights = {}
        for name in set(basket):
            seen = sum(name in b for b in BASKETS)
            weights[name] = (1 + math.log(basket.count(name))) * (math.log(7 / (1 + seen)) + 1)
        length = math.sqrt(sum(w * w for w in weights.values()))
        expected = sum(w / length * directions[names.index(name)] for name, w in weights.items())
        assert np.allclose(row[:3], expected, atol=1e-5)
        assert row[3] == pytest.approx(math.log(len(basket))) and row[4] == 0.0
    assert np.allclose((found[:, :3] ** 2).mean(0), 1, atol=1e-4)  # every direction is as strong


def test_ids_order_and_unknown_ones():
    codec, _, encoder = lists(BASKETS)
    a, b, c = (encoder.features(codec.collate([codec.clean(v)])).x[0, 0] for v in (["tea", "milk"], ["milk", "tea"], ["tea", "gold"]))
    assert torch.allclose(a, b, atol=1e-6)
    assert float(c[-1]) == 0.5 and not torch.allclose(a, c, atol=0.1)


def test_ids_that_come_together_are_near():
    codec, _, encoder = lists(
        [["tea", "milk"], ["tea", "cup"], ["milk", "cup"], ["nail", "saw"], ["nail", "oak"], ["saw", "oak"]] * 5, dims=2
    )
    tea, cup, saw = (encoder.features(codec.collate([codec.clean([v])])).x[0, 0, :2] for v in ("tea", "cup", "saw"))
    assert torch.dist(tea, cup) < 0.1 * torch.dist(tea, saw)


def test_ids_have_one_size_whatever_the_data():
    for cells in (BASKETS, [["a"]], [["a"], ["b"]]):
        _, x, encoder = lists(cells)
        found = encoder.features(x).x
        assert found.shape == (len(cells), 1, 66) and torch.isfinite(found).all() and encoder.frozen
        assert torch.isfinite(encoder(x)[0]).all()


def test_ids_fitted_twice_on_nothing_and_wrongly():
    _, x, encoder = lists(BASKETS)
    _, _, again = lists(BASKETS)
    assert torch.equal(encoder.directions, again.directions)
    encoder.fit([])
    assert torch.equal(encoder.directions, again.directions)
    with pytest.raises(RecipeError, match="ids-counts.*dims.* is 0"):
        encoders.build("ids-counts", IdsCodec("i"), 8, dims=0)
    untrained = IdsCounts(IdsCodec("i"), 8)
    assert torch.isfinite(untrained({"ids": torch.zeros(2, 3, dtype=torch.long), "mask": torch.ones(2, 3, dtype=torch.bool)})[0]).all()
