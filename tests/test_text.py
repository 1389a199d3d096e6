"""Text: any script survives, every odd cell has an answer, encoders keep rows apart."""

import json
import struct
import time

import numpy as np
import pytest
import torch

from polyfuse.core import DataError, Draws, RecipeError, codecs, encoders
from polyfuse.modalities.text import Text
from polyfuse.modalities.text.word_vectors import read_word_vectors

SENTENCES = [
    "the red dress is lovely",
    "a blue shirt, too small!",
    "这件衣服很漂亮，我喜欢",
    "Das Kleid ist schön",
    "это платье красивое",
    "هذا الفستان جميل",
    "👗👍 love it",
    "the blue dress is too small for me and the red shirt is lovely",
]
NAMES = ["text-bag", "text-gru", "text-lstm", "text-transformer"]


def fitted(**options) -> Text:
    codec = Text("review", **options)
    codec.fit(iter(SENTENCES * 3))
    return codec


def collated(codec: Text, cells: list[str]) -> dict[str, torch.Tensor]:
    return codec.collate([codec.clean(codec.read(c)) for c in cells])


@pytest.mark.parametrize("sentence", [*SENTENCES, "never seen: ไม่เคยเห็น ʔ 𓀀 \U0001f9ff"])
def test_every_script_survives_the_tokens(sentence):
    codec = Text("review", lowercase=False)
    codec.fit(iter([*SENTENCES, "".join(map(chr, range(0x1200, 0x1240)))]))  # long: nothing is cut off
    assert byte_text(codec, codec.clean(sentence)["ids"]) == " " + sentence


def byte_text(codec: Text, ids) -> str:
    from tokenizers.decoders import ByteLevel

    return ByteLevel().decode([codec.tokenizer.id_to_token(int(i)) for i in ids])


def test_lowercase_is_an_option():
    assert np.array_equal(fitted().clean("RED Dress")["ids"], fitted().clean("red dress")["ids"])
    plain = fitted(lowercase=False)
    assert not np.array_equal(plain.clean("RED Dress")["ids"], plain.clean("red dress")["ids"])


@pytest.mark.parametrize(
    "raw, text",
    [
        ("plain", "plain"),
        ("  spaced out \n", "spaced out"),
        ("", None),
        (" \t\r\n\u3000", None),
        (None, None),
        ("\x00\x01", None),
        ("a\x00b\x1fc", "a b c"),
        ("half \ud83d pair", "half   pair"),
        ("e\u0301", "é"),
        (12, "12"),
        (2.5, "2.5"),
        (True, "True"),
        (float("nan"), None),
        (np.float32(0.5), "0.5"),
        (np.str_("x y"), "x y"),
        ("schön".encode(), "schön"),
        (b"\xef\xbb\xbfbom", "bom"),
        (["one", None, " ", "two"], "one\ntwo"),
        ([None, ""], None),
        ([], None),
        (np.array(["a", "b"]), "a\nb"),
        (("a", 1), "a\n1"),
    ],
)
def test_read(raw, text):
    assert Text("t").read(raw) == text


@pytest.mark.parametrize(
    "raw, part",
    [
        ("naïve".encode("latin-1"), "not UTF-8, the first at byte 2"),
        ({"a": 1}, "cannot read a dict as text"),
        ([["nested"]], "a list as text"),
        (np.zeros((2, 2)), "ndarray as text"),
        (object(), "cannot read a object"),
    ],
)
def test_read_refuses_what_is_no_text(raw, part):
    with pytest.raises(DataError, match=part) as caught:
        Text("t").read(raw)
    assert str(caught.value).startswith("column 't': ") and "Expected" in str(caught.value)


@pytest.mark.parametrize(
    "huge",
    [
        "word " * 2_000_000,
        "x" * 10_000_000,
        "é" * 5_000_000,
        "文" * 5_000_000,
        " " * 9_999_999 + "end",
        ("ä" * 5_000_000).encode(),
        ["many "] * 1_000_000,
    ],
)
def test_ten_megabytes_in_a_cell_are_cut_early(huge):
    codec = fitted()
    start = time.process_time()
    ids = codec.clean(codec.read(huge))["ids"]
    assert 1 <= len(ids) <= codec.length and time.process_time() - start < 2


