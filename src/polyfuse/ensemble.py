"""Many members, one answer: each speaks where it has learned to, weighed by how well it answered rows it had not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .core import Batch, Cells, Codec, Encoded, Encoder, Inputs, Layout, Learner, Task, Tokens, beside, encoders, learners, pool, tasks
from .core.layers import Fitted
from .learners.features import vector_of
from .model import Model


@dataclass(frozen=True)
class Seen:
    """A batch as the members see it, before any of them answers.

    Args:
        features: {view: x [B, F], there [B, G]}.
        sparse: the same for learners that are sparse, of the views that have sparse features.
        tokens: of each network, in the order of the members.
        present: {view: [B] bool}.
    """

    features: dict[str, tuple[Tensor, Tensor]]
    sparse: dict[str, tuple[Tensor, Tensor]]
    tokens: list[Tokens]
    present: dict[str, Tensor]

    def hide(self, hidden: dict[str, Tensor]) -> "Seen":
        """Without the views of the rows where hidden[view] [B] is True: the same as never having had them."""
        features, sparse, present = dict(self.features), dict(self.sparse), dict(self.present)
        for view, gone in hidden.items():
            for described in (features, sparse):
                if view in described:
                    x, there = described[view]
                    described[view] = x.masked_fill(gone.unsqueeze(1), 0.0), there & ~gone.unsqueeze(1)
            present[view] = present[view] & ~gone
        return Seen(features, sparse, [t.hide(hidden) for t in self.tokens], present)

    def exchange(self, others: dict[str, "Seen"]) -> "Seen":
        """The batch, some views taken from elsewhere."""
        return Seen(
            {v: others.get(v, self).features[v] for v in self.features},
            {v: others.get(v, self).sparse[v] for v in self.sparse},
            [t.exchange({v: o.tokens[i] for v, o in others.items()}) for i, t in enumerate(self.tokens)],
            {v: others.get(v, self).present[v] for v in self.present},
        )

    def inputs(self, views: Sequence[str], sparse: bool = False) -> tuple[Tensor, Tensor]:
        """The features and flags of some views side by side, as a learner gets them."""
        found = [(self.sparse if sparse and v in self.sparse else self.features)[v] for v in views]
        return torch.cat([x for x, _ in found], 1), torch.cat([there for _, there in found], 1)


class Describer(nn.Module):
    """One view's untrained encoders: a vector of features and flags a row.

    Args:
        widths: how many numbers each encoder gives (F, and G where it has flags of its own).
    """

    def __init__(self, parts: Sequence[Encoder], widths: Sequence[int]):
        super().__init__()
        self.encoders = nn.ModuleList(parts)
        self.layouts = [layout_of(e, w) for e, w in zip(parts, widths)]

    def layout(self, sparse: bool) -> Layout:
        """Of what a learner gets of the view."""
        return side_by_side([self.layouts[i] for i in chosen(self.layouts, sparse)])

    def forward(self, cells: Cells) -> list[Encoded]:
        """What each encoder makes of the present cells; nothing where there is none."""
        parts: Any = self.encoders
        return [encoder.features(cells.x) for encoder in parts] if len(cells.rows) else []

    def vectors(self, cells: Cells, made: list[Encoded], sparse: bool) -> tuple[Tensor, Tensor]:
        """x [B, F], there [B, G], for learners that are sparse or for the others."""
        parts = [(i, self.layouts[i]) for i in chosen(self.layouts, sparse)]
        x = torch.zeros(cells.size, sum(len(own.owner) for _, own in parts))
        there = torch.zeros(cells.size, sum(own.flags for _, own in parts), dtype=torch.bool)
        if made and parts:
            found = [vector_of(made[i], own) for i, own in parts]
            x[cells.rows] = torch.cat([f for f, _ in found], 1).float()
            there[cells.rows] = torch.cat([t for _, t in found], 1)
        return x, there

    def tokens(self, cells: Cells, made: list[Encoded], size: int) -> Cells:
        """What the view's checkpoint and the encoders beside it give, in the place of the cells, for networks: see `beside`."""
        if not made:
            return cells
        parts: list[tuple[Any, Encoded]] = [p for p, own in zip(zip(self.encoders, made), self.layouts) if not own.sparse]
        (first,) = [encoded for encoder, encoded in parts if encoder.config_state() is not None]
        others = [pool(encoded.x, encoded.mask) for encoder, encoded in parts if encoder.config_state() is None]
        return Cells(beside(first.x, first.mask, others, size), cells.rows, cells.size)


