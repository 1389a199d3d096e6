"""Encode once: the outputs of an encoder that trains no more, kept beside the table, so that ten fusions cost one encoding."""

import tempfile
from dataclasses import replace

import numpy as np
import torch

from ..core import Codec, DataError, Encoder
from ..data import Dataset, Features, Prepared, PreparedTable
from ..model import Model

_CHUNK = 128  # cells that go through the encoder at a time


class _AsStored(Codec):
    """Stands for the codec of a view whose features are stored: these are not augmented."""

    name = "features"


def features_of(data: Dataset, model: Model, views: list[str], device: torch.device | str = "cpu") -> dict[str, Features]:
    """{view: its features}, computed as in prediction, without augmentation; a cell that many rows share is encoded once.

    Args:
        model: has the encoders, which should not train any more.
    Cost:
        one pass of the encoders; tokens * F * 4 bytes a distinct cell, in a temporary file that goes with them.
    """
    chosen = [(v, e) for v, e in zip(model.views, model.encoders) if v in views]
    return {view: _encoded(data.views[view], encoder.to(device).eval(), device) for view, encoder in chosen}


def with_stored(data: Dataset, features: dict[str, Features]) -> Dataset:
    """`data` with these features in the place of the cells of their views; `Model.encode` takes either."""
    stand_ins: dict[str, Codec] = {view: _AsStored(view) for view in features}
    return replace(data, views={**data.views, **features}, codecs={**data.codecs, **stand_ins})


@torch.inference_mode()
def _encoded(prepared: Prepared | PreparedTable, encoder: Encoder, device: torch.device | str) -> Features:
    index = np.where(prepared.present, np.arange(len(prepared.present)), -1) if isinstance(prepared, PreparedTable) else prepared.index
    units, first = np.unique(index, return_index=True)
    rows = first[units >= 0]  # one row for each distinct cell
    lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
    flat = np.zeros((0, encoder.width), np.float32)
    try:
        with tempfile.TemporaryFile(prefix="polyfuse-") as file:  # mapped, for all tokens of a large table have no room in memory
            for at in range(0, len(rows), _CHUNK):
                encoded = encoder.features(prepared.cells(rows[at : at + _CHUNK]).to(device).x)
                tokens = encoded.x[encoded.mask].float().cpu().numpy()
                file.write(tokens.tobytes())
                lengths.append(encoded.mask.sum(1).cpu().numpy())
            file.flush()
            if file.tell():
                flat = np.memmap(file, np.float32, "r").reshape(-1, tokens.shape[1])
    except OSError as error:
        where = f"the temporary folder {tempfile.gettempdir()}"
        raise DataError(where, f"cannot hold what the encoders make ({error.strerror})", fix="free room there, or set TMPDIR") from None
    place = np.full(int(index.max(initial=-1)) + 2, -1, np.int64)  # the last entry serves the missing cells' -1
    place[units[units >= 0]] = np.arange(len(rows))
    return Features(place[index], {"features": flat}, np.cumsum(np.concatenate(lengths)))