def test_bytes_cut_inside_a_character():
    codec = Text("t", longest=1)
    assert codec.read(("é" * 100).encode()) == "é" * 32
    assert codec.read(("a" + "文" * 100).encode()) == "a" + "文" * 31


def test_length_is_learned_and_longer_cells_are_cut():
    codec = Text("t", longest=50)
    codec.fit(iter(["one two three four"] * 200 + ["word " * 1000]))
    assert codec.length == len(codec.clean("one two three four")["ids"])
    assert len(codec.clean("word " * 1000)["ids"]) == codec.length
    assert fitted(longest=3).length == 3


def test_vocabulary_is_a_limit_and_fitting_is_repeatable():
    codec = fitted(vocabulary=300)
    assert codec.size == 301 and fitted(vocabulary=300).state() == codec.state()
    assert max(max(codec.clean(s)["ids"]) for s in SENTENCES) < codec.size - 1 == codec.blank


def test_state_is_json_and_complete():
    codec, again = fitted(), Text("review")
    again.load_state(json.loads(json.dumps(codec.state())))
    assert again.state() == codec.state() and (again.size, again.blank, again.length) == (codec.size, codec.blank, codec.length)
    for sentence in [*SENTENCES, "unseen words"]:
        assert np.array_equal(again.clean(sentence)["ids"], codec.clean(sentence)["ids"])


def test_nothing_to_fit_on_still_gives_a_codec():
    codec = Text("t")
    codec.fit(iter([]))
    assert byte_text(codec, codec.clean("fine 好")["ids"]) == " fine 好" and codec.filler()["ids"].dtype == np.int32


def test_many_at_once_equal_one_by_one():
    codec = fitted()
    for one, many in zip(map(codec.clean, SENTENCES), codec.clean_many(SENTENCES), strict=True):
        assert np.array_equal(one["ids"], many["ids"]) and many["ids"].dtype == np.int32


def test_a_cell_that_spells_a_special_token_is_only_text():
    codec = Text("t")
    assert byte_text(codec, codec.clean("[mask] <unk> [pad]")["ids"]) == " [mask] <unk> [pad]"


def test_augment_hides_single_tokens_by_row():
    codec = fitted(drop=0.5)
    x = collated(codec, SENTENCES)
    changed = codec.augment(x, Draws(0, 1, "review", np.arange(len(SENTENCES))))["ids"]
    hidden = changed != x["ids"]
    assert 0.3 < hidden[x["mask"]].float().mean() < 0.7 and not hidden[~x["mask"]].any()
    assert (changed[hidden] == codec.blank).all()
    alone = codec.augment(collated(codec, SENTENCES[2:3]), Draws(0, 1, "review", np.array([2])))["ids"][0]
    assert torch.equal(alone, changed[2, : len(alone)])
    assert fitted(drop=0.0).augment(x, Draws(0, 1, "review", np.arange(len(SENTENCES)))) is x


@pytest.mark.parametrize(
    "options, part",
    [
        ({"vocabulary": 10}, "vocabulary"),
        ({"longest": 0}, "longest"),
        ({"longest": 1.5}, "longest"),
        ({"drop": 1.0}, "drop"),
        ({"vocabulary": "8k"}, "whole number"),
    ],
)
def test_wrong_options(options, part):
    with pytest.raises(RecipeError, match=part):
        Text("t", **options)


def test_misspelt_option_is_named():
    with pytest.raises(RecipeError, match="did you mean 'vocabulary'"):
        codecs.build("text", "t", vocabularry=3000)


@pytest.mark.parametrize(
    "sample, low, high",
    [
        (SENTENCES, 0.7, 0.8),
        (["这件衣服很漂亮，我喜欢它的颜色", "质量不好，很失望，不推荐购买"], 0.7, 0.8),
        (["what color is the shape?"] * 50, 0.7, 0.8),
        (["red", "blue"] * 20, 0.0, 0.1),
        ([str(i) for i in range(50)], 0.0, 0.0),
        (["1,5 2,5 3,5", "2 3 4"], 0.0, 0.0),
        (["images/a b.jpg", "images/c.png"], 0.0, 0.0),
        (["C:\\x\\y.wav"], 0.0, 0.0),
        (["https://a.b/c d"], 0.0, 0.0),
        (['["a b c", "d e f"]'], 0.0, 0.0),
        (["2024-01-01 10:00:00"], 0.0, 0.0),
        ([1.5, 2.5], 0.0, 0.0),
        ([], 0.0, 0.0),
        (["", " "], 0.0, 0.0),
        ([b"bytes"], 0.0, 0.0),
        (["x1-77-a", "x9-13-b"], 0.0, 0.2),
    ],
)
def test_claims(sample, low, high):
    assert low <= Text.claims(sample) <= high


