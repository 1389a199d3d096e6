"""Pictures and clips described without training: what the numbers say, against plain formulas, and what must not change them."""

import math

import numpy as np
import pytest
import torch

from polyfuse.core import RecipeError, codecs, encoders
from polyfuse.core.descriptors import PatchWords, PictureDescriptors, Standardised, brightness, colours, directed, gradients, slopes
from polyfuse.modalities.image import ImageCodec
from polyfuse.modalities.video import VideoCodec
from polyfuse.modalities.video.motion import MOTION, _by_time, motion

FLOWS = 8 * 16 * 3  # numbers of `motion` that are directions, by time, square, direction
WAY = 12


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def stripes(angle, colour=(255, 255, 255), side=32, seed=0):
    """Stripes across the direction `angle`, in a colour, at a random shift, in noise."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    wave = 0.5 + 0.4 * np.sin(0.9 * (x * math.cos(angle) + y * math.sin(angle)) + draws.uniform(0, 6))
    return (wave[..., None] * np.array(colour) + draws.normal(0, 8, (side, side, 3))).clip(0, 255).astype(np.uint8)


def fitted(name, codec, cells, width=8, **options):
    """An encoder fitted on the cells, and the collated cells."""
    read = [codec.read(c) for c in cells]
    codec.fit(iter(read))
    x = codec.collate([codec.clean(v) for v in read])
    encoder = encoders.build(name, codec, width, **options).eval()
    encoder.fit([x])
    return encoder, x


def pictures_fitted(cells, codec=None, **options):
    return fitted("image-descriptors", codec or ImageCodec("i"), cells, **options)


def given(encoder, codec, cells):
    return encoder.features(codec.collate([codec.clean(codec.read(c)) for c in cells])).x[:, 0]


# -- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["image", "video"])
def test_the_modality_has_it_unless_told_otherwise(modality):
    name = codecs.get(modality).untrained
    assert name == f"{modality}-descriptors"
    encoder = encoders.build(name, codecs.build(modality, "a"), 4)
    assert encoder.frozen and {n.split(".")[0] for n, _ in encoder.named_parameters()} == {"out"}
    with pytest.raises(RecipeError, match="did you mean 'words'"):
        encoders.build(name, codecs.build(modality, "a"), 4, word=3)


@pytest.mark.parametrize(("channels", "words", "directions"), [(3, 16, 32), (1, 16, 32), (3, 5, 7)])
@pytest.mark.parametrize("side", [16, 28, 64, 224])
def test_one_vector_of_a_length_that_no_data_changes(side, channels, words, directions):
    cells = [noise(side, side, channels, seed=i) for i in range(3)]
    codec = ImageCodec("i", size=side, channels=channels)
    encoder, x = pictures_fitted(cells, codec, words=words, directions=directions)
    encoded = encoder.features(x)
    length = 4 * words * (2 + min(directions, 16 * channels)) + 392 + 32 * channels
    assert encoded.x.shape == (3, 1, length) and encoded.mask.shape == (3, 1) and encoded.mask.all()
    assert encoded.x.isfinite().all() and encoder.project(encoded).shape == (3, 1, 8)


def test_features_are_standardised_over_the_pictures_they_were_fitted_on():
    encoder, x = pictures_fitted([stripes(i, (200, 8 * i, 100), seed=i) for i in range(24)])
    found = encoder.features(x).x[:, 0]
    assert found.abs().max() <= 10 and found.mean(0).abs().max() < 1e-3
    spread = found.std(0, correction=0)
    assert ((spread - 1).abs() < 1e-3).float().mean() > 0.95


def test_standardised_leaves_what_never_varies_unscaled():
    standard = Standardised(3)
    standard.fit(torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 1e-5]]))
    assert torch.allclose(standard(torch.tensor([[4.0, 6.0, 100.0]])), torch.tensor([[2.0, 1.0, 10.0]]), atol=1e-4)


def test_same_pictures_same_encoder_whatever_was_drawn_before():
    cells = [noise(20, 20, 3, seed=i) for i in range(6)]
    torch.manual_seed(1)
    one, _ = pictures_fitted(cells)
    torch.manual_seed(2)
    two, _ = pictures_fitted(cells)
    for (name, a), (_, b) in zip(one.named_buffers(), two.named_buffers(), strict=True):
        assert torch.equal(a, b), name


def test_without_cells_it_stays_as_built_and_takes_what_another_learned():
    cells = [noise(20, 20, 3, seed=i) for i in range(6)]
    encoder, x = pictures_fitted(cells)
    codec = ImageCodec("i")
    codec.fit(codec.read(c) for c in cells)
    fresh = encoders.build("image-descriptors", codec, 8).eval()
    before = {n: b.clone() for n, b in fresh.named_buffers()}
    fresh.fit([])
    assert all(torch.equal(b, before[n]) for n, b in fresh.named_buffers())
    first = fresh.features(x).x
    assert first.isfinite().all() and first.std(0).max() > 0.01  # random words describe too
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(fresh.features(x).x, encoder.features(x).x)


@pytest.mark.parametrize("cells", [[noise(20, 20, 3)], [np.full((20, 20, 3), 7, np.uint8)] * 3, [np.zeros((16, 16), np.uint8)]])
def test_one_picture_or_plain_ones_are_enough(cells):
    encoder, x = pictures_fitted(cells)
    assert encoder.features(x).x.isfinite().all()
    assert not encoder.features(x).x.abs().max() > 0.01  # all the same: nothing differs from the mean


def test_several_pictures_of_a_cell_are_averaged_in_any_order():
    a, b, c = (stripes(i, seed=i) for i in range(3))
    codec = ImageCodec("i")
    encoder, _ = pictures_fitted([a, b, c, [a, b]], codec)
    found = given(encoder, codec, [a, [a, a, a], [a, b, c], [c, a, b], [a, b]])
    assert torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.allclose(found[2], found[3], atol=1e-3)
    assert not torch.allclose(found[2], found[4], atol=0.1)
    describe = encoder.describe
    plain = slice(describe.fine.size + describe.coarse.size, None)  # edges and colours: the mean of the pictures'
    alone = [encoder.describe(torch.from_numpy(codec.clean(codec.read(p))["pixels"])[None], torch.ones(1, 1, dtype=bool)) for p in (a, b)]
    both = encoder.describe(torch.from_numpy(codec.clean(codec.read([a, b]))["pixels"])[None], torch.ones(1, 2, dtype=bool))
    assert torch.allclose(both[:, plain], (alone[0] + alone[1])[:, plain] / 2, atol=1e-6)


def test_many_pictures_go_through_in_pieces():
    cells = [noise(16, 16, 3, seed=i) for i in range(40)]
    codec = ImageCodec("i")
    encoder, x = pictures_fitted(cells, codec)
    together = encoder.features(x).x[:, 0]
    for i in (0, 15, 16, 39):
        assert torch.allclose(given(encoder, codec, [cells[i]])[0], together[i], atol=1e-3)


def test_patch_words_are_the_gradients_of_a_mixture():
    """Against loops over patches and words: d log p / d mean and d deviation, each by its information (Perronnin et al., eq. 6-7)."""
    torch.manual_seed(0)
    pictures = torch.rand(5, 2, 9, 9)
    words = PatchWords(2, step=2, words=3, directions=6)
    words.fit(pictures)
    one = pictures[:1]
    count, directions = len(words.share), words.centre.shape[1]
    pull, widen, patches = np.zeros((count, directions)), np.zeros((count, directions)), []
    for row in range(0, 6, 2):
        for column in range(0, 6, 2):
            patch = one[0, :, row : row + 4, column : column + 4]
            white = [(float((f * patch).sum()) + float(o)) for f, o in zip(words.filters, words.offset)]
            patches.append([*white, -1.5 + 1.5 * row / 2, -1.5 + 1.5 * column / 2])
    centre, deviation, share = words.centre.numpy().astype(float), words.deviation.numpy().astype(float), words.share.numpy().astype(float)
    for patch in np.array(patches):
        z = (patch - centre) / deviation
        likelihood = share * np.exp(-0.5 * (z**2).sum(1)) / deviation.prod(1)
        belongs = likelihood / likelihood.sum()
        for k in range(count):
            pull[k] += belongs[k] * z[k] / math.sqrt(share[k]) / len(patches)
            widen[k] += belongs[k] * (z[k] ** 2 - 1) / math.sqrt(2 * share[k]) / len(patches)
    expected = np.concatenate([pull, widen], 1).ravel()
    expected = expected / np.sqrt(np.abs(expected) + 0.01)
    assert words.size == len(expected) and words.moments(one).shape == (1, words.length)
    np.testing.assert_allclose(words(words.moments(one))[0].numpy(), expected, atol=2e-4)


def test_patches_are_whitened():
    torch.manual_seed(0)
    pictures = torch.nn.functional.avg_pool2d(torch.rand(60, 3, 34, 34), 3, 1)  # neighbours are alike
    words = PatchWords(3, step=1, words=4, directions=8)
    words.fit(pictures)
    white = words._patches(pictures)[:, :8].transpose(1, 2).flatten(0, 1)
    assert white.mean(0).abs().max() < 0.1
    assert (white.T @ white / len(white) - torch.eye(8)).abs().max() < 0.15


def test_words_become_probable_and_have_the_moments_of_all_patches():
    torch.manual_seed(0)
    pictures = torch.rand(60, 1, 7, 7) * torch.tensor([0.2, 1.0]).repeat(30).view(-1, 1, 1, 1)  # 16 patches each: all are used
    words, fresh = (PatchWords(1, step=1, words=3, directions=4) for _ in range(2))
    words.fit(pictures)
    values = words._patches(pictures).transpose(1, 2).flatten(0, 1)

    def likelihood(w):
        parts = [s.log() + torch.distributions.Normal(c, d).log_prob(values).sum(1) for s, c, d in zip(w.share, w.centre, w.deviation)]
        return float(torch.stack(parts).logsumexp(0).mean())

    assert likelihood(words) > likelihood(fresh) + 1
    share = words.share.unsqueeze(1)
    assert float(share.sum()) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose((share * words.centre).sum(0), values.mean(0), atol=1e-4)
    squares = (share * (words.centre.square() + words.deviation.square())).sum(0)
    held = words.deviation.square().min(0).values <= 0.0501  # a variance has a least, which adds to these
    assert not held.all() and torch.allclose(squares[~held], values.square().mean(0)[~held], atol=1e-3)


@pytest.mark.parametrize("direction", range(8))
def test_edges_are_found_in_their_direction(direction):
    angle = direction * math.pi / 4
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    ramp = (x * math.cos(angle) + y * math.sin(angle)) / 60  # grows brighter towards the angle
    strength = gradients(ramp[None, None]).view(8, 7, 7)
    assert (strength[:, 1:-1, 1:-1].argmax(0) == direction).all()
    assert strength[direction, 3, 3] > strength[(direction + 1) % 8, 3, 3] > strength[(direction + 4) % 8, 3, 3] == 0


def test_edges_say_nothing_of_contrast_and_are_zero_where_there_are_none():
    picture = torch.from_numpy(stripes(0.7)[..., 0] / 255).float()[None, None]
    assert torch.allclose(gradients(picture), gradients(0.5 * picture + 0.2), atol=0.03)
    assert not gradients(torch.full((1, 1, 16, 16), 0.4)).any()


def test_slopes_and_directions_by_loops():
    picture = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    right, down = slopes(picture)
    arrows = directed(right, down)
    p = picture[0, 0].numpy()
    for y in range(5):
        for x in range(6):
            dx = p[y, min(x + 1, 5)] - p[y, max(x - 1, 0)]
            dy = p[min(y + 1, 4), x] - p[max(y - 1, 0), x]
            for b in range(8):
                expected = max(0.0, dx * math.cos(b * math.pi / 4) + dy * math.sin(b * math.pi / 4))
                assert float(arrows[0, b, y, x]) == pytest.approx(expected, abs=1e-6)


def test_colours_by_loops():
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = colours(picture).view(2, 2, 3, 4, 4)
    square = picture[1, 2, 4:8, 12:16]
    assert float(found[1, 0, 2, 1, 3]) == pytest.approx(float(square.mean()), abs=1e-6)
    assert float(found[1, 1, 2, 1, 3]) == pytest.approx(math.sqrt(float(square.var(correction=0)) + 1e-3), abs=1e-5)


def test_the_side_is_bounded_and_brightness_is_a_root():
    for side, described in ((8, 16), (16, 16), (48, 48), (64, 64), (96, 64), (224, 64)):
        assert brightness(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape == (1, 3, described, described)
    assert torch.allclose(brightness(torch.full((1, 1, 128, 128), 51, dtype=torch.uint8)), torch.tensor(0.2).sqrt())
    coarse, fine = noise(64, 64, 3), np.kron(noise(64, 64, 3), np.ones((2, 2, 1), np.uint8))
    assert torch.allclose(*(brightness(torch.from_numpy(p.transpose(2, 0, 1).copy())[None]) for p in (coarse, fine)), atol=1e-6)


def test_textures_and_colours_are_told_apart_by_the_nearest_mean():
    kinds = [(angle, colour) for angle in (0.0, 0.8, 1.6) for colour in ((250, 90, 60), (90, 200, 250))]
    cells = [stripes(*kinds[i % 6], seed=i) for i in range(90)]
    codec = ImageCodec("i")
    encoder, x = pictures_fitted(cells[:60], codec)
    kind = torch.arange(60) % 6
    means = torch.stack([encoder.features(x).x[:, 0][kind == k].mean(0) for k in range(6)])
    found = torch.cdist(given(encoder, codec, cells[60:]), means).argmin(1)
    assert (found == torch.arange(60, 90) % 6).float().mean() > 0.95


def test_pictures_without_a_real_one_are_zero():
    describe = PictureDescriptors(3, 16, words=4, directions=8)
    pixels, mask = torch.from_numpy(noise(2, 3, 3, 16, 16)), torch.tensor([[True, False, False], [False] * 3])
    found = describe(pixels, mask)
    assert found.isfinite().all() and found[0].abs().sum() > 0 and not found[1].any()


# -- clips --------------------------------------------------------------------------------------------------------


def moving(dx, dy, frames=8, side=48, at=(24.0, 24.0), size=9, clutter=0):
    """A square that moves by (dx, dy) pixels a frame and is in `at` half-way, over a ground that stands still: [T, side, side]."""
    ground = np.random.default_rng(clutter).integers(0, 60, (side, side)) if clutter else np.zeros((side, side))
    clip = np.repeat(ground[None], frames, 0)
    for t in range(frames):
        x, y = (round(a + d * (t - (frames - 1) / 2) - size / 2) for a, d in zip(at, (dx, dy)))
        clip[t, max(y, 0) : y + size, max(x, 0) : x + size] = 250
    return clip.astype(np.uint8)


def moved(clip, frames=None):
    """`motion` of one clip, of its first frames."""
    mask = torch.ones(1, len(clip), dtype=torch.bool)
    mask[:, frames or len(clip) :] = False
    x = torch.from_numpy(clip)[None].float() / 255
    return motion(x.masked_fill(~mask[..., None, None], 0.0), mask)[0]


@pytest.mark.parametrize("direction", range(8))
def test_the_direction_of_motion_is_the_strongest(direction):
    angle = direction * math.pi / 4
    found = moved(moving(3 * math.cos(angle), 3 * math.sin(angle), clutter=1))[:FLOWS].view(3, 8, 16)
    energy = found.square().sum((0, 2))
    # a square has upright and level edges only: aslant it shows both parts of its way
    assert energy[direction] > 3 * energy[(direction + 4) % 8]
    if direction % 2 == 0:
        assert energy.argmax() == direction


def test_the_way_says_where_it_is_and_when():
    way = moved(moving(4, 0, clutter=1))[FLOWS : FLOWS + WAY].view(4, 3)
    assert (way[:, 0].diff() > 0.1).all() and way[:, 1].abs().max() < 0.15  # to the right, at the same height
    assert moved(moving(-4, 0))[FLOWS : FLOWS + WAY].view(4, 3)[:, 0].diff().max() < -0.1
    low = moved(moving(4, 0, at=(24, 38)))[FLOWS : FLOWS + WAY].view(4, 3)
    assert (low[:, 1] > 0.3).all()


def test_what_moves_looks_the_same_wherever_it_goes():
    cut = slice(FLOWS + WAY, FLOWS + WAY + 392)
    square = [moved(moving(dx, dy, at=at))[cut] for dx, dy, at in ((5, 0, (24, 14)), (0, 5, (12, 24)), (5, 0, (24, 34)))]
    large = moved(moving(0.4, 0.4, size=25))[cut]
    assert torch.dist(square[0], square[2]) < 0.5 * torch.dist(square[0], large)


def test_of_a_still_picture_only_the_way_is_told():
    for clip in (moving(0, 0, frames=1), moving(0, 0, frames=5, clutter=1)):
        found = moved(clip)
        assert found.shape == (MOTION,) and not found[:FLOWS].any() and found[FLOWS + WAY :].abs().max() < 1e-4
        way = found[FLOWS : FLOWS + WAY].view(4, 3)
        real = way[:, 2] > 0  # one frame has one part of time
        assert way[:, :2].abs().max() < 1e-4 and torch.allclose(way[real, 2], torch.tensor(2.2 / math.sqrt(3)), atol=1e-3)


def test_parts_of_time_are_of_the_rows_own_time():
    found = torch.arange(12.0).view(1, 6, 2).repeat(2, 1, 1)
    mask = torch.tensor([[True] * 6, [True, True, True, False, False, False]])
    parts = _by_time(found, mask, 3)
    assert parts.tolist() == [[[1, 2], [5, 6], [9, 10]], [[0, 1], [2, 3], [4, 5]]]
    assert not _by_time(found, mask & False, 3).any()


def test_a_longer_neighbour_changes_nothing():
    codec = VideoCodec("v", frames=9)
    clips = [moving(2, 1, frames=9, clutter=1), moving(-2, 0, frames=4), moving(0, 3, frames=1), moving(1, -2, frames=7)]
    encoder, x = fitted("video-descriptors", codec, clips)
    together = encoder.features(x)
    length = 4 * 16 * (2 + 16) + 392 + 32 + MOTION
    assert together.x.shape == (4, 1, length) and together.mask.all() and together.x.isfinite().all()
    for i, clip in enumerate(clips):
        assert torch.allclose(given(encoder, codec, [clip])[0], together.x[i, 0], atol=1e-3)


def test_clips_are_told_apart_by_what_moves_and_how():
    draws = np.random.default_rng(0)
    ways, sizes = [(3, 0), (-3, 0), (0, 3), (0, -3)], [7, 15]

    def clip(i):
        return moving(*ways[i % 4], at=draws.uniform(20, 28, 2), size=sizes[i // 4 % 2], clutter=i + 1)

    codec = VideoCodec("v")
    encoder, x = fitted("video-descriptors", codec, [clip(i) for i in range(64)])
    kind = torch.arange(64) % 8
    means = torch.stack([encoder.features(x).x[:, 0][kind == k].mean(0) for k in range(8)])
    found = torch.cdist(given(encoder, codec, [clip(i) for i in range(24)]), means).argmin(1)
    assert (found == torch.arange(24) % 8).float().mean() > 0.9
