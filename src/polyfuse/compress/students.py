"""The two kinds of student: a network taught by gradient, and a linear learner on untrained features."""

import math
import time as clock
from typing import Any

import numpy as np
import torch

from ..bundle import Bundle, build
from ..card import about_data, make_card, versions
from ..core import RecipeError, Task
from ..data import Fold
from ..ensemble import Ensemble, shallow, side_by_side
from ..learners import Interrupted, TrainOptions, outputs, train
from ..model import Model
from ..presets import Course, Plan, Table, features_for
from ..ready import Ready, new_bundle
from .lesson import Lesson, Taught

_LEAST = 0.02  # probability below which a class is not taught
_GRADES = 4  # copies of a row that teach the probabilities of its labels

_KNOWN = 10  # rows of a pattern of present views, so that the linear learner speaks of it


def network(ready: Ready, temperature: float, trust: float, by_labels: bool, device: str | None, budget_s: float | None) -> Bundle:
    """A network that learns the teacher's answers by the loss `Taught` alone, which the labels are a part of."""
    run = ready.run
    bundle = new_bundle(ready)
    model = bundle.model
    assert isinstance(model, Model)
    taught = Taught(dict(zip(model.targets, model.tasks)), temperature, trust, run.recipe["loss"])
    model.objectives[Taught.name] = taught  # type: ignore[index]
    model.objective_weights[Taught.name] = 1.0
    try:
        done = train(
            model,
            ready.data,
            ready.rows,
            ready.held,
            TrainOptions(**run.recipe["train"]),
            seed=run.recipe["seed"],
            device=device,
            budget_s=budget_s,
            loss_weights=dict.fromkeys(model.targets, 0.0),
            main=run.recipe["main"],
            progress=run.progress,
        )
    except Interrupted:
        raise RecipeError("distil", "was interrupted before the first epoch ended", fix="run it again") from None
    del model.objectives[Taught.name], model.objective_weights[Taught.name]  # type: ignore[attr-defined]
    if not by_labels:
        cool(model.tasks)
    run.recipe["plan"] = done.plan if budget_s is not None or done.interrupted else None
    bundle.card = make_card(ready, bundle, done)
    return bundle


def linear(ready: Ready, lesson: Lesson, teacher: Bundle, trust: float, by_labels: bool) -> Bundle:
    """One linear learner on the untrained features of all its views, as an ensemble of one.

    Source: ours; a row teaches each class that the teacher holds for possible, with its probability as weight, so that the
    logistic loss is that of soft labels; of numbers the teacher's are learned. Beside each row stands one of which some views are
    hidden, for the answer that the teacher gave with them.
    """
    data, recipe = ready.data, ready.run.recipe
    tasks: Any = teacher.model.tasks
    table = Table(ready, [Fold(ready.rows, ready.rows[:0], ready.held)], None, tasks)
    todo = Plan("", math.inf, features_for(data, recipe, sparse=False), {}, [], 1)
    course = Course(ready, todo, table, clock.monotonic(), recipe["seed"], None, None)
    course.encode()
    views = list(course.encoders)
    if not views:
        raise RecipeError("--to linear", "none of the views has features without training", fix="--to net")
    for view in data.views:
        if view not in views:
            ready.run.progress.say(f"note: '{view}' has no features without training: the linear student does not look at it", "yellow")
    member = {"name": "linear", "learner": "linear", "views": views, "options": {}}
    made = shallow(member, tasks, table.layouts)
    at = np.searchsorted(table.rows, ready.rows)
    x, there = table.inputs(views, at)
    present = data.present(ready.rows)[:, [list(data.views).index(v) for v in views]]
    weight = np.ones(len(at)) if data.weight is None else data.weight[ready.rows].astype(np.float64)
    if len(views) > 1:
        hidden = present & ~_hide(present, recipe["seed"])
        layouts = [side_by_side(table.layouts[v]) for v in views]
        widths = [len(own.owner) for own in layouts], [own.flags for own in layouts]
        x = np.concatenate([x, x * np.repeat(hidden, widths[0], axis=1)])
        there = np.concatenate([there, there & np.repeat(hidden, widths[1], axis=1)])
        present = np.concatenate([present, hidden])
        weight = np.concatenate([weight, weight])
    for t, learner in zip(made.targets, made.learners):
        of, y, share = wanted(tasks[t], lesson, teacher.targets[t], ready.rows, trust)
        if len(views) > 1:
            of, y, share = np.concatenate([of, of + len(at)]), np.concatenate([y, y]), np.concatenate([share, share])
        learner.fit(x[of], there[of], y, share * weight[of], seed=recipe["seed"])  # type: ignore[operator]
    found, counts = np.unique(present[present.any(1)], axis=0, return_counts=True)
    made.patterns = torch.from_numpy(found[counts >= min(_KNOWN, counts.max())])
    return _built(course, member, made, teacher, by_labels)


