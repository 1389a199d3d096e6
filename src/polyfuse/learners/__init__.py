"""How something is fitted: the network by gradient, the others on features. Importing this files them."""

from . import boost, linear
from .features import features_of, with_stored
from .modality import shown, some
from .net import Interrupted, Training, outputs, train
from .options import TrainOptions

__all__ = [
    "Interrupted",
    "TrainOptions",
    "Training",
    "features_of",
    "outputs",
    "shown",
    "some",
    "train",
    "with_stored",
]
