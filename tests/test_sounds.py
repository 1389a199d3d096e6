"""Sounds described without training: what the numbers say, and that loudness, padding and neighbours say nothing they should not."""

import math

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from polyfuse.core import RecipeError, codecs, encoders
from polyfuse.core.sample import evenly
from polyfuse.modalities.audio import AudioCodec
from polyfuse.modalities.audio.descriptors import _loudness, _shares, _statistics

RATE = 8000


def tone(hz, seconds=0.4, rhythm_hz=0.0, noise=0.01, seed=0, gain=0.3):
    """A tone that rises and falls `rhythm_hz` times a second, in noise."""
    t = np.arange(int(seconds * RATE)) / RATE
    envelope = 1 - 0.9 * np.cos(2 * np.pi * rhythm_hz * t) if rhythm_hz else 1.0
    return gain * (envelope * np.sin(2 * np.pi * hz * t) + np.random.default_rng(seed).normal(0, noise, len(t)))


def random_sounds(count=30, seed=0):
    draws = np.random.default_rng(seed)
    return [tone(draws.uniform(150, 3500), draws.uniform(0.05, 0.7), draws.uniform(2, 12), seed=i) for i in range(count)]


def fitted(cells, form="logmel", **options):
    """A codec and an encoder fitted on the cells, and the collated cells."""
    codec = AudioCodec("a", form=form, rate_hz=RATE, longest_s=3.0)
    read = [codec.read(c) for c in cells]
    codec.fit(iter(read))
    x = codec.collate([codec.clean(v) for v in read])
    encoder = encoders.build("audio-descriptors", codec, 16, **options).eval()
    encoder.fit([x])
    return codec, encoder, x


def given(codec, encoder, cells):
    return encoder.features(codec.collate([codec.clean(codec.read(c)) for c in cells])).x[:, 0]


def raw(codec, encoder, cells):
    """The same before it is scaled and clipped."""
    return encoder._described(*encoder._levels(codec.collate([codec.clean(codec.read(c)) for c in cells])))


def blocks(codec, encoder):
    """Where each description lies in the vector."""
    bands, sizes = codec.mels, {}
    sizes |= {"seconds": 1, "log_seconds": 1, "loudness": 1, "picture": encoder.segments * bands, "statistics": 6 * bands, "cepstra": 60}
    sizes |= {"modulation": 8 * bands, "modulated_cepstra": 160, "patches": 2 * encoder.parts * len(encoder.atoms)}
    ends = np.cumsum(list(sizes.values()))
    assert ends[-1] == len(encoder.centre)
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends)}


def test_sounds_get_it_unless_told_otherwise():
    assert codecs.get("audio").untrained == "audio-descriptors"
    assert encoders.get("audio-descriptors").frozen


def test_one_vector_of_a_width_that_no_data_changes():
    codec, encoder, x = fitted(random_sounds())
    encoded = encoder.features(x)
    assert encoded.x.shape == (30, 1, 3 + 24 * 40 + 11 * 20 + 2 * 64 * 3) and encoded.mask.shape == (30, 1) and encoded.mask.all()
    assert encoder.project(encoded).shape == (30, 1, 16)
    few = AudioCodec("a", mels=10)
    small = encoders.build("audio-descriptors", few, 4, segments=5, patches=7, parts=2)
    assert len(small.centre) == 3 + (5 + 14) * 10 + 11 * 10 + 2 * 7 * 2  # ten bands have ten cepstra
    assert small.features(few.collate([few.filler()])).x.shape == (1, 1, len(small.centre))


def test_features_are_scaled_over_the_sounds_they_were_fitted_on():
    _, encoder, x = fitted(random_sounds())
    found = encoder.features(x).x[:, 0]
    assert found.abs().max() <= 10
    assert found.mean(0).abs().max() < 0.05  # what is clipped moves it a little
    spread = found.std(0, correction=0)
    assert ((spread - 1).abs() < 0.2).float().mean() > 0.95


