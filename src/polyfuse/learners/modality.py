"""Views that learn at different speeds: how fast each does, and what holds the quick ones back.

A network follows the gradient, and the gradient follows the view that explains the labels soonest; once it does, little is
left that would teach the others. The two ways of balancing here are `train.balance`; `Watch` measures what came of it.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core import Cells, Tokens
from ..data import Dataset
from ..model import Model

Key = TypeVar("Key")
BALANCES = ("none", "ogm", "blend")
HEADS = "heads"
FUSED = "fused"
_ROWS = 1000  # of each kind that an estimate looks at
_PERIODS = 10  # how often in a run the blend is estimated anew
_LEAST_SHARE = 0.1  # of an even weight: a loss without weight would stop learning and never again show a gain
_FLOOR = 0.1  # of the mean change: a smaller change of the overfitting is within what some rows measure


class Balance:
    """No balancing: every view learns as fast as it does. The others replace what they need.

    Args:
        model: has the objective "heads" where it is to be balanced.
        seed: of the run.
        alpha: how strongly `Ogm` holds a view back.
        state: plain JSON that outlives a killed run; changed in place.
    """

    def __init__(self, model: Model, seed: int, alpha: float, state: dict[str, Any]):
        self.model, self.seed, self.alpha, self.state = model, seed, alpha, state
        self.heads: Any = model.objectives[HEADS] if HEADS in model.objectives else None
        self.spans = list(model.spans.values())

    def listen(self) -> None:
        """Called after each forward pass of a step."""

    @contextmanager
    def stepping(self, step: int, accelerator: Any) -> Iterator[None]:
        """Around clipping and the optimizer's step, when the gradients are there."""
        yield

    def weights(self, given: dict[str, float]) -> dict[str, float]:
        """The losses' weights, from those the user set."""
        return given

    def end_epoch(self, data: Dataset, rows: np.ndarray, held: np.ndarray, epoch: int, epochs: int, device: Any) -> None:
        """Called after each epoch, with the averaged weights in the model."""


class Ogm(Balance):
    """On-the-fly gradient modulation with generalization enhancement: the encoder of a view that is ahead learns slower.

    Source: Peng et al. 2022, "Balanced Multimodal Learning via On-the-fly Gradient Modulation" (OGM-GE): the ratio of the
    views' summed scores of the truth (eq. 8), the coefficient k = 1 - tanh(alpha * ratio) where the ratio exceeds 1, else 1
    (eq. 9-10), and Gaussian noise as wide as the gradient's own (eq. 12-13).
    What differs: a row's score is exp(-loss) of the view's own head, which for classes is the probability of the truth and
    exists for every task; scores are means over the rows that have the view; a view is set against the mean of all others.
    Of AdamW a constant factor on the gradient cancels, so k scales the encoder's step. Noise goes to the views that are
    held back only, and is as wide as the elements of a tensor's gradient are spread.

    Cost:
        one pass over the encoders' parameters a step, besides the heads.
    """

    def __init__(self, model: Model, seed: int, alpha: float, state: dict[str, Any]):
        super().__init__(model, seed, alpha, state)
        self._sums = torch.zeros(len(self.spans), 2, dtype=torch.float64)  # of scores, and of rows

    def listen(self) -> None:
        for views in self.heads.last.values():
            for span, (losses, _) in views.items():
                found = [float(torch.exp(-losses.cpu().double()).sum()), float(len(losses))]  # not every device has doubles
                self._sums[self.spans.index(span)] += torch.tensor(found, dtype=torch.float64)

    @contextmanager
    def stepping(self, step: int, accelerator: Any) -> Iterator[None]:
        total = accelerator.reduce(self._sums.to(accelerator.device), "sum").cpu() if accelerator.num_processes > 1 else self._sums
        factors = coefficients([float(s / n) if n else math.nan for s, n in total], self.alpha)
        self._sums = torch.zeros_like(self._sums)
        before: list[tuple[Tensor, Tensor, float]] = []
        for view, (factor, encoder) in enumerate(zip(factors, self.model.encoders)):
            trained = [p for p in encoder.parameters() if p.grad is not None]
            if factor < 1.0 and trained:
                noise = torch.Generator(trained[0].device).manual_seed((self.seed + 1 << 40) + (step << 8) + view)
                for p in trained:
                    spread = p.grad.std(correction=0)  # type: ignore[union-attr]
                    p.grad += spread * torch.randn(p.shape, generator=noise, device=p.device, dtype=p.grad.dtype)  # type: ignore[operator, union-attr]
                before += [(p, p.detach().clone(), factor) for p in trained]
        yield
        for weight, old, factor in before:
            weight.data.lerp_(old, 1.0 - factor)


