"""Vectors: one length, absent components marked, nothing but finite numbers."""

import json

import numpy as np
import pytest
import torch

from polyfuse.core import DataError, RecipeError, encoders
from polyfuse.modalities.vector import Vector

NAMES = ["vector-mlp", "vector-tokens"]


def fitted(cells=([1.0, 10.0, 5.0], [3.0, 30.0, 5.0])) -> Vector:
    codec = Vector("v")
    codec.fit(codec.read(c) for c in cells)
    return codec


@pytest.mark.parametrize(
    "raw",
    [
        [1, 2.5, -3],
        (1, 2.5, -3),
        "[1, 2.5, -3]",
        "1 2.5 -3",
        "1;2.5;-3",
        "[ 1.  2.5\n -3.]",
        ["1", "2.5", " -3 "],
        np.array([1, 2.5, -3], np.float16),
        [np.float32(1), np.float64(2.5), np.int8(-3)],
        "(1, 2.5, -3)",
    ],
)
def test_one_vector_in_many_forms(raw):
    numbers, real = Vector("v").read(raw)
    assert numbers.tolist() == [1, 2.5, -3] and real.all()


@pytest.mark.parametrize("raw", [None, "", "  ", [None, None], ["", None, " "]])
def test_missing(raw):
    assert Vector("v").read(raw) is None


@pytest.mark.parametrize(
    "raw, part",
    [
        ([1, float("nan")], "has nan as component 2"),
        ([float("inf"), 1], "has inf as component 1"),
        ("[1, NaN]", "nan as component 2"),
        ([1e300], "component 1"),
        ([10**400], "cannot read"),
        ("[1, 2", "cannot read"),
        ("a b", "cannot read"),
        ("1,5x", "cannot read"),
        ([[1, 2], [3, 4]], "cannot read"),
        ({"a": 1}, "cannot read"),
        (np.zeros((2, 2)), "cannot read"),
        (np.array(["a"]), "cannot read"),
        (b"12", "cannot read"),
        ([], "empty list"),
        ("[]", "empty list"),
        (np.zeros(0), "empty list"),
        ("1_000 2", "cannot read"),
        ([1, object()], "cannot read"),
        (np.array([1j]), "cannot read"),
        ("1 " * 3_000_000, "cannot read"),
        ("9" * 400, "inf as component 1"),
    ],
)
def test_refused(raw, part):
    with pytest.raises(DataError, match=part) as caught:
        Vector("v").read(raw)
    assert len(str(caught.value)) < 400


def test_standardised_by_component_and_a_constant_one_stays():
    codec = fitted()
    value = codec.clean(codec.read([3.0, 10.0, 7.0]))
    assert value["value"].tolist() == [1.0, -1.0, 2.0] and value["real"].all()
    restored = codec.restore(torch.from_numpy(value["value"]).expand(2, 4, 3))
    torch.testing.assert_close(restored[1, 2], torch.tensor([3.0, 10.0, 7.0]))
    assert codec.mean == [2.0, 20.0, 5.0] and codec.std == [1.0, 10.0, 1.0]


def test_statistics_do_not_cancel_far_from_zero():
    codec = fitted([[1e9 + d] for d in (-1.0, 0.0, 1.0)])
    assert codec.mean == [1e9] and codec.std[0] == pytest.approx((2 / 3) ** 0.5)


def test_absent_components_are_marked_and_left_out_of_the_statistics():
    codec = fitted([[1.0, None], [3.0, "4"], ["", 6.0]])
    assert codec.mean == [2.0, 5.0] and codec.std == [1.0, 1.0]
    value = codec.clean(codec.read([None, 7]))
    assert value["value"].tolist() == [0.0, 2.0] and value["real"].tolist() == [False, True]


def test_the_most_frequent_length_is_learned_and_others_are_refused():
    codec = fitted([[1.0], [1.0, 2.0], [3.0, 4.0]])
    assert codec.length == 2
    with pytest.raises(DataError, match="has 3 numbers. Expected 2"):
        codec.clean(codec.read([1, 2, 3]))


def test_extreme_values_stay_finite():
    codec = fitted([[0.0], [1e-30]])
    assert np.isfinite(codec.clean(codec.read([3e38]))["value"]).all()


def test_nothing_to_fit_on():
    codec = Vector("v", length=4)
    codec.fit(iter([]))
    assert codec.filler()["value"].shape == (4,) and codec.clean(codec.read([1, 2, 3, 4]))["value"].tolist() == [1, 2, 3, 4]
    with pytest.raises(RecipeError, match="length"):
        Vector("v", length=-1)


def test_state_round_trip():
    codec, again = fitted(), Vector("v")
    again.load_state(json.loads(json.dumps(codec.state())))
    assert again.state() == codec.state()
    assert (again.clean(again.read([1, 2, 3]))["value"] == codec.clean(codec.read([1, 2, 3]))["value"]).all()


@pytest.mark.parametrize(
    "sample, low, high",
    [
        ([list(np.arange(16.0))] * 5, 0.8, 1),
        (["[0.1, 0.2, 0.3]"] * 5, 0.5, 0.7),
        ([np.zeros(384)] * 3, 0.8, 1),
        (["1 2 3"] * 5, 0, 0),
        ([[1, 2], [1, 2, 3], [1]], 0, 0),
        (["a"], 0, 0),
        ([1.0, 2.0], 0, 0),
        ([], 0, 0),
        (['["a", "b"]'], 0, 0),
        ([[[1, 2]]], 0, 0),
        (["["], 0, 0),
    ],
)
def test_claims(sample, low, high):
    assert low <= Vector.claims(sample) <= high


@pytest.mark.parametrize("name", NAMES)
def test_encoders(name):
    rng = np.random.default_rng(0)
    cells = [rng.normal(size=19).tolist() for _ in range(6)]
    cells[2][3] = None
    codec = fitted(cells)
    encoder = encoders.build(name, codec, 12).eval()
    x = codec.collate([codec.clean(codec.read(c)) for c in cells])
    tokens, mask = encoder(x)
    assert tokens.shape == (6, encoder.most_tokens, 12) and mask.dtype == torch.bool and mask.all()
    for row in range(6):
        torch.testing.assert_close(encoder({k: v[row : row + 1] for k, v in x.items()})[0][0], tokens[row], atol=1e-5, rtol=1e-5)
    hidden = {**x, "value": x["value"].masked_fill(~x["real"], float("nan"))}
    torch.testing.assert_close(encoder(hidden)[0], tokens)
    absent = {**x, "real": x["real"].clone()}
    absent["real"][0, 0] = False
    assert not torch.allclose(encoder(absent)[0][0], tokens[0])
    tokens.pow(3).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert encoder({k: v[:0] for k, v in x.items()})[0].shape == (0, encoder.most_tokens, 12)


def test_pieces_without_a_real_component_are_masked():
    codec = fitted([np.arange(8.0), np.ones(8)])
    encoder = encoders.build("vector-tokens", codec, 4, tokens=4).eval()
    x = codec.collate([codec.clean(codec.read([None, None, 1, 2, 3, None, 5, 6]))])
    assert encoder(x)[1].tolist() == [[False, True, True, True]]
    assert encoders.build("vector-tokens", codec, 4, tokens=100).most_tokens == 8
    with pytest.raises(RecipeError, match="tokens"):
        encoders.build("vector-tokens", codec, 4, tokens=0)
