"""The training loop: batches in, the best weights out. Everything random is a function of (seed, step or row).

That is why a run that is killed and resumed ends with the very weights of one that was not: the checkpoint holds
weights, moments and a step number, and the rest follows from the seed.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Cells, RecipeError, Task
from ..core.progress import Progress
from ..data import Dataset, orders
from ..model import Model
from . import checkpoint
from .balance import TargetBalance, balance_targets
from .modality import Balance, Watch, make_balance
from .options import TrainOptions

_PACE = 10.0  # rate of `TargetBalance` against the network's: it follows losses that fall tenfold in a few hundred steps
_TIMED_STEPS = 12  # steps after which a time budget is turned into a number of steps


@dataclass
class Training:
    """What a run leaves besides the weights.

    Attributes:
        history: one dict per epoch: epoch, step, loss, held_loss, rate, seconds, the validation figures, and "alone", the
            main target's metric with one view shown, for each view.
        drop: {view: chance that it was hidden from a training row that has it}.
        plan: {"steps": T, "changed_at": s, "stopped_at": n}: what a time budget decided, for the recipe to replay.
        best_epoch: the epoch whose weights were kept.
        interrupted: Ctrl-C ended it.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    drop: dict[str, float] = field(default_factory=dict)
    plan: dict[str, int] = field(default_factory=dict)
    best_epoch: int = 0
    interrupted: bool = False


class Interrupted(KeyboardInterrupt):
    """Ctrl-C before the first epoch ended: there is no model to keep yet."""


@dataclass
class _Run:
    """The counters of a run: what a checkpoint holds besides tensors."""

    step: int = 0
    steps: int = 0
    changed_at: int = -1
    best: float = -math.inf
    best_loss: float = math.inf
    best_epoch: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    balance: dict[str, Any] = field(default_factory=dict)


