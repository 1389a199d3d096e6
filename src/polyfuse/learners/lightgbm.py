"""Gradient boosting of trees, as LightGBM has it."""

from functools import partialmethod
from typing import Any

import numpy as np

from ..core import learners
from .boost import PATIENCE
from .library import Library
from .needs import missing


@learners("boost-lightgbm")
class LightGbm(Library):
    """Gradient boosting as `boost`, by LightGBM: several times faster on many rows and classes.

    Saved in LightGBM's text format, so it has to be installed where answers are given too; `boost` needs nothing.

    Source: Ke et al. 2017, "LightGBM: A Highly Efficient Gradient Boosting Decision Tree".

    Args:
        rounds, rate, leaves, most_features, most_trees, refit: as of `boost`.
    Shapes:
        x [B, F], there [B, G] -> out [B, C] or [B, K]
    Raises:
        RecipeError: LightGBM is not installed.
    Cost:
        rows * features * trees to learn.
    """

    packages = ("lightgbm",)
    exempt = missing(*packages)
    __init__ = partialmethod(Library.__init__, most_features=1000, most_trees=10_000)

    def grow(self, z: Any, y: Any, weight: Any, held: Any, classes: int, rounds: int, rate: float, seed: int) -> tuple[Any, int]:
        import lightgbm

        options: dict[str, Any] = {
            "objective": "regression" if not classes else "binary" if classes == 2 else "multiclass",
            "learning_rate": rate,
            "num_leaves": max(self.leaves, 2),
            "min_data_in_leaf": self.least(len(z), classes),
            "lambda_l2": 1.0,
            "feature_pre_filter": False,
            "deterministic": True,
            "force_row_wise": True,  # else it is chosen by the clock
            "seed": seed,
            "verbosity": -1,
        }
        if classes > 2:
            options["num_class"] = classes
        rows = lightgbm.Dataset(z, y, weight=weight, params=options)
        if held is None:
            return lightgbm.train(options, rows, rounds), rounds
        judged = lightgbm.Dataset(held[0], held[1], weight=held[2], reference=rows, params=options)
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        model = lightgbm.train(options, rows, rounds, valid_sets=[judged], callbacks=[stop])
        return model, model.best_iteration or rounds

    def said(self, model: Any, rounds: int) -> bytes:
        return model.model_to_string(num_iteration=rounds).encode()

    def read(self, text: bytes) -> Any:
        import lightgbm

        return lightgbm.Booster(model_str=text.decode())

    def raw(self, model: Any, z: np.ndarray) -> np.ndarray:
        return model.predict(z, raw_score=True)
