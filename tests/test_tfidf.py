"""`text-tfidf`: n-grams against plain loops, its directions, scripts without spaces, and what must not change it."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

from polyfuse.core import RecipeError
from polyfuse.modalities.text import Text, TextTerms, TextTfidf, ngrams, tfidf

REVIEWS = [
    "Red shoes, red laces and a red box!",
    "blue shoes",
    "the laces broke; the box was torn",
    "I love the blue box, I love it",
    "Größe passt. GRÖSSE passt nicht?",
    "don't buy",
]


def fitted(cells: list[str], **options) -> tuple[TextTfidf, Text]:
    codec = Text("review")
    codec.fit(iter(cells))
    torch.manual_seed(0)
    encoder = TextTfidf(codec, 8, **options).eval()
    encoder.fit([collated(codec, cells)])
    return encoder, codec


def collated(codec: Text, cells: list[str]) -> dict[str, torch.Tensor]:
    return codec.collate([codec.clean(codec.read(cell)) for cell in cells])


def vectors(encoder: TextTfidf, codec: Text, cells: list[str]) -> torch.Tensor:
    return encoder.features(collated(codec, cells)).x[:, 0]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def plain_words(cell: str) -> list[str]:
    words = re.findall(r"\w+|[!?]", cell.lower())
    return words + [f"{a} {b}" for a, b in zip(words, words[1:])]


def plain_pieces(cell: str) -> list[str]:
    out = []
    for word in cell.lower().split():
        padded = f" {word} "
        out += [padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1)]
    return out


def plain_similarities(cells: list[list[str]], power: float) -> np.ndarray:
    """The products of all pairs of weighed, normalised counts, term by term."""
    seen = Counter(term for cell in cells for term in set(cell))
    rarity = {term: (math.log((len(cells) + 1) / (n + 1)) + 0.5) ** power for term, n in seen.items()}
    rows = []
    for cell in cells:
        row = {term: (1 + math.log(n)) * rarity[term] for term, n in Counter(cell).items()}
        length = math.sqrt(sum(v * v for v in row.values()))
        rows.append({term: v / length for term, v in row.items()})
    return np.array([[sum(v * b.get(term, 0.0) for term, v in a.items()) for b in rows] for a in rows])


@pytest.mark.parametrize("kind, plain, power", [("words", plain_words, 2.0), ("pieces", plain_pieces, 1.0)])
def test_counts_are_those_of_plain_loops(kind, plain, power):
    encoder, _ = fitted(REVIEWS, pieces=True)
    terms = getattr(encoder, kind)
    counts = terms.count(ngrams.characters(REVIEWS))
    cells = [plain(cell) for cell in REVIEWS]
    assert counts.shape == (len(REVIEWS), len({term for cell in cells for term in cell}))
    assert np.allclose((counts @ counts.T).toarray(), plain_similarities(cells, power), atol=1e-5)


def test_a_text_without_spaces_counts_its_characters_and_their_pairs():
    cells = ["红色的鞋子", "红色的帽子", "👟👍🏽"]
    words = ["红 色 的 鞋 子", "红 色 的 帽 子", "👟 👍"]  # the tone of a skin is no word
    ours = ngrams.counted(*ngrams.words_of(ngrams.characters(cells)))
    spaced = ngrams.counted(*ngrams.words_of(ngrams.characters(words)))
    assert all(np.array_equal(a, b) for a, b in zip(ours, spaced))
    assert np.bincount(ours[0]).tolist() == [5 + 4, 5 + 4, 2 + 1]


@pytest.mark.parametrize(
    "cell, same",
    [
        ("RED\tshoes", "red shoes"),
        ("red  \n shoes", "red shoes"),
        ("hy\u00adphen", "hyphen"),
        ("\u2764\ufe0f", "\u2764"),
        ("हिन्दी में", "हिन्दी \n में"),
        ("red, shoes.", "red shoes"),
    ],
)
def test_what_makes_no_other_words(cell, same):
    a, b = (ngrams.counted(*ngrams.words_of(ngrams.characters([text]))) for text in (cell, same))
    assert np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])


def test_a_mark_belongs_to_its_letter():
    assert len(ngrams.words_of(ngrams.characters(["हिन्दी"]))[0]) == 1


def test_directions_are_orthogonal_over_the_cells_learned_from_and_the_first_is_the_strongest():
    cells = [f"{a} {b} {c}" for a in ("red", "blue", "green") for b in ("shoes", "socks", "hats") for c in ("fit", "tear", "shrink")]
    encoder, codec = fitted(cells, dims=64)
    x = vectors(encoder, codec, cells).double()
    rank = int((x.abs().sum(0) > 0).sum())
    assert 5 < rank <= len(cells)
    square = x[:, :rank].T @ x[:, :rank] / len(cells)
    strength = square.diagonal()
    assert torch.allclose(square, strength.diag(), atol=2e-2)  # half precision
    assert strength[0] == pytest.approx(1.0, abs=2e-2) and (strength[:-1] >= strength[1:] - 1e-3).all()
    assert not x[:, rank:].any()  # F is what was asked for, whatever the cells are


def test_every_similarity_survives_where_there_are_directions_enough():
    encoder, codec = fitted(REVIEWS, dims=16)
    counts = encoder.counts(ngrams.characters(REVIEWS)).toarray()
    found = encoder.directions.float().numpy()
    back = (counts @ found) @ np.linalg.pinv(found)
    assert np.allclose(back, counts, atol=1e-2)


def test_a_rare_word_outweighs_frequent_ones():
    generator = np.random.default_rng(0)
    fillers = ["the", "it", "was", "and", "this", "for", "with", "my", "is", "on", "size", "fit", "dress"]
    cells = [" ".join([*generator.choice(fillers, 20), generator.choice(["awful", "lovely"])]) for _ in range(600)]
    encoder, codec = fitted(cells, dims=64)
    x = vectors(encoder, codec, cells).numpy()
    truth = np.array([1.0 if cell.endswith("lovely") else -1.0 for cell in cells])
    weights, *_ = np.linalg.lstsq(x[:300], truth[:300], rcond=None)
    assert ((x[300:] @ weights > 0) == (truth[300:] > 0)).mean() > 0.9


def test_pieces_are_counted_where_cells_are_short():
    short, codec = fitted(["comfortable shoes", "lovely dress", "comfortable dress", "lovely shoes"] * 5)
    assert len(short.pieces) > 0
    right, misspelt, other = vectors(short, codec, ["comfortable", "comfortabel", "lovely"])
    assert cosine(right, misspelt) > 0.5 > cosine(other, misspelt)
    long = ["these shoes are comfortable and I would buy them again for my sister and for her friend"] * 20
    assert len(fitted(long)[0].pieces) == 0
    assert len(fitted(long, pieces=True)[0].pieces) > 0
    assert len(fitted(["shoes", "dress"], pieces=False)[0].pieces) == 0


def test_only_the_most_frequent_terms_are_kept():
    cells = [f"shoes{i} red" for i in range(300)] + ["red shoes"] * 10
    encoder, _ = fitted(cells, terms=5, pieces=False)
    assert len(encoder.words) == 3  # red, shoes, red shoes: each other one is in a single cell
    assert len(fitted(cells, terms=2, pieces=True)[0].words) == 2
    assert encoder.directions.shape == (3, 256)


def test_a_word_that_was_never_seen_is_nothing():
    encoder, codec = fitted(["red shoes", "blue shoes"], pieces=False)
    assert not vectors(encoder, codec, ["quagga"]).any()
    assert torch.equal(vectors(encoder, codec, ["red quagga shoes"]), vectors(encoder, codec, ["red", "red zebu shoes"])[1:])


def test_neighbours_and_chunks_change_nothing(monkeypatch):
    encoder, codec = fitted(REVIEWS, pieces=True)
    together = vectors(encoder, codec, REVIEWS)
    for cell, vector in zip(REVIEWS, together):
        assert torch.allclose(vectors(encoder, codec, [cell])[0], vector, atol=1e-6)
    monkeypatch.setattr(tfidf, "_CHUNK", 4)
    assert torch.allclose(vectors(encoder, codec, REVIEWS), together, atol=1e-6)
    again, _ = fitted(REVIEWS, pieces=True)
    assert torch.equal(again.words.terms, encoder.words.terms) and torch.equal(again.words.weight, encoder.words.weight)


def test_any_tokens_leave_the_rows_in_their_place():
    encoder, codec = fitted(REVIEWS)
    nul = codec.tokenizer.token_to_id("\u0100")  # byte 0, which no cell has, but noise may make
    assert codec.tokenizer.decode([nul]) == "\0"
    x = collated(codec, REVIEWS[:2])
    x["ids"][0] = nul
    assert torch.equal(encoder.features(x).x[1, 0], vectors(encoder, codec, REVIEWS[:2])[1])
    x["ids"][0] = codec.blank  # what `augment` hides behind
    assert not encoder.features(x).x[0].any()


def test_an_encoder_takes_the_state_of_another():
    encoder, codec = fitted(REVIEWS, pieces=True, dims=12)
    again = TextTfidf(codec, 8, dims=12).eval()
    again.load_state_dict(encoder.state_dict())
    x = collated(codec, REVIEWS)
    assert torch.equal(again.features(x).x, encoder.features(x).x) and torch.equal(again(x)[0], encoder(x)[0])
    assert [name for name, _ in encoder.named_parameters()] == ["out.weight", "out.bias"]
    assert encoder.directions.dtype == torch.float16


@pytest.mark.parametrize("stream", [[], "no rows", "no words"])
def test_nothing_to_learn_from(stream):
    codec = Text("review")
    encoder = TextTfidf(codec, 8)
    x = collated(codec, ["red shoes", "..."])
    if stream == "no rows":
        stream = [{name: value[:0] for name, value in x.items()}]
    elif stream == "no words":
        stream = [collated(codec, ["... --", "(-)"])]
        encoder = TextTfidf(codec, 8, pieces=False)
    assert not encoder.features(x).x.any()
    encoder.fit(stream)
    out = encoder.features(x)
    assert out.x.shape == (2, 1, 256) and not out.x.any() and out.mask.all()
    assert torch.isfinite(encoder(x)[0]).all()


def test_fit_keeps_a_sample_of_the_whole_stream(monkeypatch):
    monkeypatch.setattr(tfidf, "_CELLS", 50)
    codec = Text("review")
    batches = [collated(codec, [f"{word} shoes"] * 20) for word in ("red", "blue", "green", "black", "white") for _ in range(10)]
    kept = TextTfidf(codec, 8).texts(tfidf._sample(iter(batches)))
    found = Counter(text.split()[0] for text in kept)
    assert len(kept) == 50 and len(found) == 5 and max(found.values()) < 20
    assert kept == TextTfidf(codec, 8).texts(tfidf._sample(iter(batches)))


def test_words_of_a_checkpoint_are_whole(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    subwords = ["[UNK]", "red", "sho", "##es", "bl", "##ue"]
    tokenizer = Tokenizer(models.WordPiece({s: i for i, s in enumerate(subwords)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = Text("review", tokenizer=str(tmp_path))
    codec.fit(iter(["red shoes", "blue shoes"]))
    encoder = TextTfidf(codec, 8, pieces=False)
    encoder.fit([collated(codec, ["red shoes", "blue shoes"])])
    assert len(encoder.words) == 5  # red, blue, shoes, red shoes, blue shoes


@pytest.mark.parametrize("option, value", [("dims", 0), ("dims", 2.5), ("terms", -3)])
def test_options_out_of_range(option, value):
    with pytest.raises(RecipeError, match=rf"column 'review', option '{option}'.*is {value}.*whole number"):
        TextTfidf(Text("review"), 8, **{option: value})


# -- every term a column of its own -------------------------------------------------------------------------------


def test_terms_are_the_weighed_counts_of_plain_loops():
    _, codec = fitted(REVIEWS)
    encoder = TextTerms(codec, 8, pieces=False).eval()
    encoder.fit([collated(codec, REVIEWS)])
    found = encoder.features(collated(codec, REVIEWS))
    dense = np.zeros((len(REVIEWS), encoder.columns))
    for row, (pairs, real) in enumerate(zip(found.x, found.mask)):
        for column, value in pairs[real].tolist():
            dense[row, int(column)] += value
    known = Counter(term for cell in REVIEWS for term in set(plain_words(cell)))
    assert encoder.columns == len(known)
    np.testing.assert_allclose(dense @ dense.T, plain_similarities([plain_words(c) for c in REVIEWS], 1.0), atol=1e-5)


def test_a_cell_without_a_known_term_is_there_and_empty():
    _, codec = fitted(REVIEWS)
    encoder = TextTerms(codec, 8).eval()
    found = encoder.features(collated(codec, ["shoes"]))  # not fitted: no term is known
    assert encoder.columns == 0 and found.mask.tolist() == [[True]] and not found.x.any()
    encoder.fit([collated(codec, REVIEWS)])
    found = encoder.features(collated(codec, ["zzzz qqqq", "blue shoes"]))
    assert found.mask[0].sum() == 1 and not found.x[0].any() and found.mask[1].sum() > 1


def test_a_word_has_one_number_in_every_column_and_a_piece_never_that_of_a_word():
    made = []
    for cells in (REVIEWS, ["the blue sky", "a box"]):
        _, codec = fitted(cells)
        encoder = TextTerms(codec, 8, pieces=True).eval()
        encoder.fit([collated(codec, cells)])
        assert len(set(encoder.terms)) == len(encoder.terms) == encoder.columns and 0 not in encoder.terms
        made.append(encoder)
    reviews, others = made
    words = [set(e.terms[: len(e.words)]) for e in made]
    assert len(words[0] & words[1]) == 5  # the, blue, "the blue", a, box
    assert not words[0] & set(reviews.terms[len(reviews.words) :]) and not words[1] & set(others.terms[len(others.words) :])
