"""Encode once: the outputs of an encoder that trains no more, kept beside the table, so that ten fusions cost one encoding."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from .. import __version__
from ..core import Cells, Codec, DataError, Encoded, Encoder, Layout, beside, pool, written
from ..data import Dataset, Features, Joined, Prepared, PreparedTable, Store
from ..model import Model

FORMAT = 2  # of an entry of features
_ENCODER = "encoder.safetensors"
_CHUNK = 128  # cells that go through the encoder at a time


@dataclass
class Pairs(Features):
    """What a sparse encoder made: of every cell (column, value) pairs, of a vector of so many columns."""

    columns: int = 0


@dataclass
class Beside:
    """Prepared cells as `core.Stored` takes them: the tokens of a checkpoint, and the vectors of other encoders.

    Args:
        parts: of the same cells: the tokens, then the vectors, one a cell.
        size: of a token, of one layer.
    """

    parts: Sequence[Features | Joined]
    size: int

    @property
    def key(self) -> str:
        return "+".join(part.key for part in self.parts)

    @property
    def present(self) -> np.ndarray:
        return self.parts[0].present

    def cells(self, rows: np.ndarray) -> Cells:
        first, *others = [part.cells(rows) for part in self.parts]
        vectors = [o.x["features"][:, 0] for o in others]
        return Cells(beside(first.x["features"], first.x["mask"], vectors, self.size), first.rows, first.size)


class _AsStored(Codec):
    """Stands for the codec of a view whose features are stored: these are not augmented."""

    name = "features"


def features_of(data: Dataset, model: Model, views: list[str], device: torch.device | str = "cpu") -> dict[str, Features]:
    """{view: its features}, computed as in prediction, without augmentation; a cell that many rows share is encoded once.

    Args:
        model: has the encoders, which should not train any more.
    Cost:
        one pass of the encoders; tokens * F * 4 bytes a distinct cell (2 of a checkpoint's), in a temporary file that goes with them.
    """
    chosen = [(v, e) for v, e in zip(model.views, model.encoders) if v in views]
    return {view: _encoded(data.views[view], encoder.to(device).eval(), device) for view, encoder in chosen}


def with_stored(data: Dataset, features: dict[str, Features]) -> Dataset:
    """`data` with these features in the place of the cells of their views; `Model.encode` takes either."""
    stand_ins: dict[str, Codec] = {view: _AsStored(view) for view in features}
    return replace(data, views={**data.views, **features}, codecs={**data.codecs, **stand_ins})


def described(
    view: str,
    prepared: Prepared | PreparedTable | Joined,
    rows: np.ndarray,
    encoder: Encoder,
    part: dict[str, Any],
    store: Store,
    tick: Callable[[int], None],
    device: torch.device | str = "cpu",
) -> Features | Joined:
    """The features of an untrained encoder, from the store where it has them; `encoder` is fitted on the way.

    Args:
        rows: by whose cells the encoder is fitted.
        part: its name and options, as a recipe has them.
        tick: told how many cells are done.
        device: where an encoder that came from a checkpoint runs; our own are fastest on the processor.
    """
    start = entry_of(prepared, rows, encoder, part)
    first, rows = _teaching(prepared, rows)
    at = device if encoder.config_state() is not None else "cpu"
    found = _stored(view, first, encoder, store, start, lambda: encoder.fit(_stream(first, rows)), tick, encoder.width, at)
    if not isinstance(prepared, Joined):
        return found
    then = hashlib.blake2b(f"{start} {prepared.second.key}".encode(), digest_size=20).hexdigest()
    width = found.arrays["features"].shape[1]
    return Joined(found, _stored(view, prepared.second, encoder, store, then, lambda: None, tick, width, at), prepared.size)


def entry_of(prepared: Prepared | PreparedTable | Joined, rows: np.ndarray, encoder: Encoder, part: dict[str, Any]) -> str:
    """The name in the store of the features that `described` makes, with the same arguments, of the table that teaches the encoder."""
    first, rows = _teaching(prepared, rows)
    about = json.dumps([FORMAT, __version__, written(type(encoder)), part, first.key], sort_keys=True, default=str)
    return hashlib.blake2b(about.encode() + np.ascontiguousarray(rows, np.int64).tobytes(), digest_size=20).hexdigest()


def _teaching(prepared: Prepared | PreparedTable | Joined, rows: np.ndarray) -> tuple[Any, np.ndarray]:
    """The table whose rows fit an encoder, and these: validation rows, of the second table, teach it nothing."""
    first = prepared.first if isinstance(prepared, Joined) else prepared
    return first, rows[rows < len(first.index)]


def _stored(
    view: str,
    prepared: Prepared | PreparedTable,
    encoder: Encoder,
    store: Store,
    key: str,
    fit: Callable[[], None],
    tick: Callable[[int], None],
    width: int,
    device: torch.device | str,
) -> Features:
    """One table's features, `width` wide where it has no cell: an entry of the store, with the fitted encoder beside them."""

    def fill(folder: Path) -> None:
        fit()
        encoder.eval()
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in encoder.state_dict().items()}, folder / _ENCODER)
        units = _by_length(prepared)
        with open(folder / "0.bin", "wb") as file:
            made, lengths = _write(file, prepared, units, encoder.to(device), device, tick)
        encoder.cpu()
        np.save(folder / "offsets.npy", np.cumsum([0, *lengths]))
        np.save(folder / "units.npy", units)
        about = {"column": f"{view} ({encoder.name})", "units": len(units), "width": made or width, "tokens": int(sum(lengths))}
        (folder / "meta.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")

    index = prepared.index
    folder = store.find(key)
    if folder is None:
        folder = store.put(fill, lambda: key)
    try:
        encoder.load_state_dict(load_file(folder / _ENCODER))
        about = json.loads((folder / "meta.json").read_text("utf-8"))
        offsets, units = np.load(folder / "offsets.npy"), np.load(folder / "units.npy")
        shape = (about["tokens"], about["width"])
        flat = np.memmap(folder / "0.bin", kept_as(encoder), "r", shape=shape) if shape[0] else np.zeros(shape, np.float32)
    except (OSError, ValueError, KeyError, SafetensorError):  # cleared under way by another process, or damaged: made again
        shutil.rmtree(folder, ignore_errors=True)
        return _stored(view, prepared, encoder, store, key, fit, tick, width, device)
    encoder.eval()
    made = _places(units, index)[index], {"features": flat}, offsets
    return Pairs(*made, key=key, columns=encoder.columns) if encoder.sparse else Features(*made, key=key)


