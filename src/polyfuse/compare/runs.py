"""One run: a method learns from a fold and answers the rows it has not seen. A run's file appears whole or not at all."""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..bundle import Bundle
from ..core import Encoder
from ..data import Dataset, Features, Fold
from ..evaluate import relative
from ..learners import TrainOptions, features_of, outputs, train, with_stored
from ..model import Model, members_of
from ..ready import Ready, new_bundle
from .plan import Method

_TIMED = 15  # single rows that are answered for the latency, after three that warm up


@dataclass
class Result:
    """What a run found.

    Attributes:
        score: of the main target, by its task's metric, as the metric points.
        metrics: {target: {metric: value}} on the fold's test rows.
        rows: [n] the test rows; outs {target: [n, ...]} what was answered, tempered, until it is written.
        about: seconds of training, parameters, latency_ms, robustness, and run_s, seconds of all of it.
        file: where it is written; a comparison has more answers than memory should hold.
    """

    score: float
    metrics: dict[str, dict[str, float]]
    rows: np.ndarray
    outs: dict[str, Tensor]
    about: dict[str, float]
    file: Path | None = None

    def out(self, target: str) -> Tensor:
        """[n, ...] what was answered."""
        if self.file is None:
            return self.outs[target]
        with safe_open(self.file, "pt") as file:
            return file.get_tensor(f"out/{target}")


@dataclass
class Lent:
    """The encoder that a fold's single model trained for its view, and what it makes of every row: other methods use it as it is."""

    encoder: Encoder
    features: Features


@dataclass
class Bench:
    """What all runs share: the prepared table at each level, the targets, how to train.

    Args:
        ready: {"representation": the prepared table, "feature": the same with its plain numbers joined, where a method asks}.
        main: the target that counts.
        device: "cpu", "cuda" or None for the fastest.

    Attributes:
        frozen: {view: its encoder, which does not train, with its features}; see `store_frozen`.
    """

    ready: dict[str, Ready]
    main: str
    device: str | None
    frozen: dict[str, Lent] = field(default_factory=dict)

    def store_frozen(self) -> None:
        """Run the encoders that do not train on every row, once for all runs; what they learn without labels they learn of all rows.

        One that gives earlier layers as well is run anew each time: a fusion that asks for them has to find them.
        """
        ready = self.ready["representation"]
        model = new_bundle(ready).model
        encoders = {v: e for v, e in zip(model.views, model.encoders) if e.frozen and not e.depth_widths}
        features = features_of(ready.data, model, list(encoders), self._fastest())
        self.frozen = {view: Lent(encoder.cpu(), features[view]) for view, encoder in encoders.items()}

    def at(self, method: Method) -> Ready:
        return self.ready.get(method.level, self.ready["representation"])

    def bundle(self, method: Method, fold: Fold, seed: int, lent: Mapping[str, Lent] | None = None) -> tuple[Bundle, Dataset]:
        """The method's network before its first step, and the data it may see.

        Args:
            lent: {view: the encoder to use as it is}.
        """
        ready, lent = self.at(method), lent or {}
        if method.kind != "fusion":
            ready = ready.only(method.views)
        stored = {view: one for view, one in {**self.frozen, **lent}.items() if self._same(view, ready.data)}
        data = with_stored(ready.data, {view: one.features for view, one in stored.items()})
        run = replace(ready.run, recipe={**ready.run.recipe, "fusion": method.fusion, "seed": seed})
        made = new_bundle(replace(ready, run=run, data=data, rows=fold.train, held=fold.held))
        for view, encoder in zip(made.model.views, made.model.encoders):
            if view in stored:
                _take_over(encoder, stored[view].encoder, whole=view in lent)
        return made, data

    def _same(self, view: str, data: Dataset) -> bool:
        """Whether the view is made of the same columns there: at feature level `table` may have lost its numbers."""
        own = self.ready["representation"].data.codecs
        return view in data.views and members_of(data.codecs[view]) == members_of(own[view])

    def _fastest(self) -> str:
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def lend(self, bundle: Bundle) -> Lent:
        """The encoder of a single model after its training."""
        model = bundle.model
        (view,), (encoder,) = model.views, model.encoders
        if view in self.frozen:
            return Lent(encoder, self.frozen[view].features)
        features = features_of(self.ready["representation"].data, model, [view], self._fastest())
        return Lent(encoder.cpu(), features[view])

    def run(
        self, method: Method, fold: Fold, seed: int, lent: Mapping[str, Lent] | None = None, budget_s: float | None = None
    ) -> tuple[Result, Bundle] | None:
        """Learn from the fold and answer its test rows; None where the budget ended it before its last step."""
        begun = time.monotonic()
        bundle, data = self.bundle(method, fold, seed, lent)
        recipe, model = bundle.recipe, bundle.model
        parameters = model.size
        done = train(
            model,
            data,
            fold.train,
            fold.held,
            TrainOptions(**recipe["train"]),
            seed=seed,
            device=self.device,
            budget_s=budget_s,
            loss_weights=recipe["loss"],
            absent=recipe.get("absent", ()),
            main=self.main,
        )
        seconds = time.monotonic() - begun
        if done.interrupted:
            raise KeyboardInterrupt
        late = budget_s is not None and seconds >= budget_s and done.plan["stopped_at"] < done.plan["steps"]
        if late or done.plan["changed_at"] >= 0:
            return None
        outs, truth = outputs(model, data, fold.test)
        metrics = {}
        for target, task in zip(model.targets, model.tasks):
            metrics[target] = task.scores(outs[target], truth[target])
            outs[target] = task.tempered(outs[target])
        about = {"seconds": seconds, "parameters": parameters, "latency_ms": _latency(model, self.at(method).data, fold.test)}
        labelled = len(truth[self.main].rows) > 0
        robust = relative(model, data, fold.test, self.main) if labelled and len(model.views) > 1 else None
        if robust is not None:
            about["robustness"] = robust
        about["run_s"] = time.monotonic() - begun
        score = metrics[self.main].get(model.tasks[model.targets.index(self.main)].metric, math.nan)
        return Result(score, metrics, fold.test, outs, about), bundle


