"""What a learner is: the noun for whatever is fitted on features at once, not by gradient through encoders."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .codec import Layout
from .layers import Fitted
from .parts import Task


@dataclass(frozen=True)
class Inputs:
    """The features of several views side by side: what a learner is told of its columns before it sees any row.

    Args:
        views: their names.
        view: [F] which view each feature is of.
        cardinality: [F] 0 = a number, else a category 0 .. cardinality - 1.
        owner: [F] which flag [G] says whether it is there.
        flag_view: [G] which view each flag is of.
        sparse: [F] whether the feature is one of a long vector that is mostly zero.
        terms: [F] what such a feature counts: the same number is the same word in every view, 0 is not known.
    """

    views: tuple[str, ...]
    view: np.ndarray
    cardinality: np.ndarray
    owner: np.ndarray
    flag_view: np.ndarray
    sparse: np.ndarray
    terms: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    @classmethod
    def of(cls, views: dict[str, Layout]) -> "Inputs":
        """The layouts of several views, one after the other."""
        view: list[int] = []
        cardinality: list[int] = []
        owner: list[int] = []
        flag_view: list[int] = []
        sparse: list[bool] = []
        terms: list[int] = []
        for at, layout in enumerate(views.values()):
            view += [at] * len(layout.owner)
            cardinality += layout.cardinality
            owner += [len(flag_view) + o for o in layout.owner]
            flag_view += [at] * layout.flags
            sparse += [layout.sparse] * len(layout.owner)
            terms += layout.terms or [0] * len(layout.owner)
        numbers = [np.array(a, np.int64) for a in (view, cardinality, owner, flag_view)]
        return cls(tuple(views), numbers[0], numbers[1], numbers[2], numbers[3], np.array(sparse, bool), np.array(terms, np.int64))

    def only(self, chosen: np.ndarray) -> "Inputs":
        """Without the features that are not chosen [F]; every flag stays."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in ("view", "cardinality", "owner", "sparse", "terms")})


class Learner(Fitted):
    """One target, learned from the features of a row.

    A feature that is not there must change nothing, whatever stands in its place; a row with nothing there gets a finite
    answer. What `fit` learns is kept in buffers (whose shapes may follow the data) or parameters, and `forward` is torch, so
    that a saved learner needs no other library.

    Class attributes:
        takes: which kinds of targets it learns (`Task.learned_as`).
        sparse: whether it gets the sparse features of the views that have such, in place of their others.
        parallel: whether several may `fit` at the same time, each in a thread: that needs fits that take one thread of their
            own and change nothing that is the process's (torch's generator, filters of warnings).
        lazy: whether `fit` asks x for nothing but rows, `x[a:b]` or `x[places]`: it may then be what reads these from disk.
        exempt: {contract check it cannot meet: why}.

    Args:
        task: of the target; its `out_of` turns probabilities into the out it decodes.
        inputs: what the columns of x are.
        Every keyword-only argument of a subclass is an option.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("classes", "labels", "numbers")
    sparse: ClassVar[bool] = False
    parallel: ClassVar[bool] = False
    lazy: ClassVar[bool] = False
    exempt: ClassVar[dict[str, str]] = {}

    def __init__(self, task: Task, inputs: Inputs):
        super().__init__()
        self.task_of = (task,)  # in a tuple: the task is not a part of it, and not saved with it
        self.inputs = inputs

    @property
    def task(self) -> Task:
        return self.task_of[0]

    @classmethod
    def cost(cls, rows: int, features: int, outputs: int) -> float:
        """About how many seconds `fit` takes on two cores of a usual machine; for the plan, which is told beforehand."""
        return 0.02 + 2e-8 * rows * features * outputs

    def fit(
        self,
        x: Any,
        there: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Learn from labelled rows.

        Args:
            weight: [L] of each row, or None.
            groups: [L] int64: rows of one group belong together; what is learned from some is not judged by the others.
        Shapes:
            x [L, F] float32, for a learner that is `sparse` also a csr matrix of scipy with zeros where nothing is there,
            for one that is `lazy` also what reads rows of such;
            there [L, G] bool; y as `Task.answers` gives it: int64 [L] classes (every one >= 0), bool [L, C] labels, or
            float64 [L, K] numbers, NaN where one is not known.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """x [B, F] float32 (for a learner that is `sparse` also csr), there [B, G] bool -> the task's out [B, ...]."""
        raise NotImplementedError

    def seen(self, x: Any, there: Any) -> Any:
        """[B, F] x with zeros where a feature is not there, in numpy or torch alike."""
        owner = self.inputs.owner
        if isinstance(x, Tensor):
            return x.masked_fill(~there[:, torch.from_numpy(owner)], 0.0)
        return np.where(there[:, owner], x, 0.0).astype(np.float32)
