"""distil: a bundle that is large or slow teaches a small one, on rows that need no label."""

import copy
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle, check_place
from ..core import Cells, Codec, DataError, RecipeError, Schema, did_you_mean, fusions
from ..core.progress import Progress
from ..data import Joined, Store, Table, hold_out, read, windows
from ..evaluate import difference
from ..evaluate import evaluate as score
from ..fit import alone, scratch_folder, seconds
from ..learners import outputs
from ..model import members_of
from ..ready import Ready, Run, make_ready, use_threads
from ..recipe import parse_settings, resolve
from .lesson import Lesson, ask, carried
from .measure import footprint, lines
from .students import linear, network

KINDS = ("net", "linear", "one-modality")
_FEWEST = 10  # rows
_JUDGES = 15  # labelled rows that are held out; with fewer the student is judged by how well it agrees with the teacher
_SHARE = 0.15  # of the rows that is held out
_DROP = 0.2  # chance to hide a view from the student, who learns the answer that the teacher gave with it


@dataclass
class Class:
    """All that a student learns from.

    Args:
        ready: the prepared table, `rows` to learn from and `held` to be judged by.
        lesson: what the teacher says of its rows.
        by_labels: whether `held` are labelled rows; else the teacher's answers judge.
    """

    teacher: Bundle
    ready: Ready
    lesson: Lesson
    by_labels: bool


def distil(
    teacher: Bundle | str | Path,
    rows: Any,
    *,
    to: str = "net",
    out: str | Path | None = None,
    views: Sequence[str] | None = None,
    val: Any = None,
    test: Any = None,
    fusion: str = "concat",
    size: str = "s",
    time: float | str | None = None,
    temperature: float = 2.0,
    trust: float = 0.7,
    seed: int = 0,
    set: dict[str, Any] | list[str] | None = None,
    overwrite: bool = False,
    device: str | None = None,
    threads: int | None = None,
    max_refused: float = 0.1,
    allow_outside: bool = False,
    quiet: bool = True,
) -> Bundle:
    """Teach a small bundle what a large one answers, and measure what that costs.

    Every row of the table takes part, labelled or not: the teacher answers it with all views it has, and the student learns
    this answer, from whose own views some are hidden now and then so that it bears missing cells. What was
    lost and won is in the student's card under "distilled".

    A teacher is surer of rows that it learned from than it should be. Rows that it has not seen teach best, and need no label;
    of the others, the labels take `1 - trust` of the loss.

    Args:
        teacher: a bundle or its folder; often the ensemble of a preset.
        rows: the table, as `fit` takes it; a target column is not needed.
        to: "net", one network; "linear", one linear learner on untrained features; "one-modality", a network that looks at
            the best single view; or the name of a view, for a network that looks at that.
        out: folder to save the student in.
        views: those that a student "net" or "linear" looks at; all unless named.
        val: a table of rows that judge the student while it learns; by default some of `rows` are held out.
        test: labelled rows on which both are scored; by default the rows held out, which the teacher may have learned from.
        fusion, size: of a network, as in `fit`.
        time: budget of the whole call, seconds or "10m".
        temperature: of a network: above one, unlikely classes count for more.
        trust: share of the teacher in the loss of a row with a label; 1 = labels teach nothing.
        set: {"part.option": value} or ["part.option=value"], as in `fit`.

    Raises:
        DataError: the table has no rows, or lacks a column that the student looks at.
        RecipeError: an unknown `to` or view, or a student that cannot learn what the teacher answers.

    Example:
        small = polyfuse.distil("pets.bundle", "pets.csv", to="net", test="test.csv", out="small.bundle")
    """
    started, budget_s, progress = clock.monotonic(), seconds(time), Progress(quiet)
    if out is not None:
        check_place(Path(out), overwrite)
    workers = use_threads(threads)
    teacher = teacher if isinstance(teacher, Bundle) else Bundle.load(teacher)
    kind, chosen = aim(teacher, to, views)
    about = {"to": to, "views": chosen, "temperature": _positive(temperature), "trust": _share(trust)}
    with scratch_folder() as scratch, alone(out):
        tables = [None if t is None else read(t, scratch=scratch) for t in (rows, val, test)]
        table, val_table, test_table = tables
        assert table is not None
        taught_on = [t for t in (table, val_table) if t is not None]
        recipe, given = plan(teacher, taught_on, chosen, kind, fusion, size, seed, parse_settings(set))
        recipe["distilled"] = about
        inputs = Schema.from_json(recipe["schema"])
        inputs = replace(inputs, columns=tuple(c for c in inputs.columns if c.role != "target"))
        run = Run(inputs, recipe, table, progress, Store(), workers, max_refused, allow_outside)
        course = enrol(teacher, run, val_table, given)
        if kind == "linear":
            student = linear(course.ready, course.lesson, teacher, trust, course.by_labels)
        else:
            left = None if budget_s is None else max(1.0, 0.95 * budget_s - (clock.monotonic() - started))
            student = network(course.ready, temperature, trust, course.by_labels, device, left)
        student.card["distilled"] = about | compared(course, student, test_table)
        student.card["seconds"] = round(clock.monotonic() - started, 2)
        for line in lines(student.card["distilled"]):
            progress.say(line)
        if out is not None:
            student.save(out, overwrite=overwrite)
            progress.say(f"wrote {out}")
    return student


