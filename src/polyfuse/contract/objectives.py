"""What every objective keeps."""

import torch
from torch import Tensor

from ..core import (
    Batch,
    Cells,
    Objective,
    Tokens,
)
from .making import VIEWS, all_learn, close, objective_of, tokens_of


def _objective_loss(objective: Objective, tokens: Tokens, batch: Batch) -> Tensor:
    return objective(tokens, tokens.with_row(tokens.x.masked_fill(~tokens.mask.unsqueeze(-1), 0.0).mean(1)), batch)


def objective_scalar(name: str) -> None:
    objective, batch = objective_of(name)
    loss = _objective_loss(objective, tokens_of(), batch)
    assert loss.shape == () and torch.isfinite(loss), f"the loss is {loss}, not one finite figure"


def objective_nothing(name: str) -> None:
    """Where no row has any view there is nothing to learn from; where none has a label the loss is finite."""
    objective, batch = objective_of(name)
    nothing = Batch({"label": Cells({}, torch.zeros(0, dtype=torch.long), 8)}, 8)
    tokens = tokens_of(missing=1.0)
    tokens = tokens.hide({view: torch.ones(8, dtype=torch.bool) for view in VIEWS})
    tokens.x.requires_grad_()
    for labels in (batch, nothing):
        loss = _objective_loss(objective, tokens, labels)
        assert float(loss.detach()) == 0.0, f"without any cell the loss is {float(loss.detach())}"
        loss.backward()
        assert tokens.x.grad is None or torch.isfinite(tokens.x.grad).all(), "without any cell the gradient is not finite"
    assert torch.isfinite(_objective_loss(objective, tokens_of(), nothing)), "without any label the loss is not finite"


def objective_hidden_values(name: str) -> None:
    objective, batch = objective_of(name)
    tokens = tokens_of()
    clean = _objective_loss(objective, tokens, batch)
    for junk in (1e4, float("nan")):
        dirty = torch.where(tokens.mask.unsqueeze(-1), tokens.x, torch.full_like(tokens.x, junk))
        loss = _objective_loss(objective, Tokens(dirty, tokens.mask, tokens.spans), batch)
        close(loss, clean, f"{junk} under a false mask changes the loss")


def objective_one_view(name: str) -> None:
    tokens = tokens_of()
    objective, batch = objective_of(name, ["a"])
    loss = _objective_loss(objective, Tokens(tokens.x[:, :2], tokens.mask[:, :2], {"a": slice(0, 2)}), batch)
    assert torch.isfinite(loss), "one view alone does not work"


def objective_gradients(name: str) -> None:
    objective, batch = objective_of(name)
    tokens = tokens_of()
    tokens.x.requires_grad_()
    _objective_loss(objective.train(), tokens, batch).backward()
    assert tokens.x.grad is not None and tokens.x.grad.abs().sum() > 0, "no gradient reaches the encoders"
    all_learn(objective)


def objective_state(name: str) -> None:
    objective, batch = objective_of(name)
    again, _ = objective_of(name)
    with torch.no_grad():
        for p in again.parameters():
            p.add_(1.0)
    again.load_state_dict(objective.state_dict())
    close(_objective_loss(again, tokens_of(), batch), _objective_loss(objective, tokens_of(), batch), "loaded weights give another loss")


def objective_half_precision(name: str) -> None:
    objective, batch = objective_of(name)
    tokens = tokens_of()
    tokens.x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = _objective_loss(objective.train(), tokens, batch)
    loss.float().backward()
    assert torch.isfinite(loss), "not finite under bfloat16"
    learned = [tokens.x, *objective.parameters()]
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in learned), "a gradient is not finite under bfloat16"
