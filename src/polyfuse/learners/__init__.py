"""How something is fitted: the network, by gradient."""

from .net import Interrupted, TrainOptions, Training, train

__all__ = ["Interrupted", "TrainOptions", "Training", "train"]