def _places(units: np.ndarray, index: np.ndarray) -> np.ndarray:
    """For each unit where it lies; the last entry serves the missing cells' -1."""
    place = np.full(int(index.max(initial=-1)) + 2, -1, np.int64)
    place[units] = np.arange(len(units))
    return place


def _by_length(prepared: Prepared | PreparedTable) -> np.ndarray:
    """The units that rows have, longest first: a batch of like lengths has little padding, and what memory takes shows at once."""
    units = np.unique(prepared.index)
    units = units[units >= 0]
    offsets = getattr(prepared, "offsets", None)
    return units if offsets is None else units[np.argsort(offsets[units] - offsets[units + 1], kind="stable")]


def halved(encoder: Encoder, device: torch.device | str) -> torch.autocast:
    """bfloat16 for the products of a checkpoint's network where the machine gains by it; our own features stay exact.

    On a processor with AVX512-BF16 a sentence encoder takes half the time. Where cells are answered, not stored, it is not used:
    an answer must not depend on what else is in the batch.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        gains = torch.cuda.is_bf16_supported()
    else:
        can: Any = getattr(torch.cpu, "get_capabilities", dict)()  # which older versions of torch do not have
        gains = kind == "cpu" and bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return torch.autocast(kind, torch.bfloat16, enabled=gains and encoder.config_state() is not None)


def kept_as(encoder: Encoder) -> type[np.floating]:
    """The type of the numbers that are kept of an encoder: of a checkpoint's, which are many and were never exact, half precision."""
    return np.float32 if encoder.config_state() is None else np.float16


def _stream(prepared: Prepared | PreparedTable, rows: np.ndarray) -> Iterator[dict[str, Tensor]]:
    for at in range(0, len(rows), 256):
        cells = prepared.cells(rows[at : at + 256])
        if len(cells.rows):
            yield cells.x


@torch.inference_mode()
def _write(
    file: IO[bytes], prepared: Prepared | PreparedTable, units: np.ndarray, encoder: Encoder, device: Any, tick: Callable[[int], None]
) -> tuple[int, np.ndarray]:
    """Every unit's tokens, one after the other: their width (0 of no unit), and how many each has."""
    width, lengths, kind, kept = 0, [np.zeros(0, np.int64)], halved(encoder, device), kept_as(encoder)
    largest = float(np.finfo(kept).max)
    for at in range(0, len(units), _CHUNK):
        x = {k: v.to(device) for k, v in prepared.gather(units[at : at + _CHUNK]).items()}
        with kind:
            encoded = encoder.features(x)
        tokens = encoded.x[encoded.mask].float().clamp(-largest, largest).cpu().numpy()
        file.write(tokens.astype(kept, copy=False).tobytes())
        lengths.append(encoded.mask.sum(1).cpu().numpy())
        width = tokens.shape[1]
        tick(len(lengths[-1]))
    return width, np.concatenate(lengths)