class Shallow(Fitted):
    """A learner for each target, on the features of some views.

    It speaks of rows whose pattern of present views it has met in training: what it would say of another is a guess.
    """

    patterns: Tensor

    def __init__(self, views: Sequence[str], made: Sequence[Learner | None]):
        super().__init__()
        self.views, self.sparse = list(views), any(learner is not None and learner.sparse for learner in made)
        self.targets = [i for i, learner in enumerate(made) if learner is not None]
        self.learners = nn.ModuleList([learner for learner in made if learner is not None])
        self.register_buffer("patterns", torch.ones(1, len(views), dtype=torch.bool))  # [patterns, views]

    def forward(self, seen: Seen) -> tuple[dict[int, Tensor], Tensor]:
        """-> {target's number: out}, speaks [B]."""
        x, there = seen.inputs(self.views, self.sparse)
        return {t: learner(x, there) for t, learner in zip(self.targets, self.learners)}, self.met(seen)

    def met(self, seen: Seen) -> Tensor:
        """Of which rows it speaks [B]."""
        return met(torch.stack([seen.present[v] for v in self.views], 1), self.patterns)


class Deep(nn.Module):
    """One network, trained on several folds: the mean of what they say. It speaks where any of its views is there.

    Args:
        stored: the views that it takes from a describer's checkpoint, which it shares with all other members, with the sizes of
            `Stored`.
    """

    def __init__(self, models: Sequence[Model], stored: dict[str, list[int]]):
        super().__init__()
        self.models: Any = nn.ModuleList(models)
        self.views, self.stored = models[0].views, stored

    def tokens(self, batch: Batch) -> list[Tokens]:
        return [named(model, model.encode(batch)) for model in self.models]

    def forward(self, tokens: Sequence[Tokens]) -> dict[int, Tensor]:
        """-> {target's number: out}."""
        said = []
        for model, own in zip(self.models, tokens):
            outs = model.answers(replace(own, spans={model.spans[v]: s for v, s in own.spans.items()}))
            said.append([task.tempered(outs[t]).float() for t, task in zip(model.targets, model.tasks)])
        even = torch.full((len(said[0][0]), len(said)), 1 / len(said))
        return {t: task.averaged(torch.stack(outs, 1), even) for t, (task, *outs) in enumerate(zip(self.models[0].tasks, *said))}


class Product(Fitted):
    """What the views say, each by the weighed mean of its own members, as evidence that adds up: for views that err apart given
    the answer.

    Where each view is noise on the same truth this is the best there is, and it costs no fit; a learner on all features has to
    find it out, with as many weights as there are features.
    Source: Kittler et al. 1998, "On Combining Classifiers", section 2.1, the product rule: the product of the posteriors over
    that of the priors.

    Args:
        of: which members, by their number, each of one view.
        views: of each of these.
        targets: how many; it speaks of those that have weights.
    """

    weights: Tensor

    def __init__(self, of: Sequence[int], views: Sequence[str], targets: int):
        super().__init__()
        self.of, self.views = list(of), list(views)
        self.register_buffer("weights", torch.ones(targets, len(of)))

    def told(self, said: Sequence[dict[int, Tensor]], speaks: Tensor, made: Sequence[Task]) -> tuple[dict[int, Tensor], Tensor]:
        """said: of each of these members {target's number: honest out}, speaks [B, M] -> {target's number: out}, speaks [B]."""
        found = {}
        for t, (task, weights) in enumerate(zip(made, self.weights)):
            if mine := weights.nonzero()[:, 0].tolist():
                outs = torch.stack([said[i][t] for i in mine], 1)
                found[t] = multiplied(task, outs, speaks[:, mine], [self.views[i] for i in mine], weights[mine])
        return found, speaks.any(1)