def test_a_row_alone_and_neighbours_and_padding_change_nothing():
    codec, encoder, x = fitted(cells := random_sounds(40))  # more than one chunk
    together = encoder.features(x).x[:, 0]
    for at in (0, 7, 33, 39):
        torch.testing.assert_close(given(codec, encoder, cells[at : at + 1])[0], together[at], atol=1e-4, rtol=1e-4)
    for junk in (math.nan, 100.0):
        dirty = {**x, "mel": x["mel"].masked_fill(~x["mask"].unsqueeze(-1), junk)}
        assert torch.equal(encoder.features(dirty).x[:, 0], together)


@pytest.mark.parametrize("form", ["logmel", "wave"])
def test_all_masked_single_window_silent_and_no_rows(form):
    codec, encoder, x = fitted(random_sounds(), form)
    nothing = encoder.features({**x, "mask": torch.zeros_like(x["mask"])})
    assert not nothing.mask.any() and not nothing.x.any()
    assert torch.isfinite(given(codec, encoder, [np.zeros(1), np.zeros(4000), np.array([1e8, -1e8] * 2000), tone(300, 0.01)])).all()
    none = encoder.features({k: v[:0] for k, v in x.items()})
    assert none.x.shape == (0, 1, len(encoder.centre)) and none.mask.shape == (0, 1)
    fresh = encoders.build("audio-descriptors", codec, 16)
    fresh.fit([])
    assert torch.isfinite(fresh.features(x).x).all()
    assert torch.isfinite(fresh.project(fresh.features(x))).all()


def test_the_waveform_gives_what_the_spectrogram_gives():
    cells = [*random_sounds(), tone(500, 0.005)]  # the last one is shorter than a window
    codec, encoder, x = fitted(cells)
    wave, other, y = fitted(cells, "wave")
    level, mask = encoder._levels(x)
    again, m = other._levels(y)
    assert torch.equal(m, mask)
    torch.testing.assert_close(again, level, atol=0.02, rtol=0)  # the spectrogram is kept in 16 bits
    for at, cell in enumerate(cells):
        exact = torch.from_numpy(wave.spectrogram(wave.read(cell)))
        torch.testing.assert_close(again[at, : len(exact)], exact, atol=1e-3, rtol=1e-4)
        assert mask[at].sum() == len(exact)
    one, two = raw(codec, encoder, cells), raw(wave, other, cells)
    near = torch.nn.functional.cosine_similarity(one[:, :1000], two[:, :1000])
    assert near.min() > 0.999
    alone = other.features(wave.collate([wave.clean(wave.read(cells[3]))])).x[0, 0]
    torch.testing.assert_close(alone, other.features(y).x[3, 0], atol=1e-4, rtol=1e-4)
    padded = {**y, "wave": y["wave"].masked_fill(~y["mask"], math.nan)}
    torch.testing.assert_close(other.features(padded).x, other.features(y).x)


def test_loudness_is_a_number_of_its_own():
    codec, encoder, _ = fitted(random_sounds())
    soft, loud = raw(codec, encoder, [tone(700, rhythm_hz=5, gain=0.1), tone(700, rhythm_hz=5, gain=0.4)])
    where = blocks(codec, encoder)
    assert float((loud - soft)[where["loudness"]]) == pytest.approx(math.log(16), abs=0.02)  # sixteen times the energy
    for name in ("seconds", "picture", "modulation", "patches"):
        torch.testing.assert_close(soft[where[name]], loud[where[name]], atol=0.03, rtol=0.03)


def test_loudness_relative_to_the_mean_energy_by_plain_loops():
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(3, 7, 4, generator=generator) * 2 - 3
    mask = torch.arange(7) < torch.tensor([[7], [3], [1]])
    found, mean = _loudness(level, mask)
    for p, n in enumerate((7, 3, 1)):
        energy = [math.exp(level[p, t, m]) for t in range(n) for m in range(4)]
        assert float(mean[p]) == pytest.approx(math.log(sum(energy) / len(energy)), abs=1e-5)
        expected = [math.sqrt(e / (sum(energy) / len(energy))) for e in energy]
        assert found[p, :n].flatten().tolist() == pytest.approx(expected, rel=1e-4)
        assert not found[p, n:].any()


