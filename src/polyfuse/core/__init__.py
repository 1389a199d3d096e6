"""Errors, registries, schema, tokens, codecs, layers: imports nothing else of ours, everything else imports it."""

from .codec import MISSING, Codec, Encoder, Layout, Value, pad
from .draws import Draws
from .errors import BundleError, DataError, Error, RecipeError, did_you_mean
from .learner import Inputs, Learner
from .parts import Decision, Fusion, Objective, Task, mean_loss
from .registry import Registry, check_options, check_values, codecs, encoders, fusions, learners, objectives, option_names, tasks, written
from .schema import Column, Role, Schema, Window
from .stored import Stored, beside
from .table import TableCodec, TabularCodec
from .tokens import Batch, Cells, Encoded, Tokens, pool, pooled, scatter

__all__ = [
    "MISSING",
    "Batch",
    "BundleError",
    "Cells",
    "Codec",
    "Column",
    "DataError",
    "Decision",
    "Draws",
    "Encoded",
    "Encoder",
    "Error",
    "Fusion",
    "Inputs",
    "Layout",
    "Learner",
    "Objective",
    "RecipeError",
    "Registry",
    "Role",
    "Schema",
    "Stored",
    "TableCodec",
    "TabularCodec",
    "Task",
    "Tokens",
    "Value",
    "Window",
    "beside",
    "check_options",
    "check_values",
    "codecs",
    "did_you_mean",
    "encoders",
    "fusions",
    "learners",
    "mean_loss",
    "objectives",
    "option_names",
    "pad",
    "pool",
    "pooled",
    "scatter",
    "tasks",
    "written",
]
