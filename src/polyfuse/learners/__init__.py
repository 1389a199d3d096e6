"""How something is fitted: the network by gradient, the others on features. Importing this files them."""

from . import boost, catboost, fused, lightgbm, linear, neighbours, sparse, svm, tabm
from .features import features_of, with_stored
from .modality import shown, some
from .net import Interrupted, Training, outputs, train
from .options import TrainOptions

__all__ = [
    "Interrupted",
    "TrainOptions",
    "Training",
    "boost",
    "catboost",
    "features_of",
    "fused",
    "lightgbm",
    "linear",
    "neighbours",
    "outputs",
    "shown",
    "some",
    "sparse",
    "svm",
    "tabm",
    "train",
    "with_stored",
]
