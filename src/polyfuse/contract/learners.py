"""What every learner keeps."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Inputs, Layout, Learner, learners
from ..learners.threads import together
from .making import close, task_of

_TASKS = {"classes": "multiclass", "labels": "multilabel", "numbers": "regression"}
_CLASSES = 3  # of the task's that are planted; the others have no row
_INPUTS = Inputs.of(
    {
        "a": Layout((0, 0, 0), (0, 0, 0), 1),  # a vector
        "b": Layout((0, 4, 50), (0, 1, 2), 3),  # a table: a number, a category of few values and one of many
        "c": Layout((0, 0), (0, 0), 1),
    }
)
_NUMBERS = np.flatnonzero(_INPUTS.cardinality == 0)
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def _planted(kind: str, rows: int = 300, seed: int = 0) -> Rows:
    """x, there and y: a linear rule over the numbers of all views, one flag in eight down."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(_INPUTS))).astype(np.float32)
    for f in np.flatnonzero(_INPUTS.cardinality):
        x[:, f] = rng.integers(0, _INPUTS.cardinality[f], rows)
    there = rng.random((rows, len(_INPUTS.flag_view))) >= 0.125
    x[~there[:, _INPUTS.owner]] = 0.0
    columns = {"classes": _CLASSES, "labels": len(task_of("multilabel")[0].prior()), "numbers": 1}[kind]
    score = x[:, _NUMBERS] @ np.random.default_rng(5).normal(size=(len(_NUMBERS), columns))  # the same rule for every seed
    return x, there, {"classes": score.argmax(1), "labels": score > 0, "numbers": score / score.std()}[kind]


def _kinds(name: str) -> Iterator[str]:
    takes = learners.get(name).takes
    assert takes and set(takes) <= set(_TASKS), f"takes {takes}, of {', '.join(_TASKS)}"
    yield from takes


def _new(name: str, kind: str) -> Learner:
    return learners.build(name, task_of(_TASKS[kind])[0], _INPUTS)


def _taught(name: str, kind: str, rows: Rows, weight: np.ndarray | None = None) -> Learner:
    torch.manual_seed(3)
    learner = _new(name, kind)
    learner.fit(*rows, weight, seed=1)
    return learner.eval()


@functools.cache
def _fitted(name: str, kind: str) -> Learner:
    return _taught(name, kind, _planted(kind))


@torch.no_grad()
def _answer(learner: Learner, x: np.ndarray, there: np.ndarray) -> Tensor:
    """The out, as probabilities where it has them."""
    out = learner(torch.from_numpy(x), torch.from_numpy(there))
    assert out.ndim == 2 and len(out) == len(x), f"the out is {tuple(out.shape)}, of {len(x)} rows"
    assert torch.isfinite(out).all(), "an answer is not finite"
    probability = learner.task.probability(out)
    return out if probability is None else probability


def _cost(answer: np.ndarray, y: np.ndarray) -> float:
    """Mean log loss, or squared error."""
    if y.dtype.kind == "f":
        return float(((answer[:, : y.shape[1]] - y) ** 2).mean())
    truth = answer[np.arange(len(y)), y] if y.ndim == 1 else np.where(y, answer, 1 - answer)
    return float(-np.log(truth.clip(min=1e-9)).mean())


def learner_learns(name: str) -> None:
    """A planted linear rule, on rows it has not seen."""
    for kind in _kinds(name):
        train, test = _planted(kind), _planted(kind, seed=1)
        y = train[2][:, None] == np.arange(_CLASSES) if kind == "classes" else train[2]
        before = _cost(np.tile(y.mean(0), (len(test[0]), 1)), test[2])
        after = _cost(_answer(_fitted(name, kind), *test[:2]).double().numpy(), test[2])
        assert after < 0.75 * before, f"{kind}: the loss goes from {before:.3f}, of shares or means, only to {after:.3f}"


def learner_nothing_there(name: str) -> None:
    for kind in _kinds(name):
        x, there, _ = _planted(kind, 4)
        answer = _answer(_fitted(name, kind), np.full_like(x, np.nan), np.zeros_like(there))
        close(answer, answer[:1].expand_as(answer), "rows with nothing there have different answers")
        _answer(_fitted(name, kind), x[:0], there[:0])


def learner_hidden_values(name: str) -> None:
    for kind in _kinds(name):
        x, there, y = _planted(kind)
        clean = _answer(_fitted(name, kind), x, there)
        for junk in (7.0, float("nan")):
            dirty = np.where(there[:, _INPUTS.owner], x, np.float32(junk))
            close(_answer(_fitted(name, kind), dirty, there), clean, f"{kind}: {junk} where nothing is there changes an answer")
        close(
            _answer(_taught(name, kind, (dirty, there, y)), x, there), clean, f"{kind}: NaN where nothing is there changes what is learned"
        )


