"""A run's figures to TensorBoard, MLflow or Weights & Biases, through accelerate's trackers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .core import RecipeError, did_you_mean

_NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@contextmanager
def tracker(name: str | None, folder: Path, recipe: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """Yields what logs one epoch's figures, or None where `name` is None.

    Args:
        name: "tensorboard" (writes to FOLDER/runs), "mlflow" or "wandb".
    """
    if name is None:
        yield None
        return
    if name not in _NEEDS:
        raise RecipeError(f"--log-to '{name}'", "unknown", expected=f"one of {', '.join(_NEEDS)}", fix=did_you_mean(name, _NEEDS))
    if find_spec(_NEEDS[name]) is None:
        raise RecipeError(f"--log-to '{name}'", "is not installed", fix=f"pip install {_NEEDS[name]}")
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=name, project_dir=str(folder / "runs"), cpu=True)
    accelerator.init_trackers("polyfuse", config={"fusion": recipe["fusion"]["name"], "width": recipe["width"], "seed": recipe["seed"]})

    def log(entry: dict[str, Any]) -> None:
        accelerator.log({k: v for k, v in entry.items() if isinstance(v, int | float)}, step=entry["step"])

    try:
        yield log
    finally:
        accelerator.end_training()