class Stacked(Shallow):
    """What several members say, as the features of a linear learner: it finds out whom to believe about which answer.

    Source: Wolpert 1992, "Stacked Generalization"; what it learns from is said of rows that the members had not seen.

    Args:
        of: which members, by their number.
    """

    def __init__(self, of: Sequence[int], views: Sequence[str], made: Sequence[Learner | None]):
        super().__init__(views, made)
        self.of = list(of)

    def told(self, said: Sequence[dict[int, Tensor]], speaks: Tensor, seen: Seen) -> tuple[dict[int, Tensor], Tensor]:
        """said: of each of these members {target's number: honest out}, speaks [B, M] -> {target's number: out}, speaks [B]."""
        made: list[tuple[int, Any]] = list(zip(self.targets, self.learners))
        return {t: learner(voices(learner.task, [outs[t] for outs in said]), speaks) for t, learner in made}, self.met(seen)


class Ensemble(Fitted):
    """Members and their weights, in the place of a `Model`.

    Args:
        views: {view: its fitted codec}.
        targets: {target: its fitted codec}.
        width: D of the networks.
        parts: {target: {"task": part, **options}}, and {view: ...} for the networks.
        about: {"features": {view: [encoder parts]}, "widths": {view: [numbers of each]}, "members": [member]}, where a member is
            {"name", "learner", "views", "options"}, {"name", "fusion", "views", "models": how many, "stored": {view: as `Stored`
            has sizes}}, {"name", "views", "product": names of members before it} or {"name", "views", "stack": such names}.
    """

    weights: Tensor
    spare: Tensor
    temper: Tensor

    def __init__(self, views: dict[str, Codec], targets: dict[str, Codec], width: int, parts: dict[str, Any], about: dict[str, Any]):
        super().__init__()
        self.views, self.targets, self.width = list(views), list(targets), width
        self.spans = {v: v for v in self.views}
        self.tasks: Sequence[Task] = nn.ModuleList(_build(tasks, parts[t], "task", c, width) for t, c in targets.items())  # type: ignore[assignment]
        described = [(v, [_build(encoders, p, "encoder", views[v], width) for p in ps]) for v, ps in about["features"].items()]
        self.described = [v for v, _ in described]
        self.describers: Any = nn.ModuleList(Describer(made, about["widths"][v]) for v, made in described)
        self.names = [m["name"] for m in about["members"]]
        layouts: dict[str, list[Layout]] = {v: d.layouts for v, d in zip(self.described, self.describers)}  # type: ignore[misc]
        members: list[nn.Module] = []
        for member in about["members"]:
            if "learner" in member:
                members.append(shallow(member, self.tasks, layouts))
            elif "product" in member:
                of = [self.names.index(n) for n in member["product"]]
                members.append(Product(of, [about["members"][i]["views"][0] for i in of], len(self.targets)))
            elif "stack" in member:
                members.append(stacked(member, self.tasks, [self.names.index(n) for n in member["stack"]]))
            else:
                mine, stored = {v: views[v] for v in member["views"]}, member.get("stored", {})
                own = {**parts, **{v: {"stored": sizes} for v, sizes in stored.items()}}
                members.append(Deep([Model(mine, targets, width, member["fusion"], own) for _ in range(member["models"])], stored))
        self.members: Any = nn.ModuleList(members)
        shape = len(self.targets), len(members)
        self.register_buffer("weights", torch.full(shape, 1.0 / max(len(members), 1)))  # of what the members say together
        self.register_buffer("spare", torch.full(shape, 1.0 / max(len(members), 1)))  # where none of those may speak
        self.register_buffer("temper", torch.ones(shape))  # what makes each member's probabilities honest

    @property
    def size(self) -> int:
        """Numbers that have a part in answers, those of the untrained encoders among them."""
        parts = [*self.members, *self.describers]
        return sum(t.numel() for part in parts for t in (*part.parameters(), *part.buffers()))

    def configs(self) -> dict[str, Any]:
        """{view: config} of encoders that came from a checkpoint."""
        found = {v: [c for e in d.encoders if (c := e.config_state()) is not None] for v, d in zip(self.described, self.describers)}
        return {v: configs[0] for v, configs in found.items() if configs}

    def encode(self, batch: Batch) -> Seen:
        described = [(v, describer, batch.cells[v]) for v, describer in zip(self.described, self.describers)]
        made = {v: describer(cells) for v, describer, cells in described}
        features = {v: describer.vectors(cells, made[v], False) for v, describer, cells in described}
        sparse = {v: d.vectors(cells, made[v], True) for v, d, cells in described if any(own.sparse for own in d.layouts)}
        tokens = []
        for m in self.members:
            if isinstance(m, Deep):
                stored = {v: d.tokens(cells, made[v], m.stored[v][0]) for v, d, cells in described if v in m.stored}
                tokens += m.tokens(replace(batch, cells={**batch.cells, **stored}))
        return Seen(features, sparse, tokens, {v: batch.cells[v].present() for v in self.views})

    def said(self, seen: Seen) -> list[tuple[dict[int, Tensor], Tensor]]:
        """What each member says: {target's number: out}, and of which rows it may speak [B]."""
        found, at = [], 0
        for member in self.members:
            if isinstance(member, Deep):
                mine, at = seen.tokens[at : at + len(member.models)], at + len(member.models)
                found.append((member(mine), torch.stack([seen.present[v] for v in member.views], 1).any(1)))
            elif isinstance(member, Product | Stacked):
                honest = [{t: out.float() / self.temper[t, i] for t, out in found[i][0].items()} for i in member.of]
                speaks = torch.stack([found[i][1] for i in member.of], 1)
                found.append(member.told(honest, speaks, self.tasks) if isinstance(member, Product) else member.told(honest, speaks, seen))
            else:
                found.append(member(seen))
        return found

    def answers(self, seen: Seen) -> dict[str, Tensor]:
        """{target: out [B, ...]}. A row that no member may speak of gets the answer that looks at no input."""
        said, made = self.said(seen), {}
        for t, (target, task) in enumerate(zip(self.targets, self.tasks)):
            mine = [(m, outs[t] / self.temper[t, m], speaks) for m, (outs, speaks) in enumerate(said) if t in outs]
            at = [m for m, _, _ in mine]
            outs, speaks = torch.stack([o.float() for _, o, _ in mine], 1), torch.stack([s for _, _, s in mine], 1)
            made[target] = joined(task, outs, speaks, self.weights[t, at], self.spare[t, at])
        return made

    def embed(self, seen: Seen) -> Tensor:
        """One vector a row: the features of all views, zeros where one is not there; of an ensemble of networks their fused rows.

        Shapes:
            -> [B, F] or [B, models * D]
        """
        if self.described:
            return seen.inputs(self.described)[0]
        models = [m for member in self.members for m in member.models]
        return torch.cat([m.embed(replace(t, spans={m.spans[v]: s for v, s in t.spans.items()})) for m, t in zip(models, seen.tokens)], 1)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.answers(self.encode(batch)), {}