def train(
    model: Model,
    data: Dataset,
    rows: np.ndarray,
    held: np.ndarray,
    options: TrainOptions,
    *,
    seed: int = 0,
    device: str | None = None,
    budget_s: float | None = None,
    replay: dict[str, int] | None = None,
    loss_weights: dict[str, float] | None = None,
    absent: Sequence[Sequence[str]] = (),
    main: str | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
) -> Training:
    """Train `model` in place; it ends with the best weights, calibrated on the held-out rows.

    Args:
        data: the prepared table; `rows` train, `held` choose the best epoch and calibrate.
        budget_s: seconds the training may take; the steps are planned from the first ones' time.
        replay: the `plan` of an earlier run under a budget, followed to the step.
        absent: patterns of absence to train for, each the names of the views that are hidden together.
        main: the target whose metric chooses the best epoch; the first unless named.
        folder: where checkpoints go; with `resume` the last one there is continued.
        log: called with each epoch's figures.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedDataParallelKwargs

    progress = progress or Progress(quiet=True)
    options = options.for_rows(len(rows))
    if budget_s is not None:
        options.checkpoint_s = min(options.checkpoint_s, max(budget_s / 10, 1.0))
    if PartialState().num_processes == 1:
        AcceleratorState._reset_state(True)  # it is one for the process, and an earlier fit may have asked for another precision or device
    # a view that is absent in one process's share leaves its encoder unused there
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision=options.precision, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
    )
    model.to(accelerator.device)
    targets = balance_targets(model, options.targets, accelerator)
    optimizer = _optimizer(model, options, targets)
    average = _Average(model, options.average)
    run = _Run(steps=options.epochs * -(-len(rows) // options.batch))
    if replay:
        run.steps, budget_s = replay["steps"] if replay.get("changed_at", -1) < 0 else run.steps, None
    found = checkpoint.load(folder, optimizer) if folder and resume else None
    best: dict[str, Tensor] = {}
    if found:
        weights, best, state = found
        model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(("average/", "targets/"))})
        if targets:
            targets.load_state_dict({k.removeprefix("targets/"): v for k, v in weights.items() if k.startswith("targets/")})
        average.load({k.removeprefix("average/"): v for k, v in weights.items() if k.startswith("average/")})
        run = _Run(**state)
        progress.say(f"resumed at step {run.step}")
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    hiding: dict[str, Any] = {"drop": data.drop_rates(rows, held, options.drop), "absent": absent, "absent_share": options.absent_share}
    balance = make_balance(options.balance, model, seed, options.balance_alpha, run.balance)
    given = (data, rows, held, options, seed, loss_weights or {}, hiding, balance, average, run, best, targets, main or model.targets[0])
    loop = _Loop(model, wrapped, optimizer, accelerator, *given)
    done = Training(history=run.history, drop=hiding["drop"])
    try:
        loop.go(budget_s, replay, folder if accelerator.is_main_process else None, progress, log)
    except KeyboardInterrupt:
        if not loop.best:
            raise Interrupted from None
        done.interrupted = True
    finally:
        if targets:
            targets.close()
    if loop.best:
        model.load_state_dict(loop.best)
    model.to("cpu").eval()
    done.best_epoch = run.best_epoch if options.keep == "best" else run.history[-1]["epoch"]
    done.plan = {"steps": run.steps, "changed_at": run.changed_at, "stopped_at": run.step}
    _calibrate(model, data, held)
    return done


@dataclass
class _Loop:
    model: Model
    wrapped: Any
    optimizer: Any
    accelerator: Any
    data: Dataset
    rows: np.ndarray
    held: np.ndarray
    options: TrainOptions
    seed: int
    loss_weights: dict[str, float]
    hiding: dict[str, Any]
    balance: Balance
    average: "_Average"
    run: _Run
    best: dict[str, Tensor]
    targets: TargetBalance | None
    main: str

    def go(self, budget_s: float | None, replay: dict[str, int] | None, folder: Path | None, progress: Progress, log: Any) -> None:
        run, o = self.run, self.options
        per_epoch = -(-len(self.rows) // o.batch)
        started, saved = time.monotonic() - run.seconds, time.monotonic()
        stop = replay["stopped_at"] if replay else None
        with progress.bar("training", run.steps) as bar:
            bar.step(run.step)
            first = run.step
            while run.step < run.steps and (stop is None or run.step < stop):
                epoch = run.step // per_epoch
                for at, batch in enumerate(orders(self.rows, o.batch, self.seed, epoch)):
                    if at < run.step % per_epoch or run.step // per_epoch != epoch:
                        continue  # a resumed run starts inside its epoch
                    run.loss += self._step(batch, epoch)
                    run.step += 1
                    run.seconds = self._agreed(time.monotonic() - started, budget_s)
                    bar.step()
                    if replay and run.step == replay.get("changed_at", -1):
                        run.steps, run.changed_at = replay["steps"], run.step
                    if budget_s is not None:
                        self._plan(budget_s, run.step - first, bar)
                        if run.seconds > budget_s:
                            break
                    if run.step >= run.steps or run.step == stop:
                        break
                    if folder and run.step % per_epoch and time.monotonic() - saved >= o.checkpoint_s:
                        self.save(folder, progress)
                        saved = time.monotonic()
                out_of_time = budget_s is not None and run.seconds > budget_s
                entry = self._end_epoch(epoch, per_epoch)
                bar.about(" ".join(f"{k} {v:.4g}" for k, v in entry.items() if k in ("loss", "held_loss", "score")))
                if log:
                    log(entry)
                if folder and (time.monotonic() - saved >= o.checkpoint_s or run.step >= run.steps or out_of_time):
                    self.save(folder, progress)
                    saved = time.monotonic()
                if out_of_time or (o.patience and epoch - run.best_epoch >= o.patience):
                    break

    def _agreed(self, seconds: float, budget_s: float | None) -> float:
        """Under a budget all processes go by the first one's clock, or they would stop at different steps."""
        if budget_s is None or self.accelerator.num_processes == 1:
            return seconds
        from accelerate.utils import broadcast_object_list

        return float(broadcast_object_list([seconds])[0])

    def _plan(self, budget_s: float, timed: int, bar: Any) -> None:
        """After a few steps: how many the budget has room for; the rate then falls over just these."""
        run = self.run
        if timed == _TIMED_STEPS and run.changed_at < 0:
            self._mark = run.seconds
        if timed == 2 * _TIMED_STEPS and run.changed_at < 0:
            per_step = max((run.seconds - getattr(self, "_mark", 0.0)) / _TIMED_STEPS, 1e-6)
            room = int(0.85 * (budget_s - run.seconds) / per_step)  # the rest is for the validation rows
            if run.step + room < run.steps:
                run.steps, run.changed_at = run.step + max(room, 1), run.step
                bar.total(run.steps)

    def _step(self, rows: np.ndarray, epoch: int) -> float:
        o, run, world = self.options, self.run, self.accelerator.num_processes
        torch.manual_seed(((self.seed + 1) << 32) + run.step)  # dropout: a function of the step
        self.wrapped.train()
        for group in self.optimizer.param_groups:
            group["lr"] = o.rate * group.get("pace", 1.0) * _schedule(run.step, run.steps, o.warmup)
        pieces = min(o.accumulate, max(len(rows) // world, 1))  # as many in every process, or they would wait for each other for ever
        if world > 1:
            share = np.array_split(rows, world)[self.accelerator.process_index]
            rows = share if len(share) else rows[:1]
        total, weights = 0.0, self.balance.weights(self.loss_weights)
        self.optimizer.zero_grad()
        for piece in np.array_split(rows, pieces):
            batch = self.data.batch(piece, (self.seed, epoch), **self.hiding).to(self.accelerator.device)
            with self.accelerator.autocast():
                outs, losses = self.wrapped(batch)
                loss = self.model.loss(outs, losses, batch, weights, self.targets) * (len(piece) / len(rows))
            self.balance.listen()
            self.accelerator.backward(loss)
            total += float(loss.detach())
        if self.targets and world > 1:
            self.targets.share()
        with self.balance.stepping(run.step, self.accelerator):
            if o.clip:
                self.accelerator.clip_grad_norm_(self.wrapped.parameters(), o.clip)
            self.optimizer.step()
        self.average.update(self.model, run.step)
        return total

    def _end_epoch(self, epoch: int, per_epoch: int) -> dict[str, Any]:
        """Validation figures of the averaged weights; the best so far are kept."""
        run = self.run
        steps = run.step - epoch * per_epoch
        entry: dict[str, Any] = {"epoch": epoch, "step": run.step, "loss": run.loss / max(steps, 1), "seconds": round(run.seconds, 2)}
        run.loss = 0.0
        with self.average.applied(self.model):
            if len(self.held):
                watch = Watch(self.model, self.data, self.main)
                figures = validate(self.model, self.data, self.held, self.accelerator.device, self.main, watch)
                entry |= figures
                self._check(entry)
                score = figures["score"]
                if lone := watch.scores():
                    entry["alone"] = lone
            else:
                self._check(entry)
                score = -entry["loss"]
            self.balance.end_epoch(self.data, self.rows, self.held, epoch, self.options.epochs, self.accelerator.device)
            if not math.isfinite(score):
                score = -math.inf
            loss = entry.get("held_loss", entry["loss"])
            # a figure such as an accuracy of 1 repeats from epoch to epoch: the loss still tells which of them knows more
            better = score > run.best or (score == run.best and loss < run.best_loss) or not self.best
            if better:
                run.best, run.best_loss, run.best_epoch = score, loss, epoch
            if better or self.options.keep == "last":
                self.best = {k: v.detach().to("cpu", copy=True) for k, v in self.model.state_dict().items()}
        run.history.append(entry)
        return entry

    def _check(self, entry: dict[str, Any]) -> None:
        if not (math.isfinite(entry["loss"]) and math.isfinite(entry.get("held_loss", 0.0))):
            what = f"diverged: the loss is not a number in epoch {entry['epoch'] + 1}"
            raise RecipeError("training", what, fix="lower --set train.rate, or correct outliers")

    def save(self, folder: Path, progress: Progress) -> None:
        weights = self.model.state_dict() | {f"average/{k}": v for k, v in self.average.weights.items()}
        weights |= {f"targets/{k}": v for k, v in self.targets.state_dict().items()} if self.targets else {}
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        try:
            checkpoint.save(folder, weights, self.best, optimizer, vars(self.run).copy())
        except OSError as error:  # the run is worth more than its checkpoint
            progress.say(f"note: no checkpoint could be written in {folder} ({error}); the run goes on", "yellow")


class _Average:
    """Exponential moving average of the trained weights, with the usual correction while it is young."""

    def __init__(self, model: Model, decay: float):
        self.decay = decay
        self.weights = {k: p.detach().clone() for k, p in model.named_parameters() if p.requires_grad} if decay else {}

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        if self.decay:
            rate = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
            names = dict(model.named_parameters())
            torch._foreach_lerp_(list(self.weights.values()), [names[k].detach() for k in self.weights], rate)

    def applied(self, model: Model) -> "_Swapped":
        return _Swapped(model, self.weights)


class _Swapped:
    """While it is entered, the model has other weights."""

    def __init__(self, model: Model, weights: dict[str, Tensor]):
        self.model, self.weights = model, weights

    def __enter__(self) -> None:
        names = dict(self.model.named_parameters())
        self.own = {k: names[k].data for k in self.weights}
        for k, w in self.weights.items():
            names[k].data = w

    def __exit__(self, *_: object) -> None:
        names = dict(self.model.named_parameters())
        for k, w in self.own.items():
            names[k].data = w


@torch.inference_mode()
def outputs(
    model: Model, data: Dataset, rows: np.ndarray, device: Any = "cpu", batch: int = 128, watch: Watch | None = None
) -> tuple[dict[str, Tensor], dict[str, Cells]]:
    """The model's outs and the truth of these rows: {target: out [rows, ...]}, {target: Cells}; `watch` sees the tokens too."""
    model.eval()
    outs: dict[str, list[Tensor]] = {t: [] for t in model.targets}
    for at in range(0, len(rows), batch):
        encoded = model.encode(data.batch(rows[at : at + batch]).to(device))
        for target, out in model.answers(encoded).items():
            outs[target].append(out.float().cpu())
        if watch:
            watch.see(rows[at : at + batch], encoded, at // batch, len(rows))
    return {t: torch.cat(o) for t, o in outs.items()}, {t: data.targets[t].cells(rows) for t in model.targets}


def validate(model: Model, data: Dataset, rows: np.ndarray, device: Any, main: str, watch: Watch | None = None) -> dict[str, float]:
    """{"held_loss", "score" (more is better), and each target's metric}; the score is the main target's.

    Where these rows hold nothing to score it by, it is the mean over the other targets', and without any the loss.
    """
    outs, truth = outputs(model, data, rows, device, watch=watch)
    figures: dict[str, float] = {}
    loss, scores = 0.0, {}
    for target, task in zip(model.targets, model.tasks):
        if not len(truth[target].rows):
            continue
        loss += float(task.loss(outs[target].to(device), truth[target].to(device)))
        if not math.isfinite(loss):
            return {"held_loss": loss, "score": -math.inf}  # what is not a number has no metrics
        value = task.scores(outs[target], truth[target]).get(task.metric, math.nan)
        figures[f"{target} {task.metric}"] = value
        scores[target] = _oriented(task, value)
    usable = {t: s for t, s in scores.items() if math.isfinite(s)}
    score = usable.get(main, float(np.mean(list(usable.values()))) if usable else -loss)
    return figures | {"held_loss": loss, "score": score}


def _oriented(task: Task, value: float) -> float:
    return value if task.higher else -value


def _calibrate(model: Model, data: Dataset, held: np.ndarray) -> None:
    if not len(held):
        return
    if model.decides:
        _fit_decision(model, data, held)
    outs, truth = outputs(model, data, held)
    for target, task in zip(model.targets, model.tasks):
        if len(truth[target].rows):
            task.calibrate(outs[target].clone(), truth[target])


@torch.no_grad()
def _fit_decision(model: Model, data: Dataset, held: np.ndarray) -> None:
    """At decision level: temper each view's head, then fit what combines them."""
    model.eval()
    each, here = [], []
    for at in range(0, len(held), 128):
        fused = model.fusion(model.encode(data.batch(held[at : at + 128])))
        each.append(model.each(fused))
        here.append(fused.present(model.fusion.views))
    present = torch.cat(here)
    for target, task, heads in zip(model.targets, model.tasks, model.heads):
        outs, truth = torch.cat([out[target] for out in each]).float(), data.targets[target].cells(held)
        for v, head in enumerate(heads):
            head.calibrate(outs[:, v], truth.keep(present[truth.rows, v]))
        some = truth.keep(present[truth.rows].any(1))
        if len(some.rows):
            model.fusion.fit_target(target, model.tempered(target, outs), present, some, task)  # type: ignore[operator]


def _optimizer(model: Model, options: TrainOptions, targets: TargetBalance | None = None) -> torch.optim.Optimizer:
    """AdamW; biases, norms, other vectors and the balance of targets are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        {"params": list(targets.parameters()) if targets else [], "weight_decay": 0.0, "pace": _PACE},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.rate)


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear rise, then a cosine to zero (Loshchilov and Hutter 2017, "SGDR", eq. 5 without restarts)."""
    rise = max(int(steps * warmup), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))
