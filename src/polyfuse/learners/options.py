"""How long and how to train: what `--set train.NAME=value` sets."""

import math
from dataclasses import dataclass, fields

from ..core import RecipeError, did_you_mean
from .balance import TARGETS
from .modality import BALANCES

_CHOICES = {"precision": ("no", "bf16", "fp16"), "keep": ("best", "last"), "balance": BALANCES, "targets": TARGETS}
_SHARES = ("warmup", "drop", "absent_share", "average")
_LEAST = {"accumulate": 1}


@dataclass
class TrainOptions:
    """How long and how to train (`--set train.NAME=value`).

    Args:
        epochs: passes over the training rows; 0 = chosen from the number of rows.
        batch: rows per step; 0 = chosen from the number of rows.
        rate: highest learning rate of AdamW (Loshchilov and Hutter 2019).
        decay: weight decay.
        warmup: share of the steps over which the rate rises; it then falls along a cosine to zero.
        patience: epochs without a better validation figure before it stops; 0 = never.
        clip: largest norm of the gradient.
        accumulate: batches per step of the optimizer.
        precision: "no", "bf16" or "fp16".
        drop: chance that a view is hidden from a row that has it while training (modality dropout; Neverova et al. 2016,
            "ModDrop"), so that serving with missing cells is no surprise; 0 = none is hidden. Where the validation rows lack a
            view more often, training sees it absent as often (`Dataset.drop_rates`).
        absent_share: share of the rows that are shown under one of the patterns of `fit(absent=...)`.
        balance: what keeps one view from starving the others, with a head for each view (the objective "heads"): "none";
            "ogm", whose encoders learn slower where their view is ahead; "blend", which weighs the views' losses by how
            much they generalize. Both cost some speed; worth it where `info` says that a view is starved.
        balance_alpha: how strongly "ogm" holds a view back.
        average: decay of the moving average of the weights that is evaluated and kept (Polyak and Juditsky 1992); 0 = none.
        keep: weights of the "best" epoch by the main target's metric on the validation rows, or of the "last": of few such rows the
            best is chance, and where the rate has fallen to zero the last is as good.
        checkpoint_s: seconds between checkpoints; 0 = after every step.
        targets: how the losses of several targets are balanced: "uncertainty", "gradnorm" or "none" (see `TargetBalance`).
    """

    epochs: int = 0
    batch: int = 0
    rate: float = 2e-3
    decay: float = 0.02
    warmup: float = 0.1
    patience: int = 0
    clip: float = 1.0
    accumulate: int = 1
    precision: str = "no"
    drop: float = 0.1
    absent_share: float = 0.5
    balance: str = "none"
    balance_alpha: float = 0.3
    average: float = 0.99
    keep: str = "best"
    checkpoint_s: float = 30.0
    targets: str = "uncertainty"

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in _CHOICES:
                if value not in _CHOICES[f.name]:
                    known = _CHOICES[f.name]
                    fix = did_you_mean(value, known)
                    raise RecipeError(f"option 'train.{f.name}'", f"is {value!r}", expected=f"one of {', '.join(known)}", fix=fix)
            elif not isinstance(value, int | float) or isinstance(value, bool) or value < 0 or not math.isfinite(value):
                raise RecipeError(f"option 'train.{f.name}'", f"is {value!r}", expected="a number that is not negative")
            elif f.type is int and (not isinstance(value, int) or value < _LEAST.get(f.name, 0)):
                whole = f"a whole number from {_LEAST.get(f.name, 0)} on"
                raise RecipeError(f"option 'train.{f.name}'", f"is {value!r}", expected=whole)
            elif f.name in _SHARES and value > 1:
                raise RecipeError(f"option 'train.{f.name}'", f"is {value!r}", expected="a share from 0 to 1")

    def for_rows(self, count: int) -> "TrainOptions":
        """With epochs and batch filled in for a table of `count` training rows."""
        batch = self.batch or int(min(128, max(16, 2 ** round(math.log2(max(count / 40, 1))))))
        epochs = self.epochs or int(min(100, max(12, round(6000 * batch / max(count, 1) / 4))))
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"batch": batch, "epochs": epochs}
        return TrainOptions(**values)