def _take_over(encoder: Encoder, other: Encoder, whole: bool) -> None:
    """Give `encoder` what the other learned: all of it, and it trains no more, or only that which never trains."""
    trained = set() if whole else {name for name, p in encoder.named_parameters() if p.requires_grad}
    encoder.load_state_dict({k: v for k, v in other.state_dict().items() if k not in trained}, strict=False)
    if whole:
        encoder.requires_grad_(False)


@torch.inference_mode()
def _latency(model: Model, data: Dataset, rows: np.ndarray) -> float:
    """Milliseconds from one prepared row to its answer, encoders included, median."""
    model.eval()
    times = []
    for row in rows[: _TIMED + 3]:
        batch = data.batch(np.array([row]))
        start = time.perf_counter()
        model(batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:] or times)) * 1000


def file_of(folder: Path, method: Method, seed: int, fold: int) -> Path:
    """A run's file. Names that a file system takes for one ("a b" and "a_b", "A" and "a") are told apart by what the methods are."""
    safe = re.sub(r"[^\w+-]+", "_", method.name)[:60]
    told = hashlib.blake2b(json.dumps(_mark(method), sort_keys=True).encode(), digest_size=4).hexdigest()
    return folder / "runs" / f"{safe}.{told}.seed{seed}.fold{fold}.safetensors"


def write(path: Path, method: Method, result: Result) -> None:
    """One safetensors file: the outs, which leave memory then, and everything else in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"method": _mark(method), "score": result.score, "metrics": result.metrics, "about": result.about}
    tensors = {f"out/{t}": o.detach().cpu().float().contiguous() for t, o in result.outs.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({**tensors, "rows": torch.from_numpy(np.ascontiguousarray(result.rows))}, temporary, {"run": json.dumps(head)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    result.outs, result.file = {}, path


def read(path: Path, method: Method) -> Result | None:
    """A finished run, or None: not there, damaged, or of a method that had other options."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            head = json.loads(file.metadata()["run"])
            rows = file.get_tensor("rows").numpy()
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    if head.get("method") != _mark(method):
        return None
    return Result(head["score"], head["metrics"], rows, {}, head["about"], path)


def _mark(method: Method) -> dict[str, Any]:
    return {"fusion": method.fusion, "views": list(method.views), "shift": method.shift}
