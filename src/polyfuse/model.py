"""The forward pass, whole: encode each view's present cells, lay the tokens side by side, fuse, answer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .core import Batch, Codec, Encoder, Fusion, Schema, TableCodec, TabularCodec, Task, Tokens, encoders, fusions, scatter, tasks

TABLE = "table"


class Model(nn.Module):
    """encoders -> fusion -> tasks.

    Args:
        views: {view: its fitted codec}, in the order of the tokens (see `views_of`).
        targets: {target: its fitted codec}.
        width: D.
        fusion: {"name": part, **options}.
        parts: {view or target: {"encoder" or "task": part, **options}}.

    Shapes:
        Batch of B rows -> {target: out [B, ...]}, and the auxiliary losses {name: scalar}.
    """

    def __init__(
        self, views: dict[str, Codec], targets: dict[str, Codec], width: int, fusion: dict[str, Any], parts: dict[str, dict[str, Any]]
    ):
        super().__init__()
        self.views, self.targets, self.width = list(views), list(targets), width
        self.spans = _span_names(self.views)
        self.encoders: Sequence[Encoder] = nn.ModuleList(_build(encoders, parts[v], "encoder", c, width) for v, c in views.items())  # type: ignore[assignment]
        self.fusion: Fusion = _build(fusions, fusion, "name", list(self.spans.values()), width)
        self.tasks: Sequence[Task] = nn.ModuleList(_build(tasks, parts[t], "task", c, width) for t, c in targets.items())  # type: ignore[assignment]

    def encode(self, batch: Batch) -> Tokens:
        """The tokens of every view. Encoders see present rows only, so no fill value exists that could leak."""
        encoded = {}
        for view, encoder in zip(self.views, self.encoders):
            cells = batch.cells[view]
            if len(cells.rows):
                x, mask = encoder(cells.x)
            else:  # the table has this view nowhere in the batch
                x, mask = self._anchor().new_zeros(0, 1, self.width), torch.zeros(0, 1, dtype=torch.bool, device=self._anchor().device)
            encoded[self.spans[view]] = (x, mask, cells.rows)
        return scatter(encoded, batch.size)

    def encode_dense(self, x: dict[str, dict[str, Tensor]], present: dict[str, Tensor]) -> Tokens:
        """The dense twin of `encode`: every encoder computes all B rows (a filler where a cell is absent) and the
        mask is applied afterwards. The same answers; static shapes, for export and compilation.

        Shapes:
            x {view: {name: [B, ...]}}, present {view: [B] bool}
        """
        encoded = {}
        for view, encoder in zip(self.views, self.encoders):
            tokens, mask = encoder(x[view])
            encoded[self.spans[view]] = (tokens, mask & present[view].unsqueeze(1), torch.arange(len(mask), device=mask.device))
        return scatter(encoded, len(next(iter(present.values()))))

    def answer(self, tokens: Tokens) -> dict[str, Tensor]:
        """Fused tokens to {target: out [B, ...]}."""
        return {target: task(tokens) for target, task in zip(self.targets, self.tasks)}

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        fused = self.fusion(self.encode(batch))
        return self.answer(fused), fused.losses

    def loss(self, outs: dict[str, Tensor], losses: dict[str, Tensor], batch: Batch, weights: dict[str, float]) -> Tensor:
        """Sum over targets and auxiliary losses, each times its weight (1 where `weights` has none)."""
        total = [task.loss(outs[t], batch.cells[t], batch.weight) * weights.get(t, 1.0) for t, task in zip(self.targets, self.tasks)]
        return torch.stack(total + [loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()

    def _anchor(self) -> Tensor:
        return next(self.parameters())


def views_of(schema: Schema, codecs: dict[str, Codec]) -> dict[str, Codec]:
    """The views of a schema: all tabular columns form one (or those their option "view" names), every other is its own."""
    tables: dict[str, list[TabularCodec]] = {}
    views: dict[str, Codec | None] = {}
    for column in schema.having("input"):
        codec = codecs[column.name]
        if isinstance(codec, TabularCodec):
            view = column.options.get("view") or _free(TABLE, schema)
            tables.setdefault(view, []).append(codec)
            views.setdefault(view, None)
        else:
            views[column.name] = codec
    return {view: TableCodec(view, tables[view]) if codec is None else codec for view, codec in views.items()}


def members_of(codec: Codec) -> list[str]:
    """The columns a view is made of."""
    return [m.column for m in codec.members] if isinstance(codec, TableCodec) else [codec.column]


def _free(name: str, schema: Schema) -> str:
    taken = {c.name for c in schema.columns}
    while name in taken:
        name += "_"
    return name


def _span_names(views: list[str]) -> dict[str, str]:
    """A view may be called "row", which is the fusion's own span."""
    return {v: f"{v}_" if v == "row" or v.rstrip("_") == "row" else v for v in views}


def _build(registry: Any, options: dict[str, Any], key: str, *context: Any) -> Any:
    return registry.build(options[key], *context, **{k: v for k, v in options.items() if k != key})
