"""Which rows train and which are held out, by a rule that fits the table."""

from dataclasses import dataclass

import numpy as np

from ..core import DataError, Schema
from .cells import raw_values
from .table import Table
from .window import WindowIndex, time_keys

_VALIDATION = {"val", "valid", "validation", "dev"}
_TEST = ("test", "holdout")
_SMALL = 200  # classes
_HELD = 1000  # rows: more than an epoch is chosen by, and what is held out is missed where it is learned from


@dataclass
class Split:
    """Row numbers, and the rule in words."""

    train: np.ndarray
    held: np.ndarray
    rule: str


@dataclass
class Fold:
    """Row numbers: learned from, held out for the choice of the epoch, and tested on."""

    train: np.ndarray
    held: np.ndarray
    test: np.ndarray


class Splitter:
    """Splits a table by the rule that fits it: its split column, whole groups, time, or stratified by the target.

    Args:
        index: the table's windows, whose units are kept whole.
        main: the target to stratify by; the first unless named.

    Raises:
        DataError: fewer than 2 labelled rows.
    """

    def __init__(self, table: Table, schema: Schema, index: WindowIndex | None = None, main: str | None = None):
        self.name = table.name
        count = len(table) if index is None else len(index)
        targets = schema.having("target")
        labels = [list(raw_values(table, c, None, index)) for c in targets]
        labelled = np.array([any(column[i] is not None for column in labels) for i in range(count)], bool)
        at = next((i for i, c in enumerate(targets) if c.name == main), 0)
        self.classes = labels[at] if targets[at].modality == "category" else None  # of each row, to stratify by
        self.rows, self.rest = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        if len(self.rows) < 2:
            names = ", ".join(f"'{c.name}'" for c in schema.having("target"))
            raise DataError(
                f"target {names}",
                f"{len(self.rows)} of {count} rows of {table.name} have a label",
                expected="at least 2, and better some hundreds",
                fix="label more rows",
            )
        self.role, self.column, self.values = "", "", []
        for role in ("split", "group", "time"):
            if schema.having(role):  # type: ignore[arg-type]
                self.role, self.column = role, schema.having(role)[0].name  # type: ignore[arg-type]
                self.values = list(raw_values(table, schema[self.column], None, index))
                break
        else:
            if index is not None:
                self.role, self.column = "group", schema.window.id if schema.window else "unit"
                self.values = index.unit.tolist()
        if self.role == "split":
            self.said = np.array([str(v or "").lower() for v in self.values])

    def hold_out(self, share: float, seed: int) -> Split:
        """`share` of the labelled rows is held out; by a split column just the rows it names.

        Raises:
            DataError: nothing is left to train on.
        """
        rng = np.random.default_rng((seed, 1))
        held, told = self.held(self.rows, share, rng)
        rows = self.rows
        if self.role == "split":
            rows = rows[(self.said[rows] != "") & ~np.isin(self.said[rows], _TEST)]
        train = np.setdiff1d(rows, held)
        if not len(train):
            raise DataError(self.name, f"leaves no row to train on when split {told}", fix="check the split column, or do without it")
        return Split(np.sort(np.concatenate([train, self.rest])) if self.role != "split" else train, np.sort(held), told)

    def held(self, rows: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """A share of these labelled rows, by the table's rule, and the rule in words."""
        if self.role == "split":
            return _by_column(rows, self.values, self.column, share, rng)
        if self.role == "group":
            return _by_group(rows, self.values, self.column, share, rng)
        if self.role == "time":
            return _by_time(rows, self.values, self.column, share, rng)
        return _by_target(rows, self.classes, share, rng)

    def folds(self, count: int, seed: int, share: float = 0.15) -> tuple[list[Fold], str]:
        """`count` folds over the labelled rows; in each, `share` of the rows to learn from is held out for the choice of the epoch,
        less of a large table.

        Groups stay whole. By time there are `count` blocks to test on, each learned from all that lies before it. A split
        column only says which rows are for the last test: these take no part.

        Raises:
            DataError: fewer rows, groups or times than the folds need.
        """
        rng = np.random.default_rng((seed, 2))
        rows, told = self.rows, "stratified at random"
        if self.role == "split":
            rows = rows[~np.isin(self.said[rows], _TEST)]
        share = min(share, _HELD / max(len(rows), 1))
        if len(rows) < 2 * count:
            raise DataError(
                self.name, f"has {len(rows)} labelled rows for {count} folds", expected="at least 2 rows in each", fix="fewer folds"
            )
        if self.role == "time":
            order, by = _in_order(rows, self.values, self.column)
            told = f"blocks of {by}, each learned from what lies before" + _timeless(rows, order, "left out")
            return self._folds_of_time(order, count, share), told
        if self.role == "group":
            place, told = self._folds_of_groups(rows, count, rng), f"whole groups of '{self.column}'"
        else:
            place = _dealt([str(self.classes[r]) if self.classes else "" for r in rows], rows, count, rng)
        folds = []
        for fold in range(count):
            learn, test = rows[place != fold], rows[place == fold]
            if self.role == "group" and len({str(self.values[r]) for r in learn}) < 2:
                raise DataError(
                    f"column '{self.column}'",
                    f"leaves fold {fold + 1} of {count} one group to learn from",
                    expected="at least 2, for a group is never split",
                    fix="more folds, or do without --group",
                )
            held, _ = _by_target(learn, self.classes, share, rng) if self.role == "split" else self.held(learn, share, rng)
            folds.append(Fold(np.setdiff1d(learn, held), np.sort(held), test))
        return folds, told

    def _folds_of_time(self, order: np.ndarray, count: int, share: float) -> list[Fold]:
        """Blocks of about equal size; a cut moves back to where its moment begins, so that rows of one moment are not apart."""
        keys = time_keys([self.values[r] for r in order], self.column)
        begins = np.array([at for at, key in enumerate(keys) if at == 0 or key != keys[at - 1]])
        wanted = [len(order) * at // (count + 1) for at in range(1, count + 1)]
        cuts = [*begins[np.searchsorted(begins, wanted, side="right") - 1].tolist(), len(order)]
        if len({0, *cuts}) < count + 2:
            raise DataError(
                f"column '{self.column}'",
                f"has {len(begins)} times, which give no {count + 1} blocks",
                expected=f"at least {count + 1}, with rows spread over them",
                fix="fewer folds",
            )
        folds = []
        for start, end in zip(cuts, cuts[1:]):
            inner = start - max(1, int(share * start))
            folds.append(Fold(np.sort(order[:inner]), np.sort(order[inner:start]), np.sort(order[start:end])))
        return folds

    def _folds_of_groups(self, rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """[rows] the fold of each; the largest groups are dealt first, each to the fold that has least."""
        names, member = np.unique([str(self.values[r]) for r in rows], return_inverse=True)
        if len(names) < count + 1:
            raise DataError(
                f"column '{self.column}'", f"has {len(names)} groups for {count} folds", expected=f"at least {count + 1}", fix="fewer folds"
            )
        sizes, filled = np.bincount(member), np.zeros(count)
        place = np.zeros(len(names), np.int64)
        for group in sorted(rng.permutation(len(names)).tolist(), key=lambda g: -sizes[g]):
            place[group] = int(filled.argmin())
            filled[place[group]] += sizes[group]
        return place[member]


def hold_out(
    table: Table, schema: Schema, *, share: float = 0.15, seed: int = 0, index: WindowIndex | None = None, main: str | None = None
) -> Split:
    """By the split column where there is one; else whole groups, the latest rows, or stratified by the target.

    Args:
        share: of the labelled rows that is held out.
        index: the table's windows, whose units are kept whole.
        main: the target to stratify by; the first unless named.

    Raises:
        DataError: fewer than 2 labelled rows, or nothing to train on.
    """
    return Splitter(table, schema, index, main).hold_out(share, seed)


def _dealt(classes: list[str], rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[rows] the fold of each: class by class the shuffled rows are dealt round, so that folds differ by one row a class at most."""
    place, at = np.zeros(len(rows), np.int64), 0
    of_class: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        of_class.setdefault(name, []).append(i)
    for name in sorted(of_class):
        for i in rng.permutation(of_class[name]):
            place[i] = at % count
            at += 1
    return place


def _by_column(rows: np.ndarray, values: list, name: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    held = np.array([r for r in rows if str(values[r]).lower() in _VALIDATION], np.int64)
    if not len(held):
        held = rng.permutation([r for r in rows if str(values[r]).lower() not in _TEST])[: max(1, int(share * len(rows)))]
    return held, f"by column '{name}'"


def _by_group(rows: np.ndarray, values: list, name: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    groups = sorted({str(values[r]) for r in rows})
    if len(groups) < 2:
        raise DataError(
            f"column '{name}'", "has one group only", expected="at least 2, for a group is never split", fix="do without --group"
        )
    chosen = set(rng.permutation(groups)[: max(1, round(share * len(groups)))].tolist())
    return np.array([r for r in rows if str(values[r]) in chosen], np.int64), f"whole groups of '{name}'"


def _by_time(rows: np.ndarray, values: list, name: str, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    order, by = _in_order(rows, values, name)
    return order[-max(1, int(share * len(order))) :], f"the latest by {by}" + _timeless(rows, order, "learned from")


def _timeless(rows: np.ndarray, order: np.ndarray, what: str) -> str:
    """What becomes of the rows whose time is missing or cannot be read, if there are any."""
    count = len(rows) - len(order)
    return f"; {count} {'row has' if count == 1 else 'rows have'} no readable time, {what}" if count else ""


def _in_order(rows: np.ndarray, values: list, name: str) -> tuple[np.ndarray, str]:
    """The rows that have a place in time, from the first to the last, and in words by what they are put in order."""
    known = [r for r in rows if values[r] is not None]
    keys = dict(zip(known, time_keys([values[r] for r in known], name)))
    order = np.array(sorted((r for r in known if keys[r] is not None), key=keys.__getitem__), np.int64)
    if len(order) < 2:
        raise DataError(
            f"column '{name}'", "has no time in nearly all rows", expected="a time in every row", fix="do without --time-column"
        )
    as_text = isinstance(keys[order[0]], str)
    return order, f"'{name}'" + " in the order of its text (it holds neither numbers nor times in nine of ten rows)" * as_text


def _by_target(rows: np.ndarray, labels: list | None, share: float, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    size = max(1, round(share * len(rows)))
    if labels is not None:
        classes: dict[str, list[int]] = {}
        for r in rows:
            if labels[r] is not None:
                classes.setdefault(str(labels[r]), []).append(int(r))
        if 1 < len(classes) <= max(_SMALL, len(rows) // 4):
            return _stratified(classes, size, rng), "stratified at random"
    return rng.permutation(rows)[:size], "at random"


def _stratified(classes: dict[str, list[int]], size: int, rng: np.random.Generator) -> np.ndarray:
    """Each class gives its share, the largest remainders first; a class of one row stays in training."""
    total = sum(map(len, classes.values()))
    wanted = {k: size * len(v) / total for k, v in classes.items()}
    taken = {k: min(int(wanted[k]), len(v) - 1) for k, v in classes.items()}
    tie = dict(zip(sorted(classes), rng.random(len(classes))))
    for k in sorted(classes, key=lambda k: (int(wanted[k]) - wanted[k], tie[k])):
        if sum(taken.values()) >= size:
            break
        if taken[k] < len(classes[k]) - 1:
            taken[k] += 1
    held = [r for k in sorted(classes) for r in rng.permutation(classes[k])[: taken[k]]]
    return np.array(held, np.int64)
