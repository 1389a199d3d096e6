"""How the losses of several targets are weighed against one another while the network trains."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..model import Model

TARGETS = ("uncertainty", "gradnorm", "none")
LEARNED = 0.01  # of its first loss: a target that is below counts as learned and is weighed no higher
PULL = 1.5  # alpha of GradNorm: how strongly a target that lags is pushed; the authors' for targets of different kinds


class TargetBalance(nn.Module):
    """One learned figure per target; a call weighs the losses of a batch. It trains beside the network and is not kept in it.

    "uncertainty" needs nothing but the losses and makes their scale indifferent. "gradnorm" makes the targets learn at one
    pace, which helps where one is learned long before the others, for one short backward pass per target and step.

    A target without a label in the batch (its loss is exactly zero, or it is below zero, where neither rule applies) keeps
    its figure: it is not in the graph, so that the optimizer leaves it and its moments alone.

    Source: "uncertainty": Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
    Semantics", eq. 10 with s = log sigma^2: sum of exp(-s) L + s / 2. Their eq. 7 has L / 2 for regression, which is the same
    with s + log 2 for s. Ours: s starts at log(2 L) of the first labelled batch, where it would come to rest, and comes to rest
    no lower than at a hundredth of that loss: the weight of a target that is learned to the last would grow without bound.
    "gradnorm": Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing", eq. 1-2 and algorithm 1: the
    weights w follow the gradient of sum_i |G_i - mean(G) r_i^alpha|, with G_i the norm of the gradient of w_i L_i, r_i =
    L_i / L_i(0) against its mean over targets, alpha = 1.5. G is taken with respect to the fused tokens, of which all heads
    read, instead of the last shared layer's weights, which not every fusion has; log w is what is learned; and w has mean one
    over the targets that the batch has labels for.

    Args:
        targets: their names.
        how: "uncertainty" or "gradnorm".
        fusion: the module whose output all heads read ("gradnorm" listens to it until `close`).
        agree: a tensor to its mean over all processes.
    """

    first: Tensor

    def __init__(self, targets: list[str], how: str, fusion: nn.Module, agree: Callable[[Tensor], Tensor] = lambda x: x):
        super().__init__()
        self.targets, self.how, self.agree = targets, how, agree
        # one parameter each, because the optimizer passes over a parameter without gradient but moves every entry of one with
        self.logs = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in targets)
        self.register_buffer("first", torch.zeros(len(targets)))  # each target's first loss; 0 = it had no label yet
        self._fused: Tensor | None = None
        self._hook = fusion.register_forward_hook(self._see) if how == "gradnorm" else None

    def forward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """{target: loss} to {target: weighed loss}, whose sum also teaches the figures."""
        begun = self.first > 0
        if not begun.all():
            self._begin(losses)
        # with whether the target had begun before this batch
        labelled = {t: bool(b) for t, b in zip(self.targets, begun) if losses[t].detach() > 0}
        weigh = self._gradnorm if self.how == "gradnorm" else self._uncertainty
        return weigh({t: loss.float() for t, loss in losses.items()}, labelled)

    def share(self) -> None:
        """Several processes: each gets the mean of all gradients; a target without a label in any of them gets none."""
        grads = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in self.logs])
        told = torch.stack([torch.full_like(p, p.grad is not None) for p in self.logs])
        grads, told = self.agree(torch.stack([grads, told]))
        for p, grad, some in zip(self.logs, grads, told):
            p.grad = grad.clone() if some > 0 else None

    def close(self) -> None:
        """Stop listening to the fusion."""
        self._fused = None
        if self._hook is not None:
            self._hook.remove()

    @torch.no_grad()
    def _begin(self, losses: dict[str, Tensor]) -> None:
        now = self.agree(torch.stack([losses[t].detach().float().clamp(min=0.0) for t in self.targets]))
        for i, log in enumerate(self.logs):
            if self.first[i] == 0 and now[i] > 0:
                self.first[i] = now[i]
                if self.how == "uncertainty":
                    log.copy_((2 * now[i]).log())

    def _uncertainty(self, losses: dict[str, Tensor], labelled: dict[str, bool]) -> dict[str, Tensor]:
        found = {}
        for t, log, first in zip(self.targets, self.logs, self.first):
            # where s was just set it is at rest, and the optimizer would blow the rounding error up to a whole step
            s = log if labelled.get(t) else log.detach()
            rest = (LEARNED * first - losses[t].detach()).clamp(min=0.0) if t in labelled else 0.0
            found[t] = (-s).exp() * (losses[t] + rest) + s / 2
        return found

    def _gradnorm(self, losses: dict[str, Tensor], labelled: dict[str, bool]) -> dict[str, Tensor]:
        if len(labelled) < 2:  # there is nothing to compare with
            return losses
        at = [self.targets.index(t) for t in labelled]
        logs = torch.stack([self.logs[i] for i in at])
        weights = logs.detach().softmax(0) * len(at)
        found = [torch.autograd.grad(losses[t], self._fused, retain_graph=True)[0] for t in labelled]  # type: ignore[arg-type]
        norms = weights * torch.stack([g.float().norm() for g in found])
        pace = torch.stack([losses[t].detach() for t in labelled]) / self.first[at]
        aim = norms.mean() * (pace / pace.mean()) ** PULL
        slope = norms * (norms - aim).sign()  # d |G - aim| / d log w, the aim held constant
        teach = (logs - logs.detach()) * slope  # zero in value: only its gradient counts
        return losses | {t: weights[i] * losses[t] + teach[i] for i, t in enumerate(labelled)}

    def _see(self, module: nn.Module, inputs: object, fused: object) -> None:
        self._fused = fused.x  # type: ignore[attr-defined]


def balance_targets(model: Model, how: str, accelerator: Any) -> TargetBalance | None:
    """What `train.targets` names; None where there is nothing to balance."""
    if len(model.targets) < 2 or how == "none":
        return None
    return TargetBalance(model.targets, how, model.fusion, lambda x: accelerator.reduce(x, "mean")).to(accelerator.device)
