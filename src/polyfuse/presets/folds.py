"""Which rows are learned from and which are answered unseen, fold by fold, for the fits under a preset."""

import numpy as np

from ..core import DataError
from ..data import Fold, Prepared, Splitter, windows
from ..ready import Ready
from .plan import folds_for


def folds_of(ready: Ready) -> tuple[list[Fold], np.ndarray | None, np.ndarray | None, str]:
    """Folds over the labelled rows; one, without a last fit on everything (second), where validation rows are given; which rows
    belong together (third), and all that in words."""
    run, rows = ready.run, ready.rows
    if len(ready.held):
        return [Fold(rows, rows[:0], ready.held)], None, None, run.split
    cut = windows(run.table, run.schema.window) if run.schema.window else None
    splitter = Splitter(run.table, run.schema, cut, run.recipe["main"])
    folds, split = _cut(splitter, folds_for(len(rows)), run.recipe["seed"])
    groups = _named(splitter) if splitter.role in ("group", "time") else _sharing(ready)
    if splitter.role not in ("group", "time") and groups is not None:
        folds, split = _undivided(folds, groups), f"{split}, rows that share a cell together"
    labelled = set(rows.tolist())
    kept = [Fold(*(np.array([r for r in part if int(r) in labelled], np.int64) for part in (f.train, f.held, f.test))) for f in folds]
    whole = np.unique(np.concatenate([part for f in kept for part in (f.train, f.held, f.test)]))
    return kept, whole, groups, f"{len(kept)} folds, {split}" if len(kept) > 1 else f"held out {split}"


def _named(splitter: Splitter) -> np.ndarray | None:
    """[rows] the number of the group, or the day, that the column of the split names; None where every row has its own."""
    names, groups = np.unique([str(value) for value in splitter.values], return_inverse=True)
    return groups if len(names) < len(groups) else None


def _cut(splitter: Splitter, most: int, seed: int) -> tuple[list[Fold], str]:
    """As many folds as the rows, groups or times allow, at most `most`; a share held out where they allow none."""
    for count in range(most, 1, -1):
        try:
            return splitter.folds(count, seed)
        except DataError:
            continue  # fewer rows, groups or times than these folds need
    split = splitter.hold_out(0.3, seed)
    return [Fold(split.train, split.train[:0], split.held)], split.rule


def _sharing(ready: Ready) -> np.ndarray | None:
    """[rows] the number of the group of each: rows that have a picture, a sound, a text or a series in common, or None.

    A cell that stood on both sides of a fold would make its view look better than it is. A view whose cells join more than a
    tenth of the rows is passed over (the same few questions under all pictures): no folds could be cut along it.
    """
    size, found = ready.data.size, None
    group = np.arange(size)
    views = [(v, p.index) for v, p in ready.data.views.items() if isinstance(p, Prepared) and not ready.data.codecs[v].plain]
    for _, index in sorted(views, key=lambda vi: len(np.unique(vi[1]))):  # whose cells recur most comes first
        joined = group.copy()
        while True:  # the smallest number of any row with the same cell, or the same group, until none changes
            before, here = joined.copy(), index >= 0
            least = np.full(index.max(initial=0) + 1, size)
            np.minimum.at(least, index[here], joined[here])
            joined[here] = least[index[here]]
            least = np.full(size, size)
            np.minimum.at(least, group, joined)
            joined = least[group]
            if (joined == before).all():
                break
        if 1 < np.bincount(joined).max() <= max(2, size // 10) and (joined != group).any():
            group, found = joined, joined
    return found


def _undivided(folds: list[Fold], groups: np.ndarray) -> list[Fold]:
    """The same folds, each group wholly where its first row is."""
    place = {int(r): k for k, fold in enumerate(folds) for r in fold.test}
    if len(folds) == 1:
        return folds  # rows that were held out: there is no other fold to go to
    home: dict[int, int] = {}
    for r in sorted(place):
        place[r] = home.setdefault(int(groups[r]), place[r])
    made = []
    for k, fold in enumerate(folds):
        test = np.array(sorted(r for r, at in place.items() if at == k), np.int64)
        rest, tested = np.array(sorted(r for r, at in place.items() if at != k), np.int64), set(groups[fold.held].tolist())
        held = np.array([int(groups[r]) in tested for r in rest], bool) & np.isin(rest, fold.held)
        made.append(Fold(rest[~held], rest[held], test))
    return made
