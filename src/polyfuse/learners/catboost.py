"""Gradient boosting of symmetric trees, as CatBoost has it."""

import math
import tempfile
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np

from ..core import learners
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
        leaves: of a tree, at most; rounded to a power of two.
        rounds, rate, most_features, most_trees, refit: as of `boost`.
    Shapes:
        x [B, F], there [B, G] -> out [B, C] or [B, K]
    Raises:
        RecipeError: CatBoost is not installed.
    Cost:
        rows * features * trees to learn.
    """

    packages = ("catboost",)
    exempt = missing(*packages)
    __init__ = partialmethod(Library.__init__, rounds=500, leaves=64, most_trees=5000)

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
