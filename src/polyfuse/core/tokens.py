"""The one contract: what a codec makes (Cells) and what flows from the encoders to the task (Tokens).

Shape letters, used everywhere:  B rows of a batch · P present rows of one column (P <= B) · N tokens
D width · F width of stored features · C classes · T time steps
Masks are bool and True means real. Nothing is ever inferred from a value: no NaN, no -1, no "".
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of one batch, present rows only.

    Args:
        x: {name: tensor [P, ...]}.
        rows: [P] int64, which of the batch's rows they are, ascending.
        size: B.
    """

    x: dict[str, Tensor]
    rows: Tensor
    size: int

    def to(self, device: torch.device | str) -> "Cells":
        return Cells({k: v.to(device, non_blocking=True) for k, v in self.x.items()}, self.rows.to(device, non_blocking=True), self.size)

    def keep(self, kept: Tensor) -> "Cells":
        """Only the present rows where `kept` [P] is True: the others become absent, as if they had never been there."""
        return Cells({k: v[kept] for k, v in self.x.items()}, self.rows[kept], self.size)

    def present(self) -> Tensor:
        """[B] bool."""
        out = torch.zeros(self.size, dtype=torch.bool, device=self.rows.device)
        out[self.rows] = True
        return out


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows: the Cells of every view (inputs) and of every target. A missing cell or label is an absent row.

    Args:
        cells: {name of the view or target: Cells}.
        size: B.
        weight: [B] weight of each row in the loss, or None for equal weights.
    """

    cells: dict[str, Cells]
    size: int
    weight: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        weight = None if self.weight is None else self.weight.to(device)
        return Batch({k: c.to(device) for k, c in self.cells.items()}, self.size, weight)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder's `features` gives for the P present rows of its view; may be stored and shared.

    Args:
        x: [P, N, F], F the encoder's own width. Zero where the mask is False.
        mask: [P, N] bool.
        depths: earlier layers of the encoder, shallow to deep, each x [P, N_i, F_i] and mask [P, N_i]; given where asked
            for (`Encoder.deep`), for fusion at several depths.
    """

    x: Tensor
    mask: Tensor
    depths: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of all views of a batch, side by side.

    Args:
        x: [B, N, D] float.
        mask: [B, N] bool, True = real.
        spans: {view: its slice along N}; a fusion adds the span "row".
        losses: {name: scalar}: auxiliary losses that ride along.
        notes: {name: tensor}: what a reader may ask for afterwards (weights of the views per row, attention maps).
        depths: the same views at earlier layers of their encoders, shallow to deep, in width D too; as many as the
            fusion asks for (`Fusion.depths`).
    """

    x: Tensor
    mask: Tensor
    spans: dict[str, slice]
    losses: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    depths: tuple["Tokens", ...] = ()

    def __getitem__(self, view: str) -> tuple[Tensor, Tensor]:
        """x [B, N_view, D] and mask [B, N_view] of one view."""
        return self.x[:, self.spans[view]], self.mask[:, self.spans[view]]

    @property
    def row(self) -> Tensor:
        """[B, D]: what a fusion puts under the span "row". Always real, even where every cell is missing."""
        return self.x[:, self.spans["row"].start]

    def present(self, views: list[str]) -> Tensor:
        """[B, len(views)] bool: has the row any real token of that view?"""
        return torch.stack([self.mask[:, self.spans[v]].any(1) for v in views], 1)

    def hide(self, hidden: dict[str, Tensor]) -> "Tokens":
        """Without the views of the rows where hidden[view] [B] is True: the same as never having had them."""
        mask = self.mask.clone()
        for view, rows in hidden.items():
            mask[:, self.spans[view]] &= ~rows.unsqueeze(1)
        depths = tuple(level.hide(hidden) for level in self.depths)
        return replace(self, x=self.x.masked_fill(~mask.unsqueeze(-1), 0.0), mask=mask, depths=depths)

    def exchange(self, others: dict[str, "Tokens"]) -> "Tokens":
        """The tokens, those of some views taken from elsewhere: {span: tokens that have it}."""
        parts = {span: others.get(span, self)[span] for span in self.spans}
        spans, at = {}, 0
        for span, (x, _) in parts.items():
            spans[span] = slice(at, at := at + x.shape[1])
        depths = tuple(level.exchange({s: o.depths[i] for s, o in others.items()}) for i, level in enumerate(self.depths))
        x, mask = torch.cat([x for x, _ in parts.values()], 1), torch.cat([m for _, m in parts.values()], 1)
        return replace(self, x=x, mask=mask, spans=spans, depths=depths)

    def with_row(self, row: Tensor, **notes: Tensor) -> "Tokens":
        """A fusion's result: `row` [B, D] in front of the tokens under the span "row"; notes are added."""
        b = row.shape[0]
        x = torch.cat([row.unsqueeze(1), self.x], 1)
        mask = torch.cat([self.mask.new_ones(b, 1), self.mask], 1)
        spans = {"row": slice(0, 1)} | {v: slice(s.start + 1, s.stop + 1) for v, s in self.spans.items()}
        return replace(self, x=x, mask=mask, spans=spans, notes={**self.notes, **notes})


def scatter(parts: dict[str, tuple[Tensor, Tensor, Tensor]], size: int) -> Tokens:
    """Lay encoded views side by side: the one place that turns present rows into rows of the batch.

    Shapes:
        {view: (x [P, N, D], mask [P, N], rows [P])} -> Tokens x [size, sum of N, D]
    """
    xs, masks, spans, at = [], [], {}, 0
    for view, (x, m, rows) in parts.items():
        x = x.masked_fill(~m.unsqueeze(-1), 0.0)
        if len(rows) < size:  # rows is ascending, so P == B means the rows are the batch itself
            x = x.new_zeros(size, *x.shape[1:]).index_copy(0, rows, x)
            m = m.new_zeros(size, m.shape[1]).index_copy(0, rows, m)
        xs.append(x)
        masks.append(m)
        spans[view] = slice(at, at + x.shape[1])
        at += x.shape[1]
    return Tokens(torch.cat(xs, 1), torch.cat(masks, 1), spans)


def pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: x [B, N, D], mask [B, N] -> [B, D]; zeros where a row has none."""
    x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
    return x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def pooled(tokens: Tokens, views: list[str]) -> tuple[Tensor, Tensor]:
    """One vector per view: x [B, V, D] (zero where absent) and present [B, V]."""
    vectors = torch.stack([pool(*tokens[v]) for v in views], 1)
    return vectors, tokens.present(views)