def test_a_tokenizer_file_is_taken_as_it_is(tmp_path):
    source = fitted(lowercase=False)
    (tmp_path / "tokenizer.json").write_text(json.dumps(source.state()["tokenizer"]), "utf-8")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        codec = Text("t", tokenizer=str(place))
        codec.fit(iter(["other words"]))
        assert np.array_equal(codec.words(["red dress"])[0], source.words(["red dress"])[0])
        assert codec.blank is None and codec.size == source.size - 1  # no id of it may stand for a hidden token


@pytest.mark.parametrize("content, part", [(b"{", "is no tokenizer"), (b'{"model": 1}', "is no tokenizer"), (b"\xff\xfe", "not UTF-8")])
def test_a_broken_tokenizer_file(tmp_path, content, part):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(RecipeError, match=part):
        Text("t", tokenizer=str(tmp_path)).fit(iter(["a b"]))


def test_a_tokenizer_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        Text("t", tokenizer=str(tmp_path / "no")).fit(iter(["a b"]))


# encoders


@pytest.mark.parametrize("name", NAMES)
def test_a_row_alone_equals_the_row_in_a_batch(name):
    codec = fitted()
    torch.manual_seed(0)
    encoder = encoders.build(name, codec, 16, **({} if name == "text-bag" else {"tokens": 7})).eval()
    cells = [*SENTENCES, "x", "word " * 300]
    x = collated(codec, cells)
    tokens, mask = encoder(x)
    assert mask.dtype == torch.bool and tokens.shape == (*mask.shape, 16) and tokens.shape[1] <= encoder.most_tokens
    for row, cell in enumerate(cells):
        alone, real = encoder(collated(codec, [cell]))
        torch.testing.assert_close(alone[0][real[0]], tokens[row][mask[row]], atol=1e-5, rtol=1e-5)
    x["ids"][~x["mask"]] = 10**6  # no index of the table: what lies under the mask is never looked at
    torch.testing.assert_close(encoder(x)[0], tokens)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_no_rows_are_no_problem(name):
    codec = fitted()
    encoder = encoders.build(name, codec, 15)
    tokens, mask = encoder(collated(codec, SENTENCES))
    tokens[mask].pow(3).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    empty, none = encoder({"ids": torch.zeros(0, 5, dtype=torch.int32), "mask": torch.zeros(0, 5, dtype=torch.bool)})
    assert empty.shape[0] == none.shape[0] == 0 and empty.shape[2] == 15
    filler = codec.collate([codec.filler()] * 2)
    assert encoder({**filler, "mask": filler["mask"] & False})[0].isfinite().all()


@pytest.mark.parametrize("name", NAMES[1:])
def test_long_cells_are_averaged_and_short_ones_keep_every_subword(name):
    codec = fitted()
    few, many = encoders.build(name, codec, 8, tokens=4).eval(), encoders.build(name, codec, 8, tokens=10**6).eval()
    many.load_state_dict(few.state_dict())
    x = collated(codec, SENTENCES[:1])
    full, pooled = many(x)[0][0], few(x)[0][0]
    assert len(full) == x["ids"].shape[1] > 4 and len(pooled) == 4
    groups = (torch.arange(len(full)) * 4) // len(full)
    for g in range(4):
        torch.testing.assert_close(pooled[g], full[groups == g].mean(0))


def test_word_order_counts_but_the_bag_sees_pairs_only():
    codec = fitted()
    for name in NAMES:
        encoder = encoders.build(name, codec, 8).eval()
        a, b = (encoder(collated(codec, [t]))[0].mean(1) for t in ("the red dress", "dress the red"))
        assert not torch.allclose(a, b)


@pytest.mark.parametrize("options", [{"tokens": 0}, {"tokens": 2.5}])
def test_wrong_encoder_options(options):
    with pytest.raises(RecipeError, match="tokens"):
        encoders.build("text-gru", fitted(), 8, **options)


