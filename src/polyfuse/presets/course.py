"""fit under a preset: encode once, learn members fold by fold, keep what helps, say whether fusing pays."""

import copy
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bundle import Bundle, build
from ..card import about_data, versions
from ..core import Cells, RecipeError, TableCodec, Task, encoders, learners, tasks
from ..core.progress import Progress
from ..data import Joined
from ..ensemble import Ensemble, Product, can_multiply, chosen, joined, layout_of, met
from ..evaluate import evaluate, leaks
from ..learners.features import described
from ..learners.threads import one_blas_thread, one_torch_thread
from ..ready import Ready, Run
from .crossfit import Fitted, Table, learn, network, stack
from .folds import folds_of
from .plan import Plan, Step, make_plan
from .selection import Said, judged, select, tempered, told

_JUDGING = 0.05  # of the budget: kept for weighing the members and building the bundle


@dataclass
class Member:
    """A step that was made."""

    step: Step
    fitted: Fitted
    temper: list[float]
    score: float


@dataclass
class Course:
    """A fit under a preset, as far as it has come.

    Args:
        started: on the monotonic clock.
        save: called with the best bundle so far before what may take long; None where nobody keeps it.
        seed: of the folds and of all learners.
    """

    ready: Ready
    plan: Plan
    table: Table
    started: float
    seed: int
    device: str | None
    save: Callable[[Bundle], None] | None
    widths: dict[str, list[int]] = field(default_factory=dict)
    encoders: dict[str, list[Any]] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return self.ready.run

    @property
    def targets(self) -> list[str]:
        return list(self.ready.data.targets)

    @property
    def main(self) -> int:
        """The number of the target that counts."""
        return self.targets.index(self.run.recipe["main"])

    def left(self) -> float:
        return self.plan.budget_s - (clock.monotonic() - self.started)

    # -- the steps ---------------------------------------------------------------------------------------------

    @one_blas_thread()
    def encode(self) -> None:
        """The features of every view, from the store where it has them."""
        data, width = self.ready.data, self.run.recipe["width"]
        device = "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"
        with self.run.progress.bar("encoding", sum(len(data.views[v].present) * len(ps) for v, ps in self.plan.features.items())) as bar:
            for view, parts in self.plan.features.items():
                bar.about(view)
                made, stored, layouts = [], [], []
                for part in parts:
                    options = {k: v for k, v in part.items() if k != "encoder"}
                    encoder = encoders.build(part["encoder"], data.codecs[view], width, **options)
                    found = described(view, data.views[view], self.ready.rows, encoder, part, self.run.store, bar.step, device)
                    made.append(encoder)
                    stored.append(found)
                    layouts.append(layout_of(encoder, encoder.columns if encoder.sparse else _width(found)))
                self.encoders[view] = made
                self.widths[view] = [len(own.owner) + (own.flags if e.layout else 0) for own, e in zip(layouts, made)]
                self.table.add(view, made, stored, layouts)

    @one_blas_thread()
    def learn(self) -> None:
        """Step after step while there is time; Ctrl-C keeps what is finished."""
        say, judged = self.run.progress.say, 0
        with self.run.progress.bar("learning", sum(s.seconds for s in self.plan.steps)) as bar:
            try:
                for step in self.plan.steps:
                    bar.about(step.name)
                    if self.save and step.deep and judged < len(self.members):  # it may take long: what is there by now is worth keeping
                        self._multiply()
                        self.save(self.bundle())
                        judged = len(self.members)
                    if self.members and not step.needed and self.left() < _JUDGING * self.plan.budget_s + self._wanted(step):
                        say(f"  {step.name}: left out, the time is nearly up", "yellow")
                        continue
                    self._make(step)
                    bar.step(step.seconds)
                bar.about("stacking")
                self._multiply()
                self._stack()
            except KeyboardInterrupt:
                if not self.members:
                    raise RecipeError("fit", "was interrupted before anything had been learned", fix="run it again") from None
                say("interrupted: keeping what is learned so far", "yellow")
                self._multiply()

    def _wanted(self, step: Step) -> float:
        """Seconds that a step will take, as the steps so far took against what was expected; a network makes do with half of them."""
        if step.deep:
            return 0.5 * step.seconds
        made = [(m.fitted.seconds, m.step.seconds) for m in self.members if not m.fitted.stored and not m.step.deep]
        usual = _JUDGING * self.plan.budget_s  # as if so much had taken what was expected: a few short steps tell little of a long one
        pace = (sum(took for took, _ in made) + usual) / (sum(expected for _, expected in made) + usual)
        return step.seconds * max(pace, 1.0)

    def _make(self, step: Step) -> None:
        store = self.run.store
        if step.deep:
            left = self.left() - _JUDGING * self.plan.budget_s
            wanted = max(step.seconds, 0.5 * left)  # longer than expected, where that leaves the others as much again
            seconds = max(left if step is self.plan.steps[-1] else min(wanted, left), 2.0)
            fitted = network(step.member, self.table, self.seed, store, seconds=seconds, device=self.device, progress=Progress(quiet=True))
            step.member = {**step.member, "models": fitted.models}
        else:
            fitted = learn(step.member, self.table, self.seed, store)
        self._add(step, fitted)

    def _add(self, step: Step, fitted: Fitted) -> None:
        """A member joins: how honest it is where it speaks, and what it is worth alone, with the constant answer elsewhere."""
        member = Member(step, fitted, [], float("nan"))
        speaks = _speaks([member], self.ready.data.present(self.table.rows), list(self.ready.data.views))
        for t, task in enumerate(self.table.tasks):
            if t not in fitted.outs:
                member.temper.append(1.0)
                continue
            out, truth = self._judged(t, fitted.covered & speaks[:, 0].numpy(), fitted.outs[t])
            member.temper.append(tempered(task, out, truth) if len(truth.rows) else 1.0)
            if t == self.main:
                honest = (fitted.outs[t] / member.temper[t]).unsqueeze(1)
                out, truth = self._judged(t, fitted.covered, joined(task, honest, speaks, torch.ones(1), torch.ones(1)))
                member.score = task.scores(out, truth).get(task.metric, float("nan")) if len(truth.rows) else member.score
        self.members.append(member)
        main = self.table.tasks[self.main]
        how = "stored" if fitted.stored else f"{fitted.seconds:.1f} s"
        self.run.progress.say(f"  {step.name:<32} {main.metric} {member.score:<8.4g} {how}")

    def _multiply(self) -> None:
        """What the views say, each by a selection of its own members, as evidence that adds up: a member that needs no fit.

        Made anew when there are more of these. It speaks of a target that each view has a member for.
        """
        every = [m.step.member for m in self.members]
        alone = {i: m["views"][0] for i, m in enumerate(every) if len(m["views"]) == 1 and "stack" not in m}
        views = list(dict.fromkeys(alone.values()))
        if len(views) < 2 or not self.plan.features.keys() <= set(views):
            return
        speaks = _speaks(self.members, self.ready.data.present(self.table.rows), list(self.ready.data.views))
        weights = torch.zeros(len(self.targets), len(self.members))
        for t, task in enumerate(self.table.tasks):
            each = [[i for i, v in alone.items() if v == view and t in self.members[i].fitted.outs] for view in views]
            if can_multiply(task) and all(each):
                for mine in each:
                    weights[t, mine] = select(self._said(t, mine, speaks), range(len(mine)), self.seed)
        of = [i for i in alone if weights[:, i].any()]
        names = [every[i]["name"] for i in of]
        if not of or any(m.get("product") == names for m in every):
            return
        said = [{t: out / self.members[i].temper[t] for t, out in self.members[i].fitted.outs.items()} for i in of]
        made = Product(of, [alone[i] for i in of], len(self.targets))
        made.weights.copy_(weights[:, of])
        outs, _ = made.told(said, speaks[:, of], self.table.tasks)
        covered = np.logical_and.reduce([self.members[i].fitted.covered for i in of])
        member = {"name": "product of the views", "views": views, "product": names}
        self.members = [m for m in self.members if "product" not in m.step.member]
        self._add(Step(member, 0.0), Fitted(outs, covered, made.state_dict()))

    def _stack(self) -> None:
        """What the members say, learned from in its turn: those on the best view alone, then all.

        Both, for else it would be stacking that pays where fusing seems to. The folds must be exchangeable: in time, rows of a
        later one must not teach what an earlier one is answered.
        """
        rows, folds = self.table.rows, self.table.folds
        if len(folds) < 2 or any(len(f.train) + len(f.held) + len(f.test) < len(rows) for f in folds):
            return
        tested = [np.searchsorted(rows, f.test) for f in folds]
        asked = {t for t, task in enumerate(self.table.tasks) if task.learned_as}
        able = [
            i
            for i, m in enumerate(self.members)
            if asked <= m.fitted.outs.keys() and sum(m.fitted.covered[at].any() for at in tested) > 1  # no network of one fold alone
        ]
        lone = [i for i in able if len(self.members[i].step.member["views"]) == 1]
        best = self.members[max(lone, key=self._rank)].step.member["views"] if lone else []
        groups = [("".join(best), [i for i in lone if self.members[i].step.member["views"] == best])]
        for name, mine in [*groups, ("all", able)] if len(self.ready.data.views) > 1 else groups:
            self._stack_of(name, mine)

    def _stack_of(self, name: str, mine: list[int]) -> None:
        """A member on what these members say, all of them: one that the others outvote can still tell where they err."""
        if len(mine) < 2:
            return
        views, of = list(self.ready.data.views), [self.members[i] for i in mine]
        speaks = _speaks(of, self.ready.data.present(self.table.rows), views)
        each = of[0].fitted.outs[self.main][0].numel()
        seconds = (len(self.table.folds) + 1) * learners.get("linear").cost(len(self.table.rows), len(of) * each, each)
        if self.left() < 0.5 * _JUDGING * self.plan.budget_s + seconds:  # what the others left of it: no member gives more for its time
            return
        used = {v for m in of for v in m.step.member["views"]}
        member = {"name": f"stacked on {name}", "views": [v for v in views if v in used], "stack": [m.step.name for m in of]}
        honest = [{t: out / m.temper[t] for t, out in m.fitted.outs.items()} for m in of]
        covered = np.logical_and.reduce([m.fitted.covered for m in of])
        self._add(Step(member, seconds), stack(member, self.table, honest, speaks, covered, self.seed, self.run.store))

    def _rank(self, i: int) -> float:
        """How well a member answers the main target: more is better, whatever the metric."""
        higher = self.table.tasks[self.main].higher
        return float(np.nan_to_num(self.members[i].score if higher else -self.members[i].score, nan=-np.inf))

    def _judged(self, t: int, covered: np.ndarray, out: Tensor) -> tuple[Tensor, Cells]:
        """The answers to covered, labelled rows, and their truth."""
        target, at = self.ready.data.targets[self.targets[t]], np.flatnonzero(covered & self._judging(t))
        cells = target.cells(self.table.rows[at])
        return out[torch.from_numpy(at)], Cells(cells.x, torch.arange(len(at)), len(at))

    def _judging(self, t: int) -> np.ndarray:
        """[R] the rows that figures are taken from: they have a label, and weigh something."""
        weight = self.ready.data.weight
        labelled = self.ready.data.targets[self.targets[t]].present[self.table.rows]
        return labelled if weight is None else labelled & (weight[self.table.rows] > 0)

    @cached_property
    def leaking(self) -> list[str]:
        """A line for each column that alone gives a target away."""
        lines, data = [], self.ready.data
        for target, task in zip(self.targets, self.table.tasks):
            known, y = self.table.truth(target, task) if task.learned_as else (np.zeros(len(self.table.rows), bool), np.zeros(0))
            for view, codec in data.codecs.items():
                prepared: Any = data.views[view]
                prepared = prepared.first if isinstance(prepared, Joined) else prepared
                if isinstance(codec, TableCodec) and known.any():
                    mine = known & (self.table.rows < len(prepared.present))
                    for column, share in leaks(prepared, codec, self.table.rows[mine], y[mine]).items():
                        about = f"'{column}' alone removes {share:.0%} of the uncertainty about '{target}'"
                        lines.append(f"{about}: is it known before the answer is? If not, --ignore {column}")
        return lines

    # -- the result --------------------------------------------------------------------------------------------

    @one_torch_thread()
    def bundle(self) -> Bundle:
        """The members that count, weighed, as a bundle; its card says what each is worth and whether fusing pays."""
        verdicts, outs, judges = {}, {}, []
        weights: list[Tensor] = []
        spare: list[Tensor] = []
        present = self.ready.data.present(self.table.rows)
        views = list(self.ready.data.views)
        speaks = _speaks(self.members, present, views)
        for t, target in enumerate(self.targets):
            mine = [i for i, m in enumerate(self.members) if t in m.fitted.outs]
            said = self._said(t, mine, speaks)
            found, w, s = judged(said, self.seed, self.run.store)
            for all_of, own in ((weights, w), (spare, s)):
                full = torch.zeros(len(self.members))
                full[mine] = own
                all_of.append(full)
            verdicts[target] = {**found, "told": told(target, found)}
            answer = said.together(w)
            judges.append(copy.deepcopy(self.table.tasks[t]))
            judges[t].calibrate(answer, said.truth)
            outs[target] = answer, said.truth
        return self._built(torch.stack(weights), torch.stack(spare), verdicts, outs, judges)

    def _said(self, t: int, mine: list[int], speaks: Tensor) -> Said:
        """What these members say of the rows that all of them have spoken of unseen."""
        covered = np.logical_and.reduce([self.members[i].fitted.covered for i in mine])
        answers = [self._judged(t, covered, self.members[i].fitted.outs[t] / self.members[i].temper[t]) for i in mine]
        at = np.flatnonzero(covered & self._judging(t))
        weight = self.ready.data.weight
        return Said(
            self.table.tasks[t],
            torch.stack([out for out, _ in answers], 1),
            speaks[torch.from_numpy(at)][:, mine],
            answers[0][1],
            [tuple(self.members[i].step.member["views"]) for i in mine],
            None if weight is None else torch.from_numpy(weight[self.table.rows[at]]),
            None if self.table.groups is None else self.table.groups[self.table.rows[at]],
        )

    def _built(self, weights: Tensor, spare: Tensor, verdicts: dict[str, Any], outs: dict[str, Any], judges: list[Task]) -> Bundle:
        kept = [i for i in range(len(self.members)) if (weights[:, i] + spare[:, i]).sum() > 0] or [0]  # of no weight, but of some form
        for i in reversed(range(len(self.members))):  # with each those that it is made of, which come before it
            if i in kept:
                member = self.members[i].step.member
                names = member.get("product", []) + member.get("stack", [])
                kept += [j for j, m in enumerate(self.members) if m.step.name in names]
        kept = sorted(set(kept))
        used = self._used([self.members[i].step.member for i in kept])
        about = {
            "features": {v: [self.plan.features[v][i] for i in which] for v, which in used.items()},
            "widths": {v: [self.widths[v][i] for i in which] for v, which in used.items()},
            "members": [self.members[i].step.member for i in kept],
        }
        recipe = {**self.run.recipe, "ensemble": about}
        bundle = build(recipe, {n: c.state() for n, c in self.ready.codecs.items()})
        model = bundle.model
        assert isinstance(model, Ensemble)
        for view, describer in zip(model.described, model.describers):
            describer.encoders = torch.nn.ModuleList(self.encoders[view][i] for i in used[view])
        for member, i in zip(model.members, kept):
            member.load_state_dict(self.members[i].fitted.state)
        model.weights.copy_(_normal(weights[:, kept]))
        model.spare.copy_(_normal(spare[:, kept]))
        model.temper.copy_(torch.tensor([[self.members[i].temper[t] for i in kept] for t in range(len(self.targets))]))
        for own, made in zip(model.tasks, judges):
            own.load_state_dict(made.state_dict())
        model.eval()
        bundle.card = self._card(bundle, kept, weights, spare, verdicts, outs)
        return bundle

    def _used(self, members: list[dict[str, Any]]) -> dict[str, list[int]]:
        """{view: which of its encoders} that these members look at."""
        found: dict[str, set[int]] = {}
        for member in members:
            for v in member["views"] if "learner" in member else ():
                found.setdefault(v, set()).update(chosen(self.table.layouts[v], learners.get(member["learner"]).sparse))
            for v in member.get("stored", ()):
                found.setdefault(v, set()).update(i for i, own in enumerate(self.table.layouts[v]) if not own.sparse)
        return {v: sorted(found[v]) for v in self.plan.features if v in found}

    def _card(self, bundle: Bundle, kept: list[int], weights: Tensor, spare: Tensor, verdicts: Any, outs: Any) -> dict[str, Any]:
        metrics, reports = {}, {}
        for target, task in zip(self.targets, bundle.model.tasks):
            out, truth = outs[target]
            metrics[target], reports[target] = evaluate(task, out, truth), task.report(out, truth)
        warnings = [line for found in verdicts.values() for line in found["told"] if not found["signal"]]
        warnings += self.leaking
        return {
            "data": about_data(self.ready, self.table.rows, max(len(truth.rows) for _, truth in outs.values())),
            "main": self.run.recipe["main"],
            "metrics": metrics,
            "report": reports,
            "verdict": verdicts,
            "members": [
                {
                    "name": m.step.name,
                    "views": m.step.member["views"],
                    "score": None if np.isnan(m.score) else m.score,
                    "weight": round(float(weights[self.main, i]), 4),
                    "spare": round(float(spare[self.main, i]), 4),
                    "seconds": round(m.fitted.seconds, 2),
                }
                for i, m in enumerate(self.members)
            ],
            "warnings": warnings,
            "model": {
                "fusion": f"ensemble of {len(kept)}",
                "encoders": {v: " + ".join(p["encoder"] for p in parts) for v, parts in self.plan.features.items()},
                "parameters": bundle.model.size,
            },
            **versions(),
        }