def wanted(task: Task, lesson: Lesson, target: str, rows: np.ndarray, trust: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a learner is taught: which row [S], the answer as `Task.answers` has it [S, ...], and its share of the row [S]."""
    out, truth = lesson.of(target, rows)
    p = task.probability(out)
    values = (out if p is None else p).double().numpy()
    own, known = truth.rows.numpy(), task.answers(truth.x) if len(truth.rows) else None
    if known is not None:
        if task.learned_as == "classes":
            known = known[:, None] == np.arange(values.shape[1])
        mixed = trust * values[own] + (1 - trust) * known
        values[own] = np.where(np.isnan(mixed), values[own], mixed)
    if task.learned_as == "classes":
        values = np.where(values >= min(_LEAST, 1 / values.shape[1]), values, 0.0)
        of, y = np.nonzero(values)
        return of, y, values[of, y] / values.sum(1)[of]
    if task.learned_as == "labels":
        grades = (np.arange(_GRADES) + 0.5) / _GRADES
        of = np.repeat(np.arange(len(values)), _GRADES)
        return of, values[of] > np.tile(grades, len(values))[:, None], np.full(len(of), 1 / _GRADES)
    return np.arange(len(values)), values, np.ones(len(values))


def _hide(present: np.ndarray, seed: int) -> np.ndarray:
    """[R, V] bool: about half of the views of each row, never the last that it has."""
    u = np.random.default_rng((seed, 17)).random(present.shape)
    last = np.where(present, u, -1.0).argmax(1)
    hidden = u < 0.5
    hidden[np.arange(len(u)), last] = False
    return hidden


def _built(course: Course, member: dict[str, Any], made: Any, teacher: Bundle, by_labels: bool) -> Bundle:
    ready, views = course.ready, member["views"]
    run, features = ready.run, {v: course.plan.features[v] for v in member["views"]}
    about = {"features": features, "widths": {v: course.widths[v] for v in views}, "members": [member]}
    run.recipe["ensemble"] = about
    bundle = build(run.recipe, {n: c.state() for n, c in ready.codecs.items()})
    model = bundle.model
    assert isinstance(model, Ensemble)
    for view, describer in zip(model.described, model.describers):
        describer.encoders = torch.nn.ModuleList(course.encoders[view])
    model.members[0].load_state_dict(made.state_dict())
    for own, theirs in zip(model.tasks, teacher.model.tasks):
        own.load_state_dict(theirs.state_dict())
    model.eval().requires_grad_(False)
    cool(model.tasks)
    if by_labels:
        outs, truth = outputs(model, ready.data, ready.held)  # type: ignore[arg-type]
        for target, task in zip(model.targets, model.tasks):
            task.calibrate(outs[target], truth[target])
    bundle.card = {
        "data": about_data(ready, ready.rows, len(ready.held)),
        "main": run.recipe["main"],
        "warnings": [],
        "model": {
            "fusion": "linear",
            "encoders": {v: " + ".join(p["encoder"] for p in parts) for v, parts in features.items()},
            "parameters": model.size,
        },
        **versions(),
    }
    return bundle


def cool(tasks: Any) -> None:
    """Without a temperature of their own: the teacher's probabilities were honest, and are what was learned."""
    for task in tasks:
        if hasattr(task, "temperature"):
            task.temperature.fill_(1.0)
