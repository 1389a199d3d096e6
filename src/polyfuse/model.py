"""The forward pass, whole: encode each view's present cells, lay the tokens side by side, fuse, answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .core import (
    Batch,
    Codec,
    Decision,
    Encoded,
    Encoder,
    Fusion,
    Objective,
    Schema,
    Stored,
    TableCodec,
    TabularCodec,
    Task,
    Tokens,
    encoders,
    fusions,
    objectives,
    scatter,
    tasks,
)

TABLE = "table"


class Model(nn.Module):
    """encoders -> fusion -> tasks.

    Args:
        views: {view: its fitted codec}, in the order of the tokens (see `views_of`).
        targets: {target: its fitted codec}.
        width: D.
        fusion: {"name": part, **options}.
        parts: {view or target: {"encoder" or "task": part, **options}}; of a view whose features are stored {"stored": sizes}.
        objectives: {name: {"weight": its weight, **options}} of the auxiliary losses, computed in training only.

    Shapes:
        Batch of B rows -> {target: out [B, ...]}, and the auxiliary losses {name: scalar}.
    """

    def __init__(
        self,
        views: dict[str, Codec],
        targets: dict[str, Codec],
        width: int,
        fusion: dict[str, Any],
        parts: dict[str, dict[str, Any]],
        objectives: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__()
        self.views, self.targets, self.width = list(views), list(targets), width
        self.spans = _span_names(self.views)
        self.encoders: Sequence[Encoder] = nn.ModuleList(_encoder(parts[v], c, width) for v, c in views.items())  # type: ignore[assignment]
        self.fusion: Fusion = _build(fusions, fusion, "name", list(self.spans.values()), width)
        self.depth_maps: Sequence[nn.ModuleList] = nn.ModuleList(_depth_maps(e, self.fusion.depths) for e in self.encoders)  # type: ignore[assignment]
        self.tasks: Sequence[Task] = nn.ModuleList(_build(tasks, parts[t], "task", c, width) for t, c in targets.items())  # type: ignore[assignment]
        if self.decides:  # each view has a head of its own for every target; the task above only reads the joint answer
            for target, task in zip(self.targets, self.tasks):
                task.requires_grad_(False)
                self.fusion.add_target(target, task)
            self.heads: Any = nn.ModuleList(
                nn.ModuleList(_build(tasks, parts[t], "task", c, width) for _ in views) for t, c in targets.items()
            )
        context = list(self.spans.values()), width, targets, lambda t: _build(tasks, parts[t], "task", targets[t], width)
        chosen = {name: _objective(name, options, *context) for name, options in (objectives or {}).items()}
        self.objectives: Mapping[str, Objective] = nn.ModuleDict(chosen)  # type: ignore[assignment]
        self.objective_weights = {name: options["weight"] for name, options in (objectives or {}).items()}

    @property
    def size(self) -> int:
        """Parameters that have a part in answers: those of objectives, and at decision level of the joint heads, have none."""
        idle: list[Any] = [self.objectives, *(self.tasks if self.decides else ())]
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for part in idle for p in part.parameters())

    @property
    def decides(self) -> bool:
        """Whether fusion is at decision level."""
        return isinstance(self.fusion, Decision)

    def fit_tasks(self, truth: dict[str, dict[str, Tensor]]) -> None:
        """Before training: what tasks learn from the collated targets of the training rows, {target: {name: [P, ...]}}."""
        for at, (target, task) in enumerate(zip(self.targets, self.tasks)):
            for part in [task, *(self.heads[at] if self.decides else ())]:
                part.fit(truth[target])

    def encode(self, batch: Batch) -> Tokens:
        """The tokens of every view. Encoders see present rows only, so no fill value exists that could leak."""
        encoded = {}
        for at, view in enumerate(self.views):
            cells = batch.cells[view]
            if len(cells.rows):
                levels = self._levels(at, cells.x)
            else:  # the table has this view nowhere in the batch
                nothing = self._anchor().new_zeros(0, 1, self.width), torch.zeros(0, 1, dtype=torch.bool, device=self._anchor().device)
                levels = [nothing] * (self.fusion.depths + 1)
            encoded[self.spans[view]] = [(x, mask, cells.rows) for x, mask in levels]
        return _side_by_side(encoded, batch.size)

    def encode_dense(self, x: dict[str, dict[str, Tensor]], present: dict[str, Tensor]) -> Tokens:
        """The dense twin of `encode`: every encoder computes all B rows (a filler where a cell is absent) and the
        mask is applied afterwards. The same answers; static shapes, for export and compilation.

        Shapes:
            x {view: {name: [B, ...]}}, present {view: [B] bool}
        """
        encoded = {}
        for at, view in enumerate(self.views):
            here = present[view].unsqueeze(1)
            rows = torch.arange(len(here), device=here.device)
            encoded[self.spans[view]] = [(tokens, mask & here, rows) for tokens, mask in self._levels(at, x[view])]
        return _side_by_side(encoded, len(next(iter(present.values()))))

    def _levels(self, at: int, x: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Tokens and mask of one view at each depth the fusion asks for, shallow to deep, then the last ones.

        These also stand for the shallowest where the encoder has fewer depths than are asked for.
        """
        encoder, maps = self.encoders[at], self.depth_maps[at]
        encoded = Encoded(x["features"].float(), x["mask"]) if "features" in x else encoder.features(x)
        tokens = encoder.project(encoded)
        last = tokens, encoded.mask[:, : tokens.shape[1]]  # real tokens come first, and an encoder that pools gives fewer
        if not encoded.depths:
            return [last] * (self.fusion.depths + 1)
        deepest = encoded.depths[len(encoded.depths) - len(maps) :]
        return [last] * (self.fusion.depths - len(maps)) + [(m(h), mask) for m, (h, mask) in zip(maps, deepest)] + [last]

    def answers(self, encoded: Tokens) -> dict[str, Tensor]:
        """Encoded tokens to {target: out [B, ...]}."""
        return self.answer(self.fusion(encoded))

    def embed(self, encoded: Tokens) -> Tensor:
        """Encoded tokens to the fused vector of each row [B, D]."""
        return self.fusion(encoded).row

    def configs(self) -> dict[str, Any]:
        """{view: config} of encoders that came from a checkpoint."""
        return {v: c for v, e in zip(self.views, self.encoders) if (c := e.config_state()) is not None}

    def answer(self, tokens: Tokens) -> dict[str, Tensor]:
        """Fused tokens to {target: out [B, ...]}."""
        if self.decides:
            present = tokens.present(self.fusion.views)
            outs = {t: self.tempered(t, out) for t, out in self.each(tokens).items()}
            return {t: self._decide(t, task, outs[t], present) for t, task in zip(self.targets, self.tasks)}
        return {target: task(tokens) for target, task in zip(self.targets, self.tasks)}

    def each(self, tokens: Tokens) -> dict[str, Tensor]:
        """At decision level, what every view answers by itself: {target: outs [B, V, ...]}."""
        alone = [replace(tokens, spans={"row": tokens.spans[view]}) for view in self.fusion.views]
        return {t: torch.stack([head(one) for head, one in zip(heads, alone)], 1) for t, heads in zip(self.targets, self.heads)}

    def tempered(self, target: str, outs: Tensor) -> Tensor:
        """What `each` gives for one target, with what its heads were calibrated to."""
        heads = self.heads[self.targets.index(target)]
        return torch.stack([head.tempered(outs[:, v]) for v, head in enumerate(heads)], 1)

    def _decide(self, target: str, task: Task, outs: Tensor, present: Tensor) -> Tensor:
        """The joint answer; a row without any view gets the one that looks at no input."""
        some = present.any(1)
        out = self.fusion.combine(target, outs, present | ~some.unsqueeze(1), task)  # type: ignore[operator]
        constant = getattr(task, "constant", None)
        return out if constant is None else torch.where(some.view(-1, *[1] * (out.ndim - 1)), out, constant(len(out)).to(out))

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = self.encode(batch)
        fused = self.fusion(encoded)
        outs = self.each(fused) if self.decides and self.training else self.answer(fused)
        losses = dict(fused.losses)
        for name, part in self.objectives.items() if self.training else ():
            # the fusion may have a loss of that name too
            losses[name] = losses.get(name, 0.0) + self.objective_weights[name] * part(encoded, fused, batch)
        return outs, losses

    def loss(
        self,
        outs: dict[str, Tensor],
        losses: dict[str, Tensor],
        batch: Batch,
        weights: dict[str, float],
        balance: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> Tensor:
        """Sum over targets and auxiliary losses, each times its weight (1 where `weights` has none).

        Args:
            balance: {target: loss} to the same, weighed against one another, before `weights`.
        """
        of_targets = {t: self._target_loss(t, outs[t], batch) for t in self.targets}
        parts = [*(balance(of_targets) if balance else of_targets).items(), *losses.items()]
        return torch.stack([loss * weights.get(name, 1.0) for name, loss in parts]).sum()

    def _target_loss(self, target: str, out: Tensor, batch: Batch) -> Tensor:
        """At decision level `out` is [B, V, ...], and each view's head learns by its own loss on the rows that have it."""
        at, truth = self.targets.index(target), batch.cells[target]
        if not self.decides:
            return self.tasks[at].loss(out, truth, batch.weight)
        losses = []
        for v, (view, head) in enumerate(zip(self.views, self.heads[at])):
            here = truth.keep(batch.cells[view].present()[truth.rows])
            losses.append(head.loss(out[:, v], here, batch.weight))
        return torch.stack(losses).mean()

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


def _depth_maps(encoder: Encoder, depths: int) -> nn.ModuleList:
    """Linear layers from the encoder's `depths` deepest earlier layers to its width; the encoder gives these from now on."""
    encoder.deep = depths > 0
    widths = encoder.depth_widths[-depths:] if depths else ()
    return nn.ModuleList(nn.Linear(f, encoder.width) for f in widths)


def _side_by_side(encoded: dict[str, list[tuple[Tensor, Tensor, Tensor]]], size: int) -> Tokens:
    """{view: (x, mask, rows) of each level} to the tokens of the last level, the others as its depths."""
    *depths, last = [scatter(dict(zip(encoded, level)), size) for level in zip(*encoded.values())]
    return replace(last, depths=tuple(depths))


def _free(name: str, schema: Schema) -> str:
    taken = {c.name for c in schema.columns}
    while name in taken:
        name += "_"
    return name


def _span_names(views: list[str]) -> dict[str, str]:
    """A view may be called "row", which is the fusion's own span."""
    return {v: f"{v}_" if v == "row" or v.rstrip("_") == "row" else v for v in views}


def _encoder(part: dict[str, Any], codec: Codec, width: int) -> Encoder:
    return Stored(codec, width, part["stored"]) if "stored" in part else _build(encoders, part, "encoder", codec, width)


def _objective(name: str, options: dict[str, Any], *context: Any) -> Objective:
    return objectives.build(name, *context, **{k: v for k, v in options.items() if k != "weight"})


def _build(registry: Any, options: dict[str, Any], key: str, *context: Any) -> Any:
    return registry.build(options[key], *context, **{k: v for k, v in options.items() if k != key})
