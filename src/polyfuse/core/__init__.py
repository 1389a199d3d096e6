"""Errors, registries, schema, tokens, codecs, layers: imports nothing else of ours, everything else imports it."""

from .codec import Codec, Encoder, Value, pad
from .draws import Draws
from .errors import BundleError, DataError, Error, RecipeError, did_you_mean
from .parts import Fusion, Task, mean_loss
from .registry import Registry, check_options, codecs, encoders, fusions, objectives, option_names, tasks
from .schema import Column, Role, Schema, Window
from .table import TableCodec, TabularCodec
from .tokens import Batch, Cells, Encoded, Tokens, pool, pooled, scatter

__all__ = [
    "Batch",
    "BundleError",
    "Cells",
    "Codec",
    "Column",
    "DataError",
    "Draws",
    "Encoded",
    "Encoder",
    "Error",
    "Fusion",
    "RecipeError",
    "Registry",
    "Role",
    "Schema",
    "TableCodec",
    "TabularCodec",
    "Task",
    "Tokens",
    "Value",
    "Window",
    "check_options",
    "codecs",
    "did_you_mean",
    "encoders",
    "fusions",
    "mean_loss",
    "objectives",
    "option_names",
    "pad",
    "pool",
    "pooled",
    "scatter",
    "tasks",
]
