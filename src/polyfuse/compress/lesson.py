"""What a teacher says of a table's rows, beside the labels these have, and the loss that makes a network learn it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..bundle import Bundle
from ..core import Batch, Cells, Objective, Task, Tokens, mean_loss
from ..data import Opener, Prepared, Table
from ..data.rows import truth as truth_of


@dataclass
class Lesson:
    """The rows of a table, as a teacher answers them.

    Args:
        outs: {target: [R, ...]}, with the teacher's temperature.
        truth: {target: the labels that are there}; one of a class that the teacher does not know counts as none.
        unknown: {target: how many labels were of such a class}.
    """

    outs: dict[str, Tensor]
    truth: dict[str, Cells]
    unknown: dict[str, int]

    def __len__(self) -> int:
        return len(next(iter(self.outs.values())))

    def labelled(self, target: str) -> np.ndarray:
        """[R] bool."""
        return self.truth[target].present().numpy()

    def of(self, target: str, rows: np.ndarray) -> tuple[Tensor, Cells]:
        """The answers to some rows, and the labels of those among them that have one."""
        place = np.full(len(self), -1, np.int64)
        place[rows] = np.arange(len(rows))
        truth = self.truth[target]
        kept = truth.keep(torch.from_numpy(place[truth.rows.numpy()] >= 0))
        return self.outs[target][torch.from_numpy(rows)], Cells(kept.x, torch.from_numpy(place[kept.rows.numpy()]), len(rows))

    def and_then(self, other: "Lesson") -> "Lesson":
        """The rows of two tables, one after the other."""
        outs = {t: torch.cat([out, other.outs[t]]) for t, out in self.outs.items()}
        truth = {}
        for t, cells in self.truth.items():
            then = other.truth[t]
            x = {k: torch.cat([v, then.x[k]]) for k, v in cells.x.items()}
            truth[t] = Cells(x, torch.cat([cells.rows, then.rows + cells.size]), cells.size + then.size)
        return Lesson(outs, truth, {t: n + other.unknown[t] for t, n in self.unknown.items()})

    def complete(self, teacher: Bundle, target: str, only: np.ndarray) -> Prepared:
        """The labels, and the teacher's answer as the label where there is none; rows `only` [R] bool keep just their own."""
        task, truth = teacher.model.tasks[teacher.targets.index(target)], self.truth[target]
        bare = np.flatnonzero(~self.labelled(target) & ~only)
        answers = [a["value"] for a in task.decode(self.outs[target][torch.from_numpy(bare)])] if len(bare) else []
        said, _ = truth_of(answers, teacher.codecs[target], Opener(None))
        rows = np.concatenate([truth.rows.numpy(), bare[said.rows.numpy()]])
        index = np.full(len(self), -1, np.int64)
        index[rows] = np.arange(len(rows))
        return Prepared(index, {k: torch.cat([v, said.x[k]]).numpy() for k, v in truth.x.items()}, None)

    def taught(self, target: str) -> Prepared:
        """The teacher's answers as cells that ride along in a batch."""
        arrays = {"out": self.outs[target].float().numpy(), "labelled": self.labelled(target)}
        return Prepared(np.arange(len(self)), arrays, None)


def ask(teacher: Bundle, table: Table, allow_outside: bool = False) -> Lesson:
    """What the teacher says of every row, and the labels of those that have one; the table needs no target column."""
    outs, truths, _, _ = teacher.outputs(table, allow_outside)
    honest, known, unknown = {}, {}, {}
    for target, task in zip(teacher.targets, teacher.model.tasks):
        honest[target] = task.tempered(outs[target].float())
        cells = truths[target]
        seen = cells.x["index"][:, 0] > 0 if "index" in cells.x else torch.ones(len(cells.rows), dtype=torch.bool)
        known[target], unknown[target] = cells.keep(seen), int((~seen).sum())
    return Lesson(honest, known, unknown)


def carried(target: str) -> str:
    """The name under which the teacher's answers to a target ride along in a batch."""
    return f"what the teacher says of '{target}'"


class Taught(Objective):
    """Distillation: the student's answer is drawn to the teacher's, and to the label where a row has one.

    What the teacher holds for possible beside its first choice tells more than a label does, and a row needs no label for it.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2: the probabilities of both at
    temperature T, the loss times T^2. Theirs is a cross-entropy, ours the Kullback-Leibler divergence, which has the same slope
    and is zero where the student agrees; labels that do not exclude each other are compared one by one; of numbers, squared errors.

    Args:
        tasks: {target: the student's task}.
        temperature: T: above one, unlikely classes count for more.
        trust: share of the teacher in the loss of a row that has a label.
        weights: {target: of its loss}; 1 unless named.
    Shapes:
        encoded [B, N, D] -> scalar
    Cost:
        one more pass through the heads.
    """

    name = "taught"

    def __init__(self, tasks: Mapping[str, Task], temperature: float, trust: float, weights: Mapping[str, float]):
        torch.nn.Module.__init__(self)
        self.tasks_of = (tasks,)  # in a tuple: they are the network's, not a part of it
        self.temperature, self.trust, self.weights = temperature, trust, weights

    def forward(self, encoded: Tokens, fused: Tokens, batch: Batch) -> Tensor:
        each = [self.weights.get(t, 1.0) * self._loss(t, task, task(fused), batch) for t, task in self.tasks_of[0].items()]
        return torch.stack(each).sum()

    def _loss(self, target: str, task: Task, out: Tensor, batch: Batch) -> Tensor:
        said = batch.cells[carried(target)].x
        losses = apart(task, out.float(), said["out"], self.temperature)
        truth = batch.cells[target]
        hard, rows = task.row_losses(out, truth.keep(said["labelled"][truth.rows]))
        losses = losses.index_copy(0, rows, self.trust * losses[rows] + (1.0 - self.trust) * hard)
        return mean_loss(losses, torch.arange(len(losses), device=losses.device), out, batch.weight)


def apart(task: Task, out: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """[B] how far an answer is from the one wanted, both outs [B, ...]."""
    wanted_p = task.probability(wanted / temperature)
    if wanted_p is None:
        return (out - wanted).square().flatten(1).mean(1)
    cool, warm = out / temperature, wanted / temperature
    if task.exclusive:
        return temperature**2 * F.kl_div(cool.log_softmax(-1), warm.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    yes = F.kl_div(F.logsigmoid(cool), F.logsigmoid(warm), reduction="none", log_target=True)
    no = F.kl_div(F.logsigmoid(-cool), F.logsigmoid(-warm), reduction="none", log_target=True)
    return temperature**2 * (yes + no).mean(-1)