def _encoded(prepared: Prepared | PreparedTable, encoder: Encoder, device: torch.device | str) -> Features:
    index = prepared.index
    units = _by_length(prepared)
    flat = np.zeros((0, encoder.width), np.float32)
    try:
        with tempfile.TemporaryFile(prefix="polyfuse-") as file:  # mapped, for all tokens of a large table have no room in memory
            width, lengths = _write(file, prepared, units, encoder, device, lambda _: None)
            file.flush()
            if file.tell():
                flat = np.memmap(file, kept_as(encoder), "r").reshape(-1, width)
    except OSError as error:
        where = f"the temporary folder {tempfile.gettempdir()}"
        raise DataError(where, f"cannot hold what the encoders make ({error.strerror})", fix="free room there, or set TMPDIR") from None
    return Features(_places(units, index)[index], {"features": flat}, np.cumsum([0, *lengths]))


# -- one vector a row ---------------------------------------------------------------------------------------------


def sparse_vectors(stored: Any, rows: np.ndarray) -> tuple[Any, np.ndarray]:
    """The long vectors of rows, of `Pairs` or two of them `Joined`.

    Shapes:
        -> x [R, F] csr float32, there [R, 1] bool; zero and False where the row has no cell
    """
    import scipy.sparse as sp

    if isinstance(stored, Joined):
        first = rows < stored.size
        parts = [(stored.first, rows[first]), (stored.second, rows[~first] - stored.size)]
        xs, theres = zip(*(sparse_vectors(part, mine) for part, mine in parts))
        back = np.argsort(np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)]))
        return sp.vstack(xs, format="csr")[back], np.concatenate(theres)[back]
    units, offsets = stored.index[rows], stored.offsets
    lengths = np.where(units >= 0, offsets[units + 1] - offsets[units], 0)
    ends = np.cumsum([0, *lengths])
    pairs = stored.arrays["features"][np.repeat(offsets[units] - ends[:-1], lengths) + np.arange(ends[-1])]
    column, value = np.ascontiguousarray(pairs.reshape(-1, 2).T)
    return sp.csr_matrix((value, column.astype(np.int32), ends), (len(rows), stored.columns)), (units >= 0)[:, None]


def averaged(stored: Any) -> Any:
    """`Features`, or two `Joined`, with the mean of every cell's tokens in their place.

    Those of one token a cell are left as they are, and where they are: on disk.
    """
    if isinstance(stored, Joined):
        return Joined(averaged(stored.first), averaged(stored.second), stored.size)
    flat, offsets = stored.arrays["features"], stored.offsets
    lengths = np.diff(offsets)
    if (lengths == 1).all():
        return stored
    means = np.empty((len(lengths), flat.shape[1]), np.float32)
    for at in range(0, len(lengths), _CHUNK):
        own = torch.from_numpy(offsets[at : at + _CHUNK + 1])
        tokens = torch.from_numpy(flat[own[0] : own[-1]].astype(np.float32))
        means[at : at + _CHUNK] = F.embedding_bag(torch.arange(len(tokens)), tokens, own[:-1] - own[0], mode="mean").numpy()
    return Features(stored.index, {"features": means}, np.arange(len(means) + 1), key=stored.key)


def vectors(stored: Features | Joined, rows: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """One vector a row, of cells `averaged`.

    Shapes:
        -> x [R, F] float32, there [R, G] bool; zero and False where the row has no cell
    """
    if isinstance(stored, Joined):
        first = rows < stored.size
        x, there = np.zeros((len(rows), len(layout.owner)), np.float32), np.zeros((len(rows), layout.flags), bool)
        parts: Any = (stored.first, first, 0), (stored.second, ~first, stored.size)
        for part, mine, start in parts:
            x[mine], there[mine] = vectors(part, rows[mine] - start, layout)
        return x, there
    units, flat = stored.index[rows], stored.arrays["features"]
    x = np.zeros((len(rows), flat.shape[1]), np.float32)
    at = np.flatnonzero(units >= 0)
    x[at] = flat[units[at]]
    return _parted(x, units >= 0, layout)


def vector_of(encoded: Encoded, layout: Layout) -> tuple[Tensor, Tensor]:
    """The same of cells that were encoded just now: x [P, F], there [P, G]."""
    if layout.sparse:
        column, value = encoded.x.masked_fill(~encoded.mask.unsqueeze(-1), 0.0).unbind(-1)
        x = value.new_zeros(len(value), max(len(layout.owner), 1)).scatter_add(1, column.long(), value)
        return x[:, : len(layout.owner)], encoded.mask.any(1, keepdim=True)
    return _parted(pool(encoded.x, encoded.mask), encoded.mask.any(1), layout)


def _parted(x: Any, there: Any, layout: Layout) -> tuple[Any, Any]:
    """Features and flags apart; an encoder without flags of its own has one, whether the view is there."""
    features = len(layout.owner)
    return (x, there[:, None]) if x.shape[1] == features else (x[:, :features], (x[:, features:] > 0.5) & there[:, None])
