"""How something is fitted: the network, by gradient."""

from .features import with_features
from .modality import shown, some
from .net import Interrupted, Training, outputs, train
from .options import TrainOptions

__all__ = ["Interrupted", "TrainOptions", "Training", "outputs", "shown", "some", "train", "with_features"]