class Blend(Balance):
    """Gradient blending: each view's head and the fused answer get the loss weight that learns most and overfits least.

    Source: Wang et al. 2020, "What Makes Training Multi-modal Classification Networks Hard?", online G-Blend: between two
    moments each loss has a gain G in generalization and a growth O of overfitting, the gap of validation and training loss
    (eq. 3); its weight is in proportion to G / O^2 (eq. 5).
    What differs: the moments are those of the run itself, a tenth of it apart, with encoders that all losses share, not of
    runs apart for each view; the validation rows are the ones that choose the best epoch; weights sum to the number of
    losses and none falls below a tenth of an even share. Until the first estimate all are even.

    Cost:
        ten times in a run, the losses of at most 1000 training and 1000 validation rows.
    """

    def weights(self, given: dict[str, float]) -> dict[str, float]:
        found = self.state.get("weights", {})
        # the heads' loss is a mean over views, the blend a sum
        self.heads.emphasis = {span: len(self.spans) * found.get(span, 1.0) for span in self.spans}
        return given | {t: given.get(t, 1.0) * found.get(FUSED, 1.0) for t in self.model.targets}

    def end_epoch(self, data: Dataset, rows: np.ndarray, held: np.ndarray, epoch: int, epochs: int, device: Any) -> None:
        if (epoch + 1) % max(1, epochs // _PERIODS) or not len(held):
            return
        train, val = (self._losses(data, some(r), device) for r in (rows, held))
        now = {name: [train[name], val[name]] for name in train if name in val}
        if found := blend_weights(self.state.get("last", {}), now):
            self.state["weights"] = found
        self.state["last"] = now

    @torch.inference_mode()
    def _losses(self, data: Dataset, rows: np.ndarray, device: Any) -> dict[str, float]:
        """{view's span or "fused": mean loss over rows and targets}."""
        model = self.model.eval()
        sums: dict[str, Tensor] = {}
        for at in range(0, len(rows), 128):
            batch = data.batch(rows[at : at + 128]).to(device)
            encoded = model.encode(batch)
            outs = model.answers(encoded)
            labelled = [(t, task) for t, task in zip(model.targets, model.tasks) if len(batch.cells[t].rows)]
            found = [(FUSED, task.row_losses(outs[t], batch.cells[t])[0]) for t, task in labelled]
            found += [(span, losses) for views in self.heads.per_view(encoded, batch).values() for span, (losses, _) in views.items()]
            for name, losses in found:
                both = torch.tensor([float(losses.cpu().double().sum()), float(len(losses))], dtype=torch.float64)
                sums[name] = sums.get(name, 0.0) + both  # type: ignore[operator]
        return {name: float(s / n) for name, (s, n) in sums.items() if n}


def make_balance(name: str, model: Model, seed: int, alpha: float, state: dict[str, Any]) -> Balance:
    """The way of balancing that `train.balance` names; none where no view can starve another: one view, or late fusion."""
    kinds = {"none": Balance, "ogm": Ogm, "blend": Blend}
    return (kinds[name] if len(model.views) > 1 and not model.decides else Balance)(model, seed, alpha, state)


def coefficients(scores: list[float], alpha: float) -> list[float]:
    """What each view's step is multiplied by, from the views' mean scores of the truth; nan = no row had the view.

    Example:
        >>> [round(k, 3) for k in coefficients([0.8, 0.4], alpha=0.3)]
        [0.463, 1.0]
    """
    found = []
    for view, score in enumerate(scores):
        others = [s for other, s in enumerate(scores) if other != view and math.isfinite(s)]
        mean = sum(others) / len(others) if others else math.nan
        ratio = score / max(mean, 1e-12)
        found.append(1.0 - math.tanh(alpha * ratio) if ratio > 1.0 else 1.0)  # a comparison with nan is False
    return found


def blend_weights(before: dict[str, list[float]], now: dict[str, list[float]]) -> dict[str, float]:
    """Weights of the losses that both moments have, from their {name: [training loss, validation loss]}.

    They sum to the number of losses. Empty where no validation loss has fallen: there is nothing to go by.

    Example:
        >>> w = blend_weights({"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"a": [0.5, 0.7], "b": [0.2, 0.8]})
        >>> {name: round(v, 3) for name, v in w.items()}  # (0.3 / 0.2^2) : (0.2 / 0.6^2)
        {'a': 1.862, 'b': 0.138}
    """
    names = [name for name in now if name in before]
    gain = {n: before[n][1] - now[n][1] for n in names}
    growth = {n: abs((now[n][1] - now[n][0]) - (before[n][1] - before[n][0])) for n in names}
    floor = max(_FLOOR * sum(growth.values()) / max(len(names), 1), 1e-6)
    raw = {n: max(gain[n], 0.0) / max(growth[n], floor) ** 2 for n in names}
    total = sum(raw.values())
    if not total > 0 or not math.isfinite(total):
        return {}
    share = {n: max(value / total, _LEAST_SHARE / len(names)) for n, value in raw.items()}
    return {n: len(names) * value / sum(share.values()) for n, value in share.items()}


@torch.inference_mode()
def shown(
    model: Model, data: Dataset, rows: np.ndarray, kept: Mapping[Key, Collection[str]], target: str, device: Any = "cpu", batch: int = 128
) -> tuple[dict[Key, Tensor], Cells]:
    """The answers to one target with only some of the views shown: {key: out [rows, ...]} for each {key: views}, and the truth.

    The rows are encoded once; hiding a view's tokens is the same as its cells' never having been there.
    """
    model.eval()
    outs: dict[Key, list[Tensor]] = {key: [] for key in kept}
    for at in range(0, len(rows), batch):
        encoded = model.encode(data.batch(rows[at : at + batch]).to(device))
        for key, views in kept.items():
            outs[key].append(_with(model, encoded, views, target))
    return {key: torch.cat(o) for key, o in outs.items()}, data.targets[target].cells(rows)


def _with(model: Model, encoded: Tokens, views: Collection[str], target: str) -> Tensor:
    everywhere = encoded.mask.new_ones(len(encoded.mask))
    fused = model.fusion(encoded.hide({model.spans[v]: everywhere for v in model.views if v not in views}))
    return model.answer(fused)[target].float().cpu()


class Watch:
    """Each view alone, watched while the held-out rows are encoded for validation anyway: one more fusion a view is all it costs.

    Args:
        target: whose main metric is taken.
        most: about how many rows are watched: of many batches every so many.
    """

    def __init__(self, model: Model, data: Dataset, target: str, most: int = _ROWS):
        self.model, self.data, self.target, self.most = model, data, target, most
        self._outs: dict[str, list[Tensor]] = {view: [] for view in model.views}
        self._rows: list[np.ndarray] = []

    def see(self, rows: np.ndarray, encoded: Tokens, number: int, total: int) -> None:
        """One batch: its rows and their tokens; `number` of the batch, `total` rows in all batches."""
        if len(self.model.views) > 1 and number % max(1, -(-total // self.most)) == 0:
            self._rows.append(rows)
            for view, outs in self._outs.items():
                outs.append(_with(self.model, encoded, [view], self.target))

    def scores(self) -> dict[str, float]:
        """{view: the metric on the watched rows that have it}."""
        if not self._rows:
            return {}
        rows = np.concatenate(self._rows)
        task, truth = self.model.tasks[self.model.targets.index(self.target)], self.data.targets[self.target].cells(rows)
        present, found = torch.from_numpy(self.data.present(rows)), {}
        for v, (view, outs) in enumerate(self._outs.items()):
            mine = truth.keep(present[truth.rows, v])
            value = task.scores(torch.cat(outs), mine).get(task.metric, math.nan) if len(mine.rows) else math.nan
            if math.isfinite(value):
                found[view] = value
        return found


def some(rows: np.ndarray, most: int = _ROWS) -> np.ndarray:
    """At most so many of the rows, evenly spread: the same ones every time."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]