def start(ready: Ready, preset: str, budget_s: float, started: float, device: str | None, save: Callable[[Bundle], None] | None) -> Course:
    """The folds, the tasks and the plan of a fit under a preset."""
    recipe = ready.run.recipe
    folds, whole, groups, split = folds_of(ready)
    ready.run.split = split
    made = _tasks(ready)
    table = Table(ready, folds, whole, made, groups)
    plan = make_plan(preset, budget_s, ready, table.rows, made, len(folds), whole is None)
    return Course(ready, plan, table, started, recipe["seed"], device, save)


def _tasks(ready: Ready) -> list[Task]:
    made = []
    for target, cells in ready.data.targets.items():
        part = ready.run.recipe["parts"][target]
        task = tasks.build(part["task"], ready.codecs[target], ready.run.recipe["width"], **{k: v for k, v in part.items() if k != "task"})
        task.fit(cells.cells(ready.rows).x)
        made.append(task.eval().requires_grad_(False))
    return made


def _speaks(members: Sequence[Member], present: np.ndarray, views: list[str]) -> Tensor:
    """Of which rows each may speak, as its place in an ensemble will have it: present [R, V] -> [R, members]."""
    found = []
    for member in members:
        own = torch.from_numpy(present[:, [views.index(v) for v in member.step.member["views"]]])
        patterns = member.fitted.state.get("patterns")  # a network or a product speaks where any of its views is there
        found.append(own.any(1) if patterns is None else met(own, patterns))
    return torch.stack(found, 1)


def _normal(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-12)


def _width(stored: Any) -> int:
    return int(getattr(stored, "first", stored).arrays["features"].shape[1])