# word vectors

WORDS = {"dress": [1.0, 0.0, 0.5], "red": [0.0, 2.0, -0.5], "shirt": [0.9, 0.1, 0.4], "über": [0.3, 0.3, 0.3]}


def written(tmp_path, form: str):
    path, lines = tmp_path / f"vectors.{form}", [" ".join([w, *map(str, v)]) for w, v in WORDS.items()]
    if form == "binary":
        body = b"".join(w.encode() + b" " + struct.pack("<3f", *v) + b"\n" for w, v in WORDS.items())
        path.write_bytes(b"4 3\n" + body)
    else:
        path.write_text(("4 3\n" if form == "word2vec" else "") + "\n".join(lines) + "\n", "utf-8", newline="\n")
    return path


@pytest.mark.parametrize("form", ["glove", "word2vec", "binary"])
def test_three_forms_of_word_vectors_are_read(tmp_path, form):
    found = dict(read_word_vectors(str(written(tmp_path, form)), 10))
    assert list(found) == list(WORDS)
    for word, vector in WORDS.items():
        np.testing.assert_allclose(found[word], vector, rtol=1e-6)
    assert len(list(read_word_vectors(str(written(tmp_path, form)), 2))) == 2


def test_a_glove_word_may_hold_spaces(tmp_path):
    (tmp_path / "g.txt").write_text("one 1 2\n. . 3 4\n", "utf-8")
    assert [w for w, _ in read_word_vectors(str(tmp_path / "g.txt"), 9)] == ["one", ". ."]


@pytest.mark.parametrize(
    "content, part",
    [
        (b"", "is empty"),
        (b"word\n", "has 0 numbers a word"),
        (b"red 1 2\nblue 1\n", "at its word 2"),
        (b"red 1 nan\n", "at its word 1"),
        (b"red 1 x\n", "at its word 1"),
        (b"9 2\nred 1 2\n", "promises 9 words, 1 are there"),
        (b"3 99999\nred 1 2\n", "has 99999 numbers"),
        (b"2 2\nred " + struct.pack("<2f", 1, 2) + b"\nblue " + b"\x00", "promises 2 words, 1 are there"),
        (b"2 2\nred " + struct.pack("<2f", 1, float("inf")) + b"\nab " + struct.pack("<2f", 1, 1), "at its word 1"),
        (b"1 2\n" + b"\xff" * 5000, "at its word 1"),
        (b"\x89PNG\r\n" + bytes(300), "numbers a word|at its word 1"),
    ],
)
def test_a_broken_file_of_word_vectors_is_named(tmp_path, content, part):
    (tmp_path / "v.bin").write_bytes(content)
    with pytest.raises(DataError, match=part):
        list(read_word_vectors(str(tmp_path / "v.bin"), 100))


def test_missing_file_of_word_vectors(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_word_vectors(str(tmp_path / "no.txt"), 100))


@pytest.mark.parametrize("width", [2, 3, 8])
def test_training_starts_from_word_vectors_and_the_weights_do_not_need_the_file(tmp_path, width):
    codec, path = fitted(), written(tmp_path, "glove")
    torch.manual_seed(0)
    encoder = encoders.build("text-bag", codec, width, vectors=str(path))
    before = encoder.embedding.weight.detach().clone()
    encoder.fit([])
    table = encoder.embedding.weight.detach()
    dress, red, shirt = (table[codec.words([w])[0][0]] for w in ("dress", "red", "shirt"))
    assert (dress - shirt).norm() < 0.3 * (dress - red).norm()  # near words start near
    chinese = codec.words(["漂亮"])[0][-1]
    assert torch.equal(table[chinese], before[chinese])  # what the file does not know keeps its random start
    path.unlink()
    again = encoders.build("text-bag", codec, width, vectors=str(path))
    again.load_state_dict(encoder.state_dict())
    x = collated(codec, SENTENCES)
    torch.testing.assert_close(again.eval()(x)[0], encoder.eval()(x)[0])


def test_vectors_of_no_use_are_refused(tmp_path):
    (tmp_path / "v.txt").write_text("", "utf-8")
    with pytest.raises(DataError, match="is empty"):
        encoders.build("text-bag", fitted(), 8, vectors=str(tmp_path / "v.txt")).fit([])