def joined(task: Task, outs: Tensor, speaks: Tensor, weights: Tensor, spare: Tensor) -> Tensor:
    """The members' weighed mean; where none of weight may speak the spare weights count, where nobody may the constant answer.

    Shapes:
        outs [B, M, ...], speaks [B, M], weights [M], spare [M] -> out [B, ...]
    """
    first = weights * speaks
    w = torch.where(first.sum(1, keepdim=True) > 0, first, spare * speaks)
    total = w.sum(1, keepdim=True)
    out = task.averaged(outs, w / total.clamp(min=1e-12))
    nobody = (total <= 0).view(-1, *[1] * (out.ndim - 1))
    return torch.where(nobody, task.constant(len(out)).to(out), out)  # type: ignore[operator]


def met(present: Tensor, patterns: Tensor) -> Tensor:
    """Which rows have a pattern of present views that was met in training: present [B, V], patterns [P, V] -> [B]."""
    return (present.unsqueeze(1) == patterns).all(2).any(1) & present.any(1)


def can_multiply(task: Task) -> bool:
    """Whether its answers have probabilities, whose evidence adds up."""
    return task.learned_as in ("classes", "labels")


def product(task: Task, outs: Tensor, speaks: Tensor) -> Tensor:
    """outs [B, M, C] and who may speak [B, M] -> out [B, C]: log p = sum of log p_m - (how many - 1) * log prior + constant."""
    evidence = outs.log_softmax(-1) if task.exclusive else outs
    prior = task.out_of(task.share).to(outs)  # type: ignore[operator, arg-type]
    count = speaks.sum(1, keepdim=True)
    return (evidence * speaks.unsqueeze(-1)).sum(1) - (count - 1) * prior


