"""A run's state as one safetensors file, replaced in one step, so that a kill at any moment leaves a whole one."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = "checkpoint.safetensors"


def save(folder: Path, model: dict[str, Tensor], best: dict[str, Tensor], optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Weights, best weights, the optimizer's moments and the counters; JSON rides in the file's header.

    Raises:
        OSError: it cannot be written; an older one is still whole.
    """
    tensors = {f"model/{k}": v for k, v in model.items()} | {f"best/{k}": v for k, v in best.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{i}/{k}": v for k, v in moments.items() if isinstance(v, Tensor)}
    # tied weights share memory, which the format refuses: every tensor is written as its own
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    temporary = folder / f".{FILE}.{os.getpid()}"
    try:
        save_file(tensors, temporary, {"state": json.dumps(state)})
        os.replace(temporary, folder / FILE)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: Path, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
    """The last whole checkpoint: weights, best weights and counters; the optimizer is restored. None where there is none."""
    path = folder / FILE
    if not path.is_file():
        return None
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            for key in file.keys():
                kind, name = key.split("/", 1)
                parts[kind][name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError):
        return None  # not one of ours, or from a disk that lost it: the run starts anew
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        i, key = name.split("/")
        moments.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return parts["model"], parts["best"], state


def remove(folder: Path) -> None:
    (folder / FILE).unlink(missing_ok=True)
