"""How something is fitted: the network, by gradient."""

from .net import Interrupted, Training, TrainOptions, outputs, train

__all__ = ["Interrupted", "TrainOptions", "Training", "outputs", "train"]