def multiplied(task: Task, outs: Tensor, speaks: Tensor, views: Sequence[str], weights: Tensor) -> Tensor:
    """The members of each view joined, then the views' answers as evidence that adds up.

    Shapes:
        outs [B, M, C], speaks [B, M], views: of each member, weights [M] -> out [B, C]
    """
    each, there = [], []
    for view in dict.fromkeys(views):
        mine = [m for m, v in enumerate(views) if v == view]
        each.append(joined(task, outs[:, mine], speaks[:, mine], weights[mine], weights[mine]))
        there.append(speaks[:, mine].any(1))
    return product(task, torch.stack(each, 1), torch.stack(there, 1))


def shallow(member: dict[str, Any], made: Sequence[Task], layouts: dict[str, list[Layout]]) -> Shallow:
    """A member's learners, not fitted yet; none for a target that its learner cannot take.

    Args:
        layouts: {view: of each of its encoders}.
    """
    part = learners.get(member["learner"])
    inputs = Inputs.of({v: side_by_side([layouts[v][i] for i in chosen(layouts[v], part.sparse)]) for v in member["views"]})
    fitting = [t.learned_as in part.takes for t in made]
    return Shallow(
        member["views"], [learners.build(member["learner"], t, inputs, **member["options"]) if f else None for t, f in zip(made, fitting)]
    )


def stacked(member: dict[str, Any], made: Sequence[Task], of: Sequence[int]) -> Stacked:
    """A stacked member's learners, not fitted yet; none for a target that cannot be learned so.

    Args:
        of: the numbers of the members in `member["stack"]`.
    """
    part = learners.get("linear")
    built: list[Learner | None] = []
    for task in made:
        wide = task.constant(1).numel()  # type: ignore[operator]
        inputs = Inputs.of({str(i): Layout((0,) * wide, (0,) * wide, 1) for i in of})
        built.append(part(task, inputs) if task.learned_as in part.takes else None)
    return Stacked(of, member["views"], built)


def voices(task: Task, outs: Sequence[Tensor]) -> Tensor:
    """What members say of one target, side by side as features: M times [B, ...] -> [B, M * K]; of classes log probabilities."""
    x = torch.stack([out.float() for out in outs], 1)
    return (x.log_softmax(-1) if can_multiply(task) and task.exclusive else x).flatten(1)


def layout_of(encoder: Encoder, width: int) -> Layout:
    """What the vector of an encoder is; where it does not say, `width` numbers that are there with the view."""
    return encoder.layout or Layout((0,) * width, (0,) * width, 1, encoder.sparse, encoder.terms)


def chosen(layouts: Sequence[Layout], sparse: bool) -> list[int]:
    """Which of a view's encoders a learner looks at: a sparse one at those that are sparse, if there are any, else at the others."""
    sparse = sparse and any(own.sparse for own in layouts)
    return [i for i, own in enumerate(layouts) if own.sparse == sparse]


def side_by_side(layouts: Sequence[Layout]) -> Layout:
    """Several encoders of one view as one; all of them are sparse, or none."""
    owner: list[int] = []
    terms: list[int] = []
    flags = 0
    for layout in layouts:
        owner += [flags + o for o in layout.owner]
        flags += layout.flags
        terms += layout.terms or [0] * len(layout.owner)
    sparse = any(layout.sparse for layout in layouts)
    return Layout(tuple(c for layout in layouts for c in layout.cardinality), tuple(owner), flags, sparse, tuple(terms))


def named(model: Model, tokens: Tokens) -> Tokens:
    """Tokens whose spans, and those of their depths, have the views' own names."""
    depths = tuple(named(model, level) for level in tokens.depths)
    return replace(tokens, spans={v: tokens.spans[s] for v, s in model.spans.items()}, depths=depths)


def _build(registry: Any, part: dict[str, Any], key: str, *context: Any) -> Any:
    return registry.build(part[key], *context, **{k: v for k, v in part.items() if k != key})
