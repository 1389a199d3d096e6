"""What every task keeps."""

import json

import torch

from ..core import (
    Cells,
)
from .making import (
    WIDTH,
    task_of,
    tokens_of,
)


def task_no_labels(name: str) -> None:
    task, codec, values = task_of(name)
    tokens = tokens_of(4).with_row(torch.randn(4, WIDTH))
    out = task(tokens)
    x = {k: v[:0] for k, v in codec.collate(values).items()}
    loss = task.loss(out, Cells(x, torch.zeros(0, dtype=torch.long), 4))
    loss.backward()
    assert float(loss.detach()) == 0.0, f"without labels the loss is {float(loss.detach())}"


def task_answers(name: str) -> None:
    task, codec, values = task_of(name)
    n = len(values)
    out = task(tokens_of(n).with_row(torch.randn(n, WIDTH)))
    answers = task.decode(out.detach())
    assert len(answers) == n and all("value" in a for a in answers), "one answer with a 'value' per row"
    json.dumps(answers)
    truth = Cells(codec.collate(values), torch.arange(n), n)
    scores = task.scores(out.detach(), truth)
    assert task.metric in scores, f"'{task.metric}' is not among {list(scores)}"
    json.dumps([scores, task.report(out.detach(), truth)])


def task_learns(name: str) -> None:
    """A linear head must learn a rule planted in the fused row."""
    task, codec, values = task_of(name)
    x = codec.collate([values[i % len(values)] for i in range(48)])
    truth = Cells(x, torch.arange(48), 48)
    key = next(iter(x))
    code = x[key].flatten(1).float()
    row = torch.zeros(48, WIDTH)
    for i in range(48):  # equal targets get equal rows
        row[i] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(int(torch.unique(code, dim=0, return_inverse=True)[1][i])))
    tokens = tokens_of(48).with_row(row)
    first = float(task.loss(task(tokens), truth).detach())
    optimizer = torch.optim.Adam(task.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = task.loss(task(tokens), truth)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first, f"the loss went from {first:.3f} only to {float(loss.detach()):.3f}"