# -- what is asked for ------------------------------------------------------------------------------------------


def aim(teacher: Bundle, to: str, views: Sequence[str] | None) -> tuple[str, list[str]]:
    """ "net" or "linear", and the views that it looks at, in the teacher's order."""
    known = list(teacher.views)
    if to not in KINDS and to not in known:
        expected = f"{', '.join(KINDS)} or a view: {', '.join(known)}"
        raise RecipeError(f"--to {to}", "is no kind of student and no view", expected=expected, fix=did_you_mean(to, [*KINDS, *known]))
    if to not in ("net", "linear"):
        if views is not None:
            raise RecipeError(f"--to {to}", "looks at one view and cannot go with --views", fix="--to net with --views")
        return "net", [best_view(teacher) if to == "one-modality" else to]
    wanted = known if views is None else list(views)
    for view in wanted:
        if view not in known:
            expected = f"some of {', '.join(known)}"
            raise RecipeError(f"view '{view}'", "is none of the teacher's", expected=expected, fix=did_you_mean(view, known))
    if not wanted:
        raise RecipeError("--views", "names none", expected=f"some of {', '.join(known)}")
    return to, [v for v in known if v in wanted]


def best_view(teacher: Bundle) -> str:
    """The view that answers best alone, by the teacher's card."""
    if len(teacher.views) == 1:
        return next(iter(teacher.views))
    card, main = teacher.card, teacher.recipe.get("main") or teacher.targets[0]
    if single := card.get("verdict", {}).get(main, {}).get("single"):
        return str(single)
    alone = {v: f["value"] for v, f in (card.get("alone") or {}).get("views", {}).items()}
    if not alone:
        known = ", ".join(teacher.views)
        raise RecipeError("--to one-modality", "the teacher's card does not say which view is best", fix=f"name it: one of {known}")
    sign = 1 if teacher.model.tasks[teacher.targets.index(main)].higher else -1
    return max(alone, key=lambda v: sign * alone[v])


def plan(
    teacher: Bundle,
    tables: list[Table],
    views: list[str],
    kind: str,
    fusion: str,
    size: str,
    seed: int,
    settings: dict[str, dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, Codec]]:
    """The student's recipe, and the teacher's codecs that it goes on using."""
    kept = {column for view in views for column in members_of(teacher.views[view])}
    schema = teacher.schema.only(kept)
    for table in tables:
        if len(table) < (_FEWEST if table is tables[0] else 1):
            raise DataError(table.name, f"has {len(table)} rows", expected=f"at least {_FEWEST}, and better some thousands")
        lost = [r for c in schema.having("input") for r in c.reads if r not in table.names]
        if lost:
            what, fix = f"of the student is not in {table.name}", did_you_mean(lost[0], table.names) or "--views without it"
            raise DataError(f"column '{lost[0]}'", what, expected=f"one of {', '.join(table.names)}", fix=fix)
    # what steered the teacher's split steers the student's where the table has it
    columns = [c for c in schema.columns if c.role in ("input", "target") or all(r in t.names for t in tables for r in c.reads)]
    for target in teacher.targets:
        if target in settings:
            raise RecipeError(f"setting '{target}.{next(iter(settings[target]))}'", "is of a target, which is answered as by the teacher")
    if fusions.get(fusion).level == "decision":
        what = "answers view by view, and a teacher only for the whole row"
        raise RecipeError(f"--fusion {fusion}", what, expected="a fusion of another level, such as concat")
    settings = {**settings, "train": {"drop": _DROP, **settings.get("train", {}), "targets": "none"}}
    recipe = resolve(
        replace(schema, columns=tuple(columns)), fusion=fusion, size=size, seed=seed, settings=settings, main=teacher.recipe.get("main")
    )
    if kind == "linear":
        _must_be_learned(teacher)
        recipe["width"] = teacher.recipe["width"]
    return recipe, _inherited(teacher, recipe, settings)


