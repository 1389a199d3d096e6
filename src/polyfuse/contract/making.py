"""Parts and values to try them on, and how what they give is judged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import (
    Batch,
    Cells,
    Codec,
    Encoder,
    Fusion,
    Objective,
    TableCodec,
    TabularCodec,
    Task,
    Tokens,
    codecs,
    encoders,
    fusions,
    objectives,
    tasks,
)

WIDTH = 32
VIEWS = {"a": 2, "b": 1, "c": 3}  # the made-up views a fusion is tried on, with their number of tokens


def fitted(modality: str) -> tuple[Codec, list[Any]]:
    """A codec fitted on its own examples, and its cleaned values."""
    if modality == "table":
        members = [fitted(m) for m in codecs.names() if issubclass(codecs.get(m), TabularCodec)]
        table = TableCodec("table", [codec for codec, _ in members])  # type: ignore[misc]
        rows = [{c.column: values[i % len(values)] for c, values in members} for i in range(6)]
        del rows[1][members[0][0].column], rows[2][members[-1][0].column]  # cells that are absent
        return table, rows
    codec = codecs.build(modality, modality)
    codec.fit(v for raw in codec.examples() if (v := codec.read(raw)) is not None)
    return codec, [codec.clean(v) for raw in codec.examples() if (v := codec.read(raw)) is not None]


def encoder_of(name: str) -> tuple[Encoder, Codec, list[Any]]:
    torch.manual_seed(0)
    codec, values = fitted(encoders.get(name).modality)
    encoder = encoders.build(name, codec, WIDTH)
    encoder.fit([codec.collate(values)])
    return stirred(encoder), codec, values


def fusion_of(name: str, views: list[str] | None = None) -> Fusion:
    torch.manual_seed(0)
    return stirred(fusions.build(name, views or list(VIEWS), WIDTH))


def tokens_of(rows: int = 8, seed: int = 0, missing: float = 0.3, depths: int = 2) -> Tokens:
    """Random tokens of the made-up views, some absent; the first row has all, the last nothing. Depths have more tokens."""
    generator = torch.Generator().manual_seed(seed)
    here = torch.rand(rows, len(VIEWS), generator=generator) >= missing
    here[0], here[-1] = True, False
    last, *earlier = [_tokens(here, 1 + depth, generator) for depth in range(depths + 1)]
    return replace(last, depths=tuple(earlier))


def _tokens(here: Tensor, each: int, generator: torch.Generator) -> Tokens:
    """Tokens of the views and rows that are `here` [B, V], `each` times as many as VIEWS says, one in five masked."""
    masks, spans, at = [], {}, 0
    for v, (view, n) in enumerate(VIEWS.items()):
        mask = here[:, v : v + 1] & (torch.rand(len(here), n * each, generator=generator) >= 0.2)
        mask[:, 0] = here[:, v]
        masks.append(mask)
        spans[view] = slice(at, at + n * each)
        at += n * each
    mask = torch.cat(masks, 1)
    x = torch.randn(*mask.shape, WIDTH, generator=generator)
    return Tokens(x.masked_fill(~mask.unsqueeze(-1), 0.0), mask, spans)


def everywhere(change: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
    """The change made to the tokens and to each of their depths."""
    return replace(change(tokens), depths=tuple(change(level) for level in tokens.depths))


def with_noise(tokens: Tokens, view: str) -> Tokens:
    """Other values in the place of one view's tokens."""
    x, span = tokens.x.clone(), tokens.spans[view]
    x[:, span] = torch.randn(x[:, span].shape, generator=torch.Generator().manual_seed(9))
    return replace(tokens, x=x)


def task_of(name: str) -> tuple[Task, Codec, list[Any]]:
    torch.manual_seed(0)
    codec, values = fitted(tasks.get(name).modalities[0])
    if name == "binary":  # exactly two classes
        raws = codec.examples()[:2] * 3
        codec = codecs.build(codec.name, codec.column)
        read = [codec.read(r) for r in raws]
        codec.fit(iter(read))
        values = [codec.clean(v) for v in read]
    task = tasks.build(name, codec, WIDTH)
    task.fit(codec.collate(values))
    return task, codec, values


def objective_of(name: str, views: list[str] | None = None) -> tuple[Objective, Batch]:
    """The objective on the made-up views, fitted, and the labels of 8 rows, of which two are missing: one target of two classes."""
    task, codec, values = task_of("binary")
    objective = objectives.build(name, views or list(VIEWS), WIDTH, {"label": codec}, lambda target: type(task)(codec, WIDTH))
    truth = codec.collate(values)
    objective.fit({"label": truth})
    return stirred(objective), Batch({"label": Cells(truth, torch.tensor([0, 1, 2, 4, 5, 6]), 8)}, 8)


def stirred(part: Any) -> Any:
    """In eval mode, with weights that start at zero moved a little: they would hide faults."""
    with torch.no_grad():
        for p in part.parameters():
            if p.numel() and p.abs().sum() == 0:
                p.add_(torch.randn_like(p) * 0.1)
    return part.eval()


def close(a: Tensor, b: Tensor, what: str) -> None:
    assert a.shape == b.shape, f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}"
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-4), f"{what}, by {float((a - b).detach().abs().max()):.2g}"


def same_value(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for k in b:
        assert np.array_equal(a[k], b[k]), f"after load_state '{k}' is cleaned differently"


def all_learn(part: Any) -> None:
    dead = [n for n, p in part.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert not dead, f"no gradient reaches {', '.join(dead)}"
