"""What every codec keeps."""

import json

import numpy as np
import torch

from ..core import (
    Draws,
    Error,
    codecs,
)
from .making import (
    fitted,
    same_value,
)


def codec_state_is_json(name: str) -> None:
    codec, values = fitted(name)
    state = json.loads(json.dumps(codec.state()))
    again = codecs.build(name, name)
    again.load_state(state)
    for raw, value in zip(codec.examples(), values):
        same_value(again.clean(again.read(raw)), value)


def codec_missing_is_none(name: str) -> None:
    codec = codecs.build(name, name)
    assert codec.read(None) is None, "read(None) must be None"


def codec_fits_nothing(name: str) -> None:
    codec = codecs.build(name, name)
    codec.fit(iter(()))
    json.dumps(codec.state())


def codec_filler_collates(name: str) -> None:
    codec, values = fitted(name)
    whole, one = codec.collate([codec.filler(), *values]), codec.collate(values)
    assert set(whole) == set(one), f"the filler has {set(whole)}, a cell {set(one)}"
    for k, v in whole.items():
        assert v.dtype == one[k].dtype, f"the filler's '{k}' is {v.dtype}, a cell's {one[k].dtype}"
        assert not v.is_floating_point() or torch.isfinite(v).all(), f"'{k}' is not finite"


def codec_refuses_clearly(name: str) -> None:
    codec, _ = fitted(name)
    for wrong in (b"", b"\x00\x01garbage" * 3, object(), float("nan"), {"x": object()}, [object()], "\ud800", np.zeros(0)):
        try:
            value = codec.read(wrong)
            if value is not None:
                for array in codec.clean(value).values():
                    assert not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all(), f"{wrong!r} became {array}"
        except Error as error:
            assert codec.column in str(error), f"the message does not name the column: {error}"


def codec_augment_keeps_form(name: str) -> None:
    codec, values = fitted(name)
    x = codec.collate(values)
    before = {k: v.clone() for k, v in x.items()}
    changed = [codec.augment({k: v.clone() for k, v in x.items()}, Draws(1, 2, name, np.arange(len(values)))) for _ in range(2)]
    for k, v in before.items():
        assert changed[0][k].shape == v.shape and changed[0][k].dtype == v.dtype, f"'{k}' changed its form"
        assert torch.equal(changed[0][k], changed[1][k]), f"'{k}': the same draws gave other values"


def codec_noise_keeps_form(name: str) -> None:
    codec, values = fitted(name)
    x = codec.collate(values)
    none, full, again = (codec.noise(codec.collate(values), level, Draws(1, 2, name, np.arange(len(values)))) for level in (0.0, 1.0, 1.0))
    assert any(not torch.equal(full[k], v) for k, v in x.items()), "level 1 changes nothing: override `noise`"
    for k, v in x.items():
        assert torch.equal(none[k], v) and torch.equal(full[k], again[k]), f"'{k}': changed at level 0, or others by the same draws"
        assert full[k].shape == v.shape and full[k].dtype == v.dtype, f"'{k}' changed its form"
        assert v.dtype != torch.bool or torch.equal(full[k], v), f"the mask '{k}' changed"
        assert not v.is_floating_point() or torch.isfinite(full[k]).all(), f"'{k}' is not finite"
