"""A text cell to subword ids. Knows tokenizers, not models."""

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import Codec, Draws, RecipeError, Value, codecs

_CHARACTERS_PER_TOKEN = 32  # of one cell at most longest * this are read: 10 MB of text cost no more than a page
_FIT_CELLS, _FIT_CHARACTERS = 100_000, 2_000_000
_BYTES = 256  # a byte-level vocabulary has at least these
# what no tokenizer can use: control characters but tab and line ends, and halves of surrogate pairs
_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_FILE = re.compile(r"(?i)^\S+://|\.[a-z][a-z0-9]{1,4}$|^(?:[a-z]:)?[\\/]\S*$")


@codecs("text")
class Text(Codec):
    """Free text in any language -> subword ids.

    Made for cells of several words. Where few values repeat, `category` learns faster; for lists of labels
    take `labels`. `fit` trains a byte-level BPE on the column, so that every script and emoji survives and there
    is no unknown word; with `tokenizer` a checkpoint's own is used instead.
    A cell is brought to Unicode's form NFC; control characters and lone surrogates become spaces; an empty or
    blank one is missing. Numbers are read as they are written. A list (a cell of several columns, a list of
    strings) is joined by line ends. Text behind the longest length is cut off, and at most 32 characters are
    read for every token of that length.
    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2;
    on bytes after Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.

    Args:
        vocabulary: most subwords to learn; at least 256 (the bytes) are there. Pairs seen once are not merged.
        longest: most tokens of a cell; `fit` lowers it to the 99th percentile of the training cells.
        lowercase: fold case before splitting. A checkpoint's tokenizer has its own rule.
        tokenizer: a tokenizer.json, or a folder with one; needed while fitting only, the state carries it.
        drop: share of the tokens that `augment` hides.

    Shapes:
        cleaned {"ids": int32 [T]} -> collated {"ids": int32 [P, T], "mask": bool [P, T]}, 1 <= T <= length

    Raises:
        DataError: the cell is neither text nor number, or its bytes are not UTF-8.

    Cost:
        about 0.05 ms for a short cell; fitting learns from the first 100,000 cells or 2 million characters.

    Example:
        >>> text = Text("review", vocabulary=300)
        >>> text.fit(["red shoes", "red socks", "blue shoes"])
        >>> text.clean(text.read("Red  SHOES"))["ids"].tolist() == text.clean("red  shoes")["ids"].tolist()
        True
        >>> text.read(" \\n") is None
        True
    """

    encoder = "text-gru"
    untrained = "text-tfidf"
    untrained_sparse = "text-terms"
    ragged = True

    def __init__(
        self,
        column: str,
        *,
        vocabulary: int = 8000,
        longest: int = 256,
        lowercase: bool = True,
        tokenizer: str | None = None,
        drop: float = 0.1,
    ):
        super().__init__(column)
        for option, value, least in (("vocabulary", vocabulary, _BYTES), ("longest", longest, 1)):
            if not isinstance(value, int) or value < least:
                raise RecipeError(f"column '{column}', option '{option}'", f"is {value!r}", expected=f"a whole number from {least} on")
        if not 0 <= drop < 1:
            raise RecipeError(f"column '{column}', option 'drop'", f"is {drop!r}", expected="a share from 0 to below 1")
        self.vocabulary, self.longest, self.lowercase, self.source, self.drop = vocabulary, longest, lowercase, tokenizer, drop
        self.length = longest
        self.pretrained = tokenizer is not None
        self._most_characters = longest * _CHARACTERS_PER_TOKEN
        self._use(_byte_bpe(lowercase))

    @classmethod
    def examples(cls) -> list[Any]:
        return ["red shoes, size 42", "blue", "ein langer Satz über Schuhe, der mehr Wörter hat als die anderen", "红色的鞋子", "sí 👟"]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        cells = [c for c in sample if isinstance(c, str) and c.strip()]
        if not cells or len(cells) < 0.9 * len(sample):
            return 0.0
        cells = [c[:2000].strip() for c in cells]
        if _share(_FILE.search(c) and len(c.split()) < 4 for c in cells) > 0.5 or _share(c[0] in "[{" for c in cells) > 0.5:
            return 0.0  # paths, addresses, JSON
        letters = np.mean([sum(ch.isalpha() for ch in c) / sum(not ch.isspace() for ch in c) for c in cells])
        if letters < 0.5:
            return 0.0  # numbers, dates, codes
        words = float(np.mean([_words(c) for c in cells]))
        distinct = len(set(cells)) / len(cells)
        if words >= 4:
            return 0.8 if distinct > 0.2 or words >= 5 else 0.6
        return min(0.7, 0.35 * (words - 1)) * distinct + (0.1 if words < 2 else 0.15)

    def read(self, raw: Any) -> str | None:
        if isinstance(raw, np.ndarray) and raw.ndim == 1:
            raw = list(raw)
        if not isinstance(raw, list | tuple):
            return self._one(raw)
        parts, room = [], self._most_characters
        for item in raw:
            part = self._one(item)
            if part is not None and room > 0:
                parts.append(part[:room])
                room -= len(part) + 1
        return "\n".join(parts) or None

    def _one(self, raw: Any) -> str | None:
        if isinstance(raw, np.generic):
            raw = raw.item()
        if raw is None or isinstance(raw, float) and math.isnan(raw):  # in a column of objects NaN stands for an empty cell
            return None
        if isinstance(raw, bytes):
            raw = self._decoded(raw)
        elif isinstance(raw, bool | int | float):
            raw = str(raw)
        if not isinstance(raw, str):
            raise self.error(f"cannot read a {type(raw).__name__} as text", expected="a string", fix="declare another modality")
        text = _UNUSABLE.sub(" ", raw.lstrip()[: self._most_characters]).strip()
        return unicodedata.normalize("NFC", text) or None

    def _decoded(self, raw: bytes) -> str:
        most = 4 * self._most_characters  # no character takes more bytes
        try:
            # a cut may fall inside a character: only then are its first bytes dropped
            return raw[:most].decode("utf-8-sig") if len(raw) <= most else raw[:most].decode("utf-8-sig", "ignore")
        except UnicodeDecodeError as error:
            raise self.error(
                f"has bytes that are not UTF-8, the first at byte {error.start}", expected="UTF-8", fix="save the table as UTF-8"
            ) from None

    def fit(self, values: Iterator[str]) -> None:
        """Learn the subwords, or take the checkpoint's; then the length."""
        texts, characters = [], 0
        for value in values:
            texts.append(value)
            characters += len(value)
            if len(texts) >= _FIT_CELLS or characters >= _FIT_CHARACTERS:
                break
        tokenizer = _pretrained(self.source, self.column) if self.source else _trained(texts, self.vocabulary, self.lowercase)
        self.length = self.longest
        self._use(tokenizer)
        if texts:
            lengths = [len(v["ids"]) for v in self.clean_many(texts[:: max(1, len(texts) // 10_000)])]
            self.length = max(1, min(self.longest, int(np.ceil(np.percentile(lengths, 99)))))
            self._use(tokenizer)

    def _use(self, tokenizer: Any) -> None:
        """Work with this tokenizer from now on; sets what follows from it."""
        added = tokenizer.get_added_tokens_decoder()
        known = {str(token.content): i for i, token in added.items()}
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        unknown = getattr(tokenizer.model, "unk_token", None)
        names = [n for n in ("[MASK]", "<mask>", unknown, "[UNK]", "<unk>") if n]
        found = [i for i in (known.get(n, tokenizer.token_to_id(n)) for n in names) if i is not None]
        # the id that stands for a hidden token; our own vocabulary gets one more, a checkpoint's cannot
        self.blank: int | None = (found[0] if found else None) if self.pretrained else size
        self.size = size + (not self.pretrained)  # how many ids there can be
        self._kept = torch.tensor(sorted(i for i, token in added.items() if token.special), dtype=torch.int32)
        room = tokenizer.num_special_tokens_to_add(False)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max(self.length, room + 1))
        self.tokenizer = tokenizer

    def clean(self, value: str) -> Value:
        return self._value(self.tokenizer.encode(value).ids)

    def clean_many(self, values: Sequence[str]) -> list[Value]:
        """`clean` of many values at once, on all cores."""
        return [self._value(e.ids) for e in self.tokenizer.encode_batch_fast(list(values))]

    def _value(self, ids: list[int]) -> Value:
        return {"ids": np.array(ids or [self.blank or 0], np.int32)}  # a checkpoint's tokenizer may leave nothing of a cell

    def words(self, words: Iterable[str]) -> list[list[int]]:
        """The ids of single words as they stand inside a text, without a checkpoint's marks at the ends."""
        return [e.ids for e in self.tokenizer.encode_batch_fast(list(words), add_special_tokens=False)]

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """Hides single tokens behind one id (word dropout: Iyyer et al. 2015, "Deep Unordered Composition", section 3.2)."""
        if self.blank is None or not self.drop:
            return x
        hidden = (draws.uniform(x["ids"].shape[1]) < self.drop) & x["mask"] & ~torch.isin(x["ids"], self._kept)
        return {**x, "ids": x["ids"].masked_fill(hidden, self.blank)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Each token becomes any other of the vocabulary with probability `level`: at 1 nothing of the text is left.

        Marks of the tokenizer (begin, end) stay, and the id that `augment` hides behind is not used: training has met it.
        """
        if not level:
            return x
        ids = x["ids"]
        known = torch.arange(self.tokenizer.get_vocab_size(with_added_tokens=True), dtype=ids.dtype)
        known = known[~torch.isin(known, self._kept) & (known != (-1 if self.blank is None else self.blank))]
        u = draws.uniform(ids.shape[1], 2)
        other = known[(u[..., 1] * len(known)).long().clamp(max=len(known) - 1)].to(ids.device)
        replaced = (u[..., 0] < level).to(ids.device) & x["mask"] & ~torch.isin(ids, self._kept.to(ids.device))
        return {**x, "ids": torch.where(replaced, other, ids)}

    def filler(self) -> Value:
        return {"ids": np.zeros(1, np.int32)}

    def state(self) -> dict[str, Any]:
        return {"tokenizer": json.loads(self.tokenizer.to_str()), "length": self.length, "pretrained": self.pretrained}

    def load_state(self, state: dict[str, Any]) -> None:
        self.length, self.pretrained = int(state["length"]), bool(state["pretrained"])
        self._use(_from_json(json.dumps(state["tokenizer"]), f"column '{self.column}', its saved tokenizer"))


def _byte_bpe(lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _trained(texts: list[str], vocabulary: int, lowercase: bool) -> Any:
    from tokenizers import pre_tokenizers, trainers

    tokenizer = _byte_bpe(lowercase)
    if texts:
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            max_token_length=32,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    return tokenizer


def _pretrained(source: str, column: str) -> Any:
    where = f"column '{column}', option 'tokenizer'"
    path = Path(source)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            return _from_json(file.read_text("utf-8"), f"{where}, {file}")
        except UnicodeDecodeError:
            raise RecipeError(f"{where}, {file}", "is not UTF-8", expected="a tokenizer.json of the tokenizers library") from None
    if not path.is_dir():
        raise RecipeError(where, f"{source} does not exist", expected="a tokenizer.json or a folder with one")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise RecipeError(where, f"{source} has no tokenizer.json", fix="`pip install polyfuse[hub]` converts older forms") from None
    try:
        converted = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        return _from_json(converted.backend_tokenizer.to_str(), f"{where}, {source}")
    except (OSError, ValueError, AttributeError, KeyError, ImportError) as error:
        raise RecipeError(
            where, f"{source} has no tokenizer that can be used ({_first_line(error)})", expected="a folder with a tokenizer.json"
        ) from None


def _from_json(text: str, where: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        if type(error) is not Exception:  # the library raises the bare class for any fault of the file
            raise
        raise RecipeError(where, f"is no tokenizer ({_first_line(error)})", expected="a tokenizer.json of the tokenizers library") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _words(cell: str) -> float:
    """Words, where Chinese, Japanese, Thai and others that write no spaces count two characters a word."""
    return max(len(cell.split()), len(UNSPACED.findall(cell)) / 2)


def _share(found: Iterable[Any]) -> float:
    return float(np.mean([bool(f) for f in found]))
