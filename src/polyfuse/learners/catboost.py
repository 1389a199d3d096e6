"""Gradient boosting of symmetric trees, as CatBoost has it."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..core import Inputs, Task, learners
from .boost import PATIENCE
from .library import Library
from .needs import missing

_LOWEST = -1e30  # stands for what is not there: the library refuses held-out rows that lack what no other row lacks


@learners("boost-catboost")
class CatBoost(Library):
    """Gradient boosting as `boost`, by CatBoost, whose trees ask the same question of all nodes of a depth.

    Such trees say less each and overfit less: often the best boosting on small tables without any choice of options. Slower
    to learn. Saved in CatBoost's JSON format, so it has to be installed where answers are given too; `boost` needs nothing.

    Source: Prokhorenkova et al. 2018, "CatBoost: Unbiased Boosting with Categorical Features"; categories become statistics of
    the target in `Design`, not in the library.

    Args:
        rounds: most rounds of boosting; fewer where there are many classes.
        rate: what share of each tree counts.
        leaves: of a tree, at most; rounded to a power of two.
        most_features: how many features are learned from: those that tell most of the target by themselves.
        most_trees: most trees of all classes together. With fewer rounds than `rounds` each counts for more.
        refit: a table of up to so many rows is learned twice, the second time with the held-out rows.
    Shapes:
        x [B, F], there [B, G] -> out [B, C] or [B, K]
    Raises:
        RecipeError: CatBoost is not installed.
    Cost:
        rows * features * trees to learn.
    """

    package = "catboost"
    exempt = missing(package)

    def __init__(
        self,
        task: Task,
        inputs: Inputs,
        *,
        rounds: int = 500,
        rate: float = 0.1,
        leaves: int = 64,
        most_features: int = 300,
        most_trees: int = 5000,
        refit: int = 5000,
    ):
        bounds = {"most_features": most_features, "most_trees": most_trees, "refit": refit}
        super().__init__(task, inputs, rounds=rounds, rate=rate, leaves=leaves, **bounds)

    def prepare(self, z: np.ndarray, seed: int) -> np.ndarray:
        return np.nan_to_num(z, nan=_LOWEST)

    def grow(self, z: Any, y: Any, weight: Any, held: Any, classes: int, rounds: int, rate: float, seed: int) -> tuple[Any, int]:
        import catboost

        options: dict[str, Any] = {
            "loss_function": "RMSE" if not classes else "Logloss" if classes == 2 else "MultiClass",
            "iterations": rounds,
            "learning_rate": rate,
            "depth": min(max(round(math.log2(self.leaves)), 1), 10),
            "random_seed": seed,
            "allow_writing_files": False,
            "verbose": False,
        }
        if classes > 2:
            options["classes_count"] = classes
        if held is not None:
            options |= {"od_type": "Iter", "od_wait": PATIENCE, "use_best_model": True}
        model = catboost.CatBoost(options)
        judged = None if held is None else catboost.Pool(held[0], held[1], weight=held[2])
        model.fit(catboost.Pool(z, y, weight=weight), eval_set=judged)
        return model, model.tree_count_

    def said(self, model: Any, rounds: int) -> bytes:
        with tempfile.TemporaryDirectory(prefix="polyfuse-") as folder:  # it writes to files only
            path = Path(folder) / "model.json"
            model.save_model(str(path), format="json")
            return path.read_bytes()

    def read(self, text: bytes) -> Any:
        import catboost

        with tempfile.TemporaryDirectory(prefix="polyfuse-") as folder:
            path = Path(folder) / "model.json"
            path.write_bytes(text)
            return catboost.CatBoost().load_model(str(path), format="json")

    def raw(self, model: Any, z: np.ndarray) -> np.ndarray:
        return model.predict(np.nan_to_num(z, nan=_LOWEST), prediction_type="RawFormulaVal")