def learner_row_alone(name: str) -> None:
    for kind in _kinds(name):
        x, there, _ = _planted(kind, 8, seed=1)
        whole = _answer(_fitted(name, kind), x, there)
        for i in range(len(x)):
            close(
                _answer(_fitted(name, kind), x[i : i + 1], there[i : i + 1])[0],
                whole[i],
                f"{kind}: a row alone differs from the row in a batch",
            )


def learner_every_view(name: str) -> None:
    for kind in _kinds(name):
        x, there, _ = _planted(kind, 50, seed=1)
        there[:] = True
        learner = _fitted(name, kind)
        base = _answer(learner, x, there)
        for v, view in enumerate(_INPUTS.views):
            other, hidden = x.copy(), there & (_INPUTS.flag_view != v)
            swapped = np.flatnonzero(_INPUTS.view == v)
            other[:, swapped] = x[::-1][:, swapped]  # values of another row
            assert not torch.allclose(_answer(learner, other, there), base, atol=1e-6), f"{kind}: view '{view}' changes nothing"
            assert not torch.allclose(_answer(learner, x, hidden), base, atol=1e-6), f"{kind}: hiding view '{view}' changes nothing"


def learner_weights(name: str) -> None:
    """Rows of more weight pull the answers to theirs; a row may have none."""
    for kind in _kinds(name):
        x, there, y = _planted(kind)
        y = y[np.random.default_rng(2).permutation(len(y))]  # no feature tells it: the answers are about the weighted means
        high = y == 0 if kind == "classes" else y[:, 0] > 0
        light = _taught(name, kind, (x, there, y), np.where(high, 0.5, 5.0) * (np.arange(len(x)) % 9 > 0))
        heavy = _taught(name, kind, (x, there, y), np.where(high, 5.0, 0.5))
        shift = float((_answer(heavy, x, there) - _answer(light, x, there))[:, 0].mean())
        assert shift > 0.1, f"{kind}: where rows have more weight the answers do not move to theirs, but by {shift:.3f}"


def learner_seed(name: str) -> None:
    for kind in _kinds(name):
        rows = _planted(kind)
        torch.manual_seed(8)  # it has to draw from its own seed
        again = _new(name, kind)
        again.fit(*rows, seed=1)
        same = torch.equal(_answer(again.eval(), *rows[:2]), _answer(_fitted(name, kind), *rows[:2]))
        assert same, f"{kind}: with the same seed it learns otherwise"


def learner_side_by_side(name: str) -> None:
    """One that is `parallel` learns the same while another of its kind does."""
    for kind in _kinds(name) if learners.get(name).parallel else ():
        rows = _planted(kind)
        several = [_new(name, kind) for _ in range(4)]
        together([functools.partial(one.fit, *rows, seed=1) for one in several], 2)
        for one in several:
            close(_answer(one.eval(), *rows[:2]), _answer(_fitted(name, kind), *rows[:2]), f"{kind}: side by side it learns otherwise")


class _Disk:
    """Has rows, and nothing else that an array has."""

    def __init__(self, x: Any):
        self.x = x

    def __getitem__(self, rows: slice | np.ndarray) -> Any:
        return self.x[rows]


def learner_lazy(name: str) -> None:
    """One that is `lazy` learns the same from what reads rows when it asks for them."""
    import scipy.sparse as sp

    for kind in _kinds(name) if learners.get(name).lazy else ():
        x, there, y = _planted(kind)
        again = _new(name, kind)
        torch.manual_seed(3)
        again.fit(_Disk(sp.csr_matrix(x) if again.sparse else x), there, y, seed=1)
        close(_answer(again.eval(), x, there), _answer(_fitted(name, kind), x, there), f"{kind}: of rows it asks for it learns otherwise")


def learner_state(name: str) -> None:
    for kind in _kinds(name):
        x, there, _ = _planted(kind)
        again = _new(name, kind)
        again.load_state_dict({k: v.clone() for k, v in _fitted(name, kind).state_dict().items()})
        close(_answer(again.eval(), x, there), _answer(_fitted(name, kind), x, there), f"{kind}: loaded again it answers otherwise")


def learner_few_rows(name: str) -> None:
    """One row, one class, two rows: little to learn, but an answer."""
    for kind in _kinds(name):
        x, there, y = _planted(kind)
        alike = np.flatnonzero((y == y[0]).reshape(len(y), -1).all(1))[:9]
        for rows in ([0], alike, np.arange(2), np.arange(9)):
            learner = _taught(name, kind, (x[rows], there[rows], y[rows]))
            answer = _answer(learner, x, there)
            if kind == "classes" and len(set(y[rows])) == 1 and answer.shape[1] > 1:
                assert (answer.argmax(1) == y[0]).all(), "where all rows are of one class it answers another"