def _inherited(teacher: Bundle, recipe: dict[str, Any], settings: dict[str, Any]) -> dict[str, Codec]:
    """{column: codec} of the teacher's that fit the student's encoders; with them go their options."""
    found = {}
    for column in Schema.from_json(recipe["schema"]).columns:
        name, theirs = column.name, teacher.codecs.get(column.name)
        if theirs is None or theirs.name != column.modality:
            continue
        part, before = recipe["parts"].get(name), teacher.recipe["parts"].get(name)
        changed = {name, column.modality} & settings.keys()
        if column.role == "target" or (not changed and (part or {}).get("encoder") == (before or {}).get("encoder")):
            found[name], recipe["codecs"][name] = theirs, teacher.recipe["codecs"][name]
            if before:
                recipe["parts"][name] = copy.deepcopy(before)
    return found


def _must_be_learned(teacher: Bundle) -> None:
    for target, task in zip(teacher.targets, teacher.model.tasks):
        if not task.learned_as:
            raise RecipeError("--to linear", f"cannot answer '{target}' ({task.name})", fix="--to net")


def _positive(temperature: float) -> float:
    if not 0 < temperature < float("inf"):
        raise RecipeError(f"--temperature {temperature}", "is no temperature", expected="a number above 0")
    return float(temperature)


def _share(trust: float) -> float:
    if not 0 <= trust <= 1:
        raise RecipeError(f"--trust {trust}", "is no share", expected="a number from 0 to 1")
    return float(trust)


# -- what is learned from ---------------------------------------------------------------------------------------


def enrol(teacher: Bundle, run: Run, val_table: Table | None, given: dict[str, Codec]) -> Class:
    """Ask the teacher about every row, prepare what the student sees of them, and choose the rows that judge it."""
    say = run.progress.say
    lost = [r for c in teacher.schema.having("input") for r in c.reads if r not in run.table.names]
    if lost:
        say(f"note: {run.table.name} has no column '{lost[0]}': the teacher answers without it", "yellow")
    ready = make_ready(run, val_table, whole=True, given={n: c for n, c in given.items() if n not in teacher.targets})
    ready.codecs |= {t: teacher.codecs[t] for t in teacher.targets}
    say(f"asking the teacher about {ready.data.size} rows")
    lesson = ask(teacher, run.table, run.allow_outside)
    if val_table is not None:
        lesson = lesson.and_then(ask(teacher, val_table, run.allow_outside))
    for target, count in lesson.unknown.items():
        if count:
            say(f"note: {count} labels of '{target}' are classes that the teacher never saw: its own answers stand for them", "yellow")
    by_labels = _hold_out(ready, lesson, val_table)
    held = np.zeros(ready.data.size, bool)
    held[ready.held] = by_labels
    for target in teacher.targets:
        ready.data.targets[target] = lesson.complete(teacher, target, held)
        ready.data.targets[carried(target)] = lesson.taught(target)
    labelled = int(np.stack([lesson.labelled(t)[ready.rows] for t in teacher.targets], 1).any(1).sum())
    say(f"{len(ready.rows)} rows to learn from, {labelled} of them labelled, {len(ready.held)} held out ({run.split})")
    return Class(teacher, ready, lesson, by_labels)


