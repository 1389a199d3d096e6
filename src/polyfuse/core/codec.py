"""How one modality's cells become tensors (Codec) and how these become tokens (Encoder)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .draws import Draws
from .errors import DataError
from .layers import squeeze
from .tokens import Encoded

Value = dict[str, np.ndarray]
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "#n/a"})  # what stands in a table where a number would
MOST_DEEP = 16  # tokens of an earlier layer: enough for what is where, cheap to carry along


class Codec:
    """One column's way from the raw cell to tensors: read -> clean -> (store) -> collate -> augment.

    A modality subclasses it and overrides what differs. `read` and `clean` are the same code in training,
    prediction and serving; only training calls `augment`. State is plain JSON.

    Class attributes:
        encoder: name of the encoder used unless the column's options name another.
        untrained: name of the encoder that no gradient trains, whose features the learners get.
        untrained_sparse: the same for learners that are sparse, where there is such an encoder.
        media: a text cell is a path to a file; `data` opens it (safely) and `read` gets its bytes.
        plain: a cell is a number or a fixed count of them, which may be joined with others into one vector.
        tabular: cells are single numbers or indices that join the view `table`.
        ragged: all arrays of a cleaned value share a first dimension that varies from cell to cell; `collate`
            pads it and adds "mask" [P, T].
        version: raised when `read` or `clean` changes what it gives, so that old stores are not used.
        exempt: {contract check it cannot meet: why}.

    Args:
        column: the column's name, for messages.
        Every keyword-only argument of a subclass is an option of the column.
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}
    encoder: ClassVar[str] = ""
    untrained: ClassVar[str] = ""
    untrained_sparse: ClassVar[str] = ""
    media: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    tabular: ClassVar[bool] = False
    ragged: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init__(self, column: str):
        self.column = column

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        """How sure this codec is, in [0, 1], that the present raw cells `sample` are its modality.

        A cell is what the table holds: str, int, float, bool, bytes, list, dict, datetime or numpy array.
        """
        return 0.0

    @classmethod
    def examples(cls) -> list[Any]:
        """At least four different raw cells as `read` gets them, for the contract checks and the documentation."""
        raise NotImplementedError

    def read(self, raw: Any) -> Any | None:
        """One raw cell to a Python value; None means missing.

        A media codec gets bytes or an array instead of a path, or a list of those. A column made of several
        gets a tuple, one raw value per source (a numpy array per source where the table is cut into windows).

        Raises:
            DataError: the cell cannot be read. `data` adds row and file to the message.
        """
        return None if raw is None or (isinstance(raw, str) and raw == "") else raw

    def fit(self, values: Iterator[Any]) -> None:
        """Learn what is needed (scale, size, vocabulary) from read values of the training rows: one pass, and
        it may stop early. Values are present ones only; there may be none at all."""

    def clean(self, value: Any) -> Value:
        """One read value to the arrays that are stored, with the fitted statistics. Same in training and serving."""
        raise NotImplementedError

    def collate(self, values: Sequence[Value]) -> dict[str, Tensor]:
        """P cleaned values to {name: tensor [P, ...]}; ragged ones are padded with zeros and get "mask" [P, T]."""
        return pad(values) if self.ragged else {k: torch.from_numpy(np.stack([v[k] for v in values])) for k in values[0]}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """A random change of a collated batch that keeps its meaning, row by row from `draws`. Training only.

        Shapes:
            {name: [P, ...]} -> {name: [P, ...]}
        """
        return x

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """A collated batch seen through noise, row by row from `draws`, to measure how a model bears it (`robustness`).

        The same draws at a higher level are the same noise, stronger. By default normal noise on every float tensor, which
        is right where these are standardised; a codec of indices, of bytes or of logarithms overrides it.

        Args:
            level: in [0, 1]. 0 gives x itself; at 1 the noise is as strong as the values' own spread (deviation 1).
        Shapes:
            {name: [P, ...]} -> {name: [P, ...]}, the same dtypes; bool tensors (masks) and what lies under them stay.
        """
        if not level:
            return x
        masks = [m for name in ("mask", "real") if (m := x.get(name)) is not None]
        out = dict(x)
        for name, value in x.items():
            if value.is_floating_point():
                noisy = (value.float() + level * draws.normal(*value.shape[1:]).to(value.device)).to(value.dtype)
                for mask in masks:
                    if value.shape[: mask.ndim] == mask.shape:
                        noisy = torch.where(mask.view(*mask.shape, *[1] * (value.ndim - mask.ndim)), noisy, value)
                out[name] = noisy
        return out

    def filler(self) -> Value:
        """Some valid cleaned value; stands in, under an all-false mask, where every row must be computed."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""

    def error(self, what: str, *, expected: str = "", fix: str = "") -> DataError:
        return DataError(f"column '{self.column}'", what, expected=expected, fix=fix)


@dataclass(frozen=True)
class Layout:
    """What the features of a view are, where they are not simply numbers that are all there.

    Args:
        cardinality: [F] of each feature: 0 = a number, else a category 0 .. cardinality - 1.
        owner: [F] which flag says whether the feature is there.
        flags: G, how many flags; they are the last G of the F + G numbers an encoder gives.
        sparse: whether the features are mostly zero, and there only for learners that ask for such.
        terms: [F] what each of these counts, as a number that is the same in every view; 0, or none at all: not known.
    """

    cardinality: tuple[int, ...]
    owner: tuple[int, ...]
    flags: int
    sparse: bool = False
    terms: tuple[int, ...] = ()


class Encoder(nn.Module):
    """One view's way from collated cells to tokens: `features` (may be stored) then `project` (trains with the model).

    Encoders see present rows only, so they need not know that cells can be missing. They must not mix rows,
    must ignore what lies under a false mask and stay finite on a batch of fillers. P may be 0.

    Class attributes:
        modality: the modality whose codec it takes ("image").
        exempt: {contract check it cannot meet: why}.

    Attributes:
        frozen: `features` has nothing that trains, so its output may be computed once and stored.
        most_tokens: the largest N it can give, for export and for a fusion's cost.
        layout: what its features are, where they are not simply numbers that are all there; else None.
        sparse: features are (column, value) pairs of a long vector that is mostly zero, [P, N, 2], a token for each that is not.
            Learners that are `sparse` get that vector.
        columnar: each feature has a meaning of its own, as a table's columns have: trees, which look at one at a time, do well.
        alike: how many parts of one size its features have side by side: layers of a checkpoint, which say the same in other words.
        deep: whether `features` is to give earlier layers too; the model sets it where the fusion asks for them.
        depth_widths: their widths F_i, shallow to deep; () where there are none.

    Args:
        codec: the fitted codec of its column.
        width: D, the width of the tokens.
        Every keyword-only argument of a subclass is an option of the column.
    """

    name: ClassVar[str]
    exempt: ClassVar[dict[str, str]] = {}
    modality: ClassVar[str] = ""
    frozen: bool = False
    most_tokens: int = 1
    layout: Layout | None = None
    columnar: bool = False
    alike: int = 1
    sparse: bool = False
    deep: bool = False
    depth_widths: tuple[int, ...] = ()

    def __init__(self, codec: Codec, width: int):
        super().__init__()
        self.width = width

    @property
    def columns(self) -> int:
        """Of a sparse encoder that is fitted: the length of the vector."""
        return 0

    @property
    def terms(self) -> tuple[int, ...]:
        """Of one that counts: what each column counts, as a number that means the same in every view, never 0; else nothing."""
        return ()

    @classmethod
    def codec_options(cls, **options: Any) -> dict[str, Any]:
        """What the encoder, built with these options, wants of its codec (a checkpoint's tokenizer, size or rate)."""
        return {}

    def config_state(self) -> dict[str, Any] | None:
        """JSON with which an encoder that came from a checkpoint is made again without it (option `config`); else None."""
        return None

    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        """Learn what is learned without labels from collated training cells."""

    def features(self, x: dict[str, Tensor]) -> Encoded:
        """{name: [P, ...]} -> Encoded(x [P, N, F], mask [P, N])."""
        raise NotImplementedError

    def earlier(self, *layers: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Earlier layers, shallow to deep, as `Encoded.depths`: neighbours averaged to few tokens; nothing unless `deep`.

        Shapes:
            each x [P, N_i, F_i] and mask [P, N_i] -> x [P, min(N_i, 16), F_i] with zeros under the mask, mask
        """
        return tuple(squeeze(x, mask, MOST_DEEP) for x, mask in layers) if self.deep else ()

    def project(self, encoded: Encoded) -> Tensor:
        """[P, N, F] -> tokens [P, N, D]."""
        return encoded.x

    def forward(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """{name: [P, ...]} -> tokens [P, N, D] and mask [P, N]."""
        encoded = self.features(x)
        return self.project(encoded), encoded.mask


def pad(values: Sequence[Value]) -> dict[str, Tensor]:
    """Ragged values to tensors padded with zeros along their first dimension.

    Shapes:
        P dicts {name: [T_p, ...]} -> {name: [P, max T_p, ...], "mask": [P, max T_p] bool}
    """
    names = list(values[0])
    lengths = np.array([len(v[names[0]]) for v in values])
    longest = max(int(lengths.max()), 1)
    out = {}
    for name in names:
        first = values[0][name]
        full = np.zeros((len(values), longest, *first.shape[1:]), first.dtype)
        for i, value in enumerate(values):
            full[i, : lengths[i]] = value[name]
        out[name] = torch.from_numpy(full)
    out["mask"] = torch.from_numpy(np.arange(longest)[None, :] < lengths[:, None])
    return out
