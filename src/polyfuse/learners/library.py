"""Boosting by a library of its own, which is needed to answer too."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .boost import Boosted


class Library(Boosted):
    """Boosting whose models are kept in their library's own text format, as bytes in a buffer."""

    text: Tensor
    ends: Tensor
    targets: Tensor

    def said(self, model: Any, rounds: int) -> bytes:
        """The model as text, with the first `rounds` rounds."""
        raise NotImplementedError

    def read(self, text: bytes) -> Any:
        """The inverse of `said`."""
        raise NotImplementedError

    def raw(self, model: Any, z: np.ndarray) -> np.ndarray:
        """[B, D] float32 -> scores [B] or [B, classes]."""
        raise NotImplementedError

    def clear(self) -> None:
        self.models: list[Any] | None = []
        self.register_buffer("text", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("ends", torch.zeros(0, dtype=torch.long))  # of each model's text
        self.register_buffer("targets", torch.zeros(0, 2, dtype=torch.long))  # first and last of the scores it adds to

    def keep(self, model: Any, rounds: int, outputs: list[int]) -> None:
        text = np.frombuffer(self.said(model, rounds), np.uint8).copy()
        self.text = torch.cat([self.text, torch.from_numpy(text)])
        self.ends = torch.cat([self.ends, torch.tensor([len(self.text)])])
        self.targets = torch.cat([self.targets, torch.tensor([[outputs[0], outputs[-1]]])])
        self.models = None

    def _load_from_state_dict(self, *state: Any) -> None:
        super()._load_from_state_dict(*state)
        self.models = None  # read when they are asked

    def scores(self, z: Tensor) -> Tensor:
        if self.models is None:
            starts = [0, *self.ends[:-1].tolist()]
            self.models = [self.read(self.text[a:b].numpy().tobytes()) for a, b in zip(starts, self.ends.tolist())]
        found = np.zeros((len(z), len(self.start)), np.float32)
        for model, (first, last) in zip(self.models, self.targets.tolist() if len(z) else []):
            found[:, first : last + 1] += np.asarray(self.raw(model, z.numpy())).reshape(len(z), -1)
        return torch.from_numpy(found)
