"""One run: a method learns from a fold and answers the rows it has not seen. A run's file appears whole or not at all."""

import json
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..bundle import Bundle
from ..core import Schema
from ..data import Dataset, Fold
from ..evaluate import relative
from ..learners import TrainOptions, outputs, train, with_features
from ..model import members_of
from ..ready import Ready, new_bundle
from .plan import Method

_TIMED = 15  # single rows that are answered for the latency, after three that warm up


@dataclass
class Result:
    """What a run found.

    Attributes:
        score: of the main target, by its task's metric, as the metric points.
        metrics: {target: {metric: value}} on the fold's test rows.
        rows: [n] the test rows; outs {target: [n, ...]} what was answered, tempered.
        about: seconds, parameters, latency_ms, robustness.
    """

    score: float
    metrics: dict[str, dict[str, float]]
    rows: np.ndarray
    outs: dict[str, Tensor]
    about: dict[str, float]


@dataclass
class Bench:
    """What all runs share: the prepared table at each level, the targets, how to train.

    Args:
        ready: {"representation": the prepared table, "feature": the same with its plain numbers joined, where a method asks}.
        main: the target that counts.
        device: "cpu", "cuda" or None for the fastest.
    """

    ready: dict[str, Ready]
    main: str
    device: str | None

    def at(self, method: Method) -> Ready:
        return self.ready.get(method.level, self.ready["representation"])

    def bundle(self, method: Method, fold: Fold, seed: int, encoders: dict[str, Bundle] | None = None) -> tuple[Bundle, Dataset]:
        """The method's network before its first step, and the data it may see.

        Args:
            encoders: {view: a bundle whose encoder of that view is used as it is}; its features are computed once.
        """
        ready = self.at(method)
        data, schema = ready.data, ready.run.schema
        if len(method.views) < len(data.views):
            chosen = [c for v in method.views for c in members_of(data.codecs[v])]
            schema = schema.only(chosen)
            data = replace(data, views={v: data.views[v] for v in method.views}, codecs={v: data.codecs[v] for v in method.views})
        for view in [v for v in data.views if v in (encoders or {})]:
            data = with_features(data, (encoders or {})[view].model, [view], self.device or "cpu")
        recipe = {**ready.run.recipe, "fusion": method.fusion, "schema": schema.to_json(), "seed": seed}
        run = replace(ready.run, recipe=recipe, schema=schema)
        made = new_bundle(replace(ready, run=run, data=data, rows=fold.train, held=fold.held, codecs=_codecs(ready, schema)))
        return made, data

    def run(
        self, method: Method, fold: Fold, seed: int, encoders: dict[str, Bundle] | None = None, budget_s: float | None = None
    ) -> tuple[Result, Bundle] | None:
        """Learn from the fold and answer its test rows; None where the budget ended it before its last step."""
        begun = time.monotonic()
        bundle, data = self.bundle(method, fold, seed, encoders)
        recipe = bundle.recipe
        for view, encoder in zip(bundle.model.views, bundle.model.encoders):
            if encoders and view in encoders:
                encoder.requires_grad_(False)
        parameters = sum(p.numel() for p in bundle.model.parameters())
        done = train(
            bundle.model,
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
        if done.interrupted:
            raise KeyboardInterrupt
        if budget_s is not None and done.plan["changed_at"] >= 0:
            return None
        seconds = time.monotonic() - begun
        outs, truth = outputs(bundle.model, data, fold.test)
        metrics = {}
        for target, task in zip(bundle.model.targets, bundle.model.tasks):
            metrics[target] = task.scores(outs[target], truth[target])
            outs[target] = task.tempered(outs[target])
        main = bundle.model.tasks[bundle.model.targets.index(self.main)]
        robust = relative(bundle.model, data, fold.test, self.main) if len(method.views) > 1 else None
        about = {"seconds": seconds, "parameters": parameters, "latency_ms": _latency(bundle, data, fold.test)}
        if robust is not None:
            about["robustness"] = robust
        score = metrics[self.main].get(main.metric, float("nan"))
        return Result(score, metrics, fold.test, outs, about), bundle


def _codecs(ready: Ready, schema: Schema) -> dict[str, Any]:
    return {c.name: ready.codecs[c.name] for c in schema.columns if c.name in ready.codecs}


@torch.inference_mode()
def _latency(bundle: Bundle, data: Dataset, rows: np.ndarray) -> float:
    """Milliseconds from one prepared row to its answer, median."""
    bundle.model.eval()
    times = []
    for row in rows[: _TIMED + 3]:
        batch = data.batch(np.array([row]))
        start = time.perf_counter()
        bundle.model(batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:] or times)) * 1000


def file_of(folder: Path, method: Method, seed: int, fold: int) -> Path:
    safe = re.sub(r"[^\w+-]+", "_", method.name)[:80]
    return folder / "runs" / f"{safe}.seed{seed}.fold{fold}.safetensors"


def write(path: Path, method: Method, result: Result) -> None:
    """One safetensors file: the outs, and everything else in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"method": _mark(method), "score": result.score, "metrics": result.metrics, "about": result.about}
    tensors = {f"out/{t}": o.detach().cpu().float().contiguous() for t, o in result.outs.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({**tensors, "rows": torch.from_numpy(np.ascontiguousarray(result.rows))}, temporary, {"run": json.dumps(head)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, method: Method) -> Result | None:
    """A finished run, or None: not there, damaged, or of a method that had other options."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            head = json.loads(file.metadata()["run"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    if head.get("method") != _mark(method):
        return None
    outs = {key.removeprefix("out/"): value for key, value in tensors.items() if key.startswith("out/")}
    return Result(head["score"], head["metrics"], tensors["rows"].numpy(), outs, head["about"])


def _mark(method: Method) -> dict[str, Any]:
    return {"fusion": method.fusion, "views": list(method.views), "shift": method.shift}