def test_shares_of_the_parts_by_plain_loops():
    for length, parts in ((1, 3), (5, 2), (7, 10), (12, 4)):
        found = _shares((torch.arange(15) < length).unsqueeze(0), parts)[0]
        expected = np.zeros((parts, 15))
        fine = 5040  # points of a step, of which each falls into one part
        for point in range(length * fine):
            expected[point * parts // (length * fine), point // fine] += parts / (length * fine)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.sum(1), torch.ones(parts))


def test_statistics_are_those_of_numpy():
    draws = np.random.default_rng(0)
    cells = [draws.normal(size=(n, 3)) for n in (9, 4, 1)]
    x = pad_sequence([torch.tensor(c) for c in cells], batch_first=True, padding_value=math.nan)
    mean, spread, change, low, high = _statistics(x, ~x[..., 0].isnan(), (0.1, 0.5))
    for p, cell in enumerate(cells):
        assert mean[p].numpy() == pytest.approx(cell.mean(0)) and spread[p].numpy() == pytest.approx(cell.std(0))
        assert change[p].numpy() == pytest.approx(np.abs(np.diff(cell, axis=0)).mean(0) if len(cell) > 1 else np.zeros(3))
        for quantile, found in ((0.1, low), (0.5, high)):
            assert found[p].numpy() == pytest.approx(np.sort(cell, axis=0)[round(quantile * (len(cell) - 1))])


def test_a_rhythm_shows_where_it_is_whenever_it_begins():
    codec, encoder, _ = fitted(random_sounds())
    for hz in (4, 8, 16):
        late = np.roll(tone(1000, 1.0, hz), 700)
        found = raw(codec, encoder, [tone(1000, 1.0, hz), late, np.tile(tone(1000, 1.0, hz), 2)])
        strength = found[:, blocks(codec, encoder)["modulation"]].view(3, 8, codec.mels).sum(2)
        assert (strength.argmax(1) == [2, 4, 6, 8, 12, 16, 24, 32].index(hz)).all()
        torch.testing.assert_close(strength[1], strength[0], atol=0.1 * float(strength.max()), rtol=0)


def test_modulation_by_plain_loops():
    codec, encoder, _ = fitted(random_sounds())
    level, mask = encoder._levels(codec.collate([codec.clean(codec.read(tone(600, 1.7, 3))), codec.clean(codec.read(tone(600, 0.2, 3)))]))
    loud, _ = _loudness(level, mask)
    bands, _ = encoder._modulation(loud, mask)
    for p in range(2):
        line = loud[p, mask[p], 12].double().numpy()
        line = line - line.mean()
        for r, hz in enumerate((2, 4, 6, 8, 12, 16, 24, 32)):
            turned = [
                abs(sum(v * np.exp(-2j * np.pi * hz * t / 100) for t, v in enumerate(line[at : at + 100])))
                for at in range(0, len(line), 100)
            ]
            assert float(bands[p].view(8, -1)[r, 12]) == pytest.approx(sum(turned) / len(line), abs=1e-4)


def test_the_picture_says_when_and_in_which_band():
    codec, encoder, _ = fitted(random_sounds())
    low_then_high = np.concatenate([tone(300, 0.5), tone(2500, 0.5)])
    picture = raw(codec, encoder, [low_then_high])[0, blocks(codec, encoder)["picture"]].view(10, -1)
    peaks = picture.argmax(1)
    assert (peaks[:4] == peaks[0]).all() and (peaks[6:] == peaks[9]).all() and peaks[0] < peaks[9]
    slow = np.concatenate([tone(300, 1.0), tone(2500, 1.0)])  # the same at half the pace
    again = raw(codec, encoder, [slow])[0, blocks(codec, encoder)["picture"]].view(10, -1)
    assert (again.argmax(1) == peaks).float().mean() >= 0.8


def test_patches_answer_as_whitened_patches_do():
    codec, encoder, x = fitted(random_sounds(), patches=5, patch_ms=40)
    level, mask = encoder._levels(x)
    loud, _ = _loudness(level, mask)
    found = encoder._occurrences(loud, mask).view(30, 3, 2, 5)
    assert encoder.atoms.shape == (5, 40, 4)
    line = loud[3, mask[3]]
    around = torch.cat([line[:1], line, line[-1:], line[-1:]])  # one moment before, two after
    answers = torch.stack([(encoder.atoms * around[t : t + 4].T).sum((1, 2)) - encoder.offset for t in range(len(line))])
    shares = _shares(mask[3:4, : len(line)], 3)[0]
    for sign, at in ((1, 0), (-1, 1)):
        torch.testing.assert_close(found[3, :, at], shares @ (sign * answers - 0.25).relu(), atol=1e-4, rtol=1e-4)
    windows = encoder._windows(loud, mask)[mask]
    assert ((windows * encoder.atoms[0]).sum((1, 2)) - encoder.offset[0]).mean().abs() < 0.3  # about as often above as below


def test_fitted_alike_twice_and_from_any_batches_and_saved():
    cells = random_sounds()
    codec, encoder, x = fitted(cells)
    torch.manual_seed(99)
    again = encoders.build("audio-descriptors", codec, 16).eval()
    again.fit({k: v[at : at + 7] for k, v in x.items()} for at in range(0, 30, 7))
    for name, buffer in encoder.named_buffers():
        torch.testing.assert_close(dict(again.named_buffers())[name], buffer, atol=1e-4, rtol=1e-4)
    loaded = encoders.build("audio-descriptors", codec, 16).eval()
    loaded.load_state_dict(encoder.state_dict())
    assert torch.equal(loaded.features(x).x, encoder.features(x).x)


def test_nothing_learned_is_a_parameter():
    _, encoder, x = fitted(random_sounds())
    assert {name for name, _ in encoder.named_parameters()} == {"out.weight", "out.bias"}
    assert not encoder.features(x).x.requires_grad


def test_a_long_stream_is_sampled_not_held():
    codec, encoder, x = fitted(random_sounds(4))
    held = []

    def stream():
        for _ in range(500):
            held.append(1)
            yield x

    encoder.fit(stream())
    assert len(held) == 500 and len(evenly(range(2000), 400)) == 500


def test_constant_sounds_give_finite_equal_features():
    codec, encoder, x = fitted([np.zeros(2000)] * 4)
    assert torch.isfinite(encoder.features(x).x).all()
    assert not encoder.features(x).x.any()


def test_it_tells_a_planted_rule_in_noise():
    """Two tones that rise or fall: the same bands, the same loudness, another order."""
    draws = np.random.default_rng(0)

    def one(rising, seed):
        first, second = (400, 1600) if rising else (1600, 400)
        sound = np.concatenate([tone(first, draws.uniform(0.15, 0.3)), tone(second, draws.uniform(0.15, 0.3))])
        return sound + np.random.default_rng(seed).normal(0, 0.3, len(sound))

    truth = np.arange(120) % 2
    codec, encoder, x = fitted([one(r, i) for i, r in enumerate(truth)])
    found = encoder.features(x).x[:, 0].numpy().astype(np.float64)
    learn, rest = slice(0, 60), slice(60, None)
    weights = found[learn].T @ np.linalg.solve(found[learn] @ found[learn].T + 100 * np.eye(60), 2.0 * truth[learn] - 1)
    assert ((found[rest] @ weights > 0) == truth[rest]).mean() > 0.95


@pytest.mark.parametrize(("option", "near"), [({"patch": 3}, "patches"), ({"segment": 3}, "segments"), ({"parts": 0}, "parts")])
def test_wrong_options_are_refused(option, near):
    with pytest.raises(RecipeError, match=near):
        encoders.build("audio-descriptors", AudioCodec("a"), 8, **option)