def _hold_out(ready: Ready, lesson: Lesson, val_table: Table | None) -> bool:
    """Set the rows to learn from and to be judged by; whether these are labelled ones."""
    run, main = ready.run, ready.run.recipe["main"]
    labelled = lesson.labelled(main)
    if val_table is not None:
        run.split = f"validation rows are those of {val_table.name}"
        by_labels = int(labelled[ready.held].sum()) >= _JUDGES
        ready.held = ready.held[labelled[ready.held]] if by_labels else ready.held
    else:
        by_labels = _SHARE * labelled.sum() >= _JUDGES
        if by_labels:
            cut = windows(run.table, run.schema.window) if run.schema.window else None
            split = hold_out(run.table, Schema.from_json(run.recipe["schema"]), share=_SHARE, seed=run.recipe["seed"], index=cut, main=main)
            ready.rows, ready.held, run.split = split.train, split.held[labelled[split.held]], split.rule
        else:
            order = np.random.default_rng((run.recipe["seed"], 1)).permutation(ready.rows)
            count = max(1, round(_SHARE * len(order)))
            ready.held, ready.rows, run.split = np.sort(order[:count]), np.sort(order[count:]), "at random"
    ready.rows = ready.rows[ready.data.present(ready.rows).any(1)]
    if len(ready.rows) < 2:
        raise DataError(run.table.name, "has no two rows with a cell that the student looks at", fix="other rows, or other --views")
    run.split += "" if by_labels else ", judged by the teacher's answers"
    return bool(by_labels)


# -- what it cost -----------------------------------------------------------------------------------------------


def compared(course: Class, student: Bundle, test: Table | None) -> dict[str, Any]:
    """Score, size and speed of teacher and student, for the card; the student's own figures are put there too."""
    teacher, ready, lesson = course.teacher, course.ready, course.lesson
    run, held = ready.run, ready.held
    where, notes = f"{len(held)} rows held out", []
    if test is not None:
        lesson, theirs = ask(teacher, test, run.allow_outside), ask(student, test, run.allow_outside)
        held, said = np.arange(len(lesson)), theirs.outs
        where = f"{len(held)} rows of {test.name}"
    else:
        raw, _ = outputs(student.model, ready.data, held)  # type: ignore[arg-type]
        said = {t: task.tempered(raw[t].float()) for t, task in zip(student.targets, student.model.tasks)}
        notes.append("the teacher may have learned from these rows, and its score then flatters it: --test gives both the same chance")
    before, after, gained = {}, {}, {}
    student.card["metrics"], student.card["report"] = {}, {}
    for target, task in zip(teacher.targets, teacher.model.tasks):
        judge = _cold(task)
        out, truth = lesson.of(target, held)
        if not len(truth.rows):
            if test is not None:
                raise DataError(f"target '{target}'", f"has no readable label in {test.name}", fix="--test takes labelled rows")
            truth = _own(course, target, held)
            notes.append(f"'{target}' has no labels here: the score is how often the student agrees with the teacher")
        figures = score(judge, said[target], truth)
        metric, theirs_too = judge.metric, score(judge, out, truth, only=judge.metric)
        before[target] = {"metric": metric, **theirs_too.get(metric, {"value": float("nan")})}
        after[target] = {"metric": metric, **figures.get(metric, {"value": float("nan")})}
        gained[target] = difference(judge, said[target], out, truth)
        student.card["metrics"][target], student.card["report"][target] = figures, judge.report(said[target], truth)
    sizes = {w: footprint(b, run.table, run.allow_outside) for w, b in (("before", teacher), ("after", student))}
    if sizes["after"]["parameters"] >= sizes["before"]["parameters"]:
        notes.append("the student has no fewer parameters than the teacher, which is already that small")
    return {
        "teacher": {"made": teacher.card.get("made"), "data": teacher.card.get("data", {}).get("name")},
        "rows": len(ready.rows),
        "labelled": {t: int(course.lesson.labelled(t)[ready.rows].sum()) for t in teacher.targets},
        "scored_on": where,
        "before": {**sizes["before"], "score": before},
        "after": {**sizes["after"], "score": after},
        "difference": gained,
        "notes": notes,
    }


def _own(course: Class, target: str, rows: np.ndarray) -> Cells:
    """The teacher's answers to some rows, as if they were the truth."""
    cells: Any = course.ready.data.targets[target]
    assert not isinstance(cells, Joined)
    return cells.cells(rows)


def _cold(task: Any) -> Any:
    """A judge of outs that have their temperature already."""
    judge = copy.deepcopy(task)
    if hasattr(judge, "temperature"):
        judge.temperature.fill_(1.0)
    return judge
