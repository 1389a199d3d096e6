"""Tables in, batches out: read, infer the schema, split, store. Knows codecs only through the registry."""

from .batches import Dataset, Joined, orders
from .cells import Opener, digest, raw_values
from .infer import ColumnReport, Looked, look, schema_from_file
from .prepare import Source, fit_codec, prepare, prepare_table, prepare_tabular, room
from .split import Fold, Split, Splitter, hold_out
from .store import Features, Prepared, PreparedTable, Store, size_text
from .table import Table, read, write
from .window import WindowIndex, parse_window, windows

__all__ = [
    "ColumnReport",
    "Dataset",
    "Features",
    "Fold",
    "Joined",
    "Looked",
    "Opener",
    "Prepared",
    "PreparedTable",
    "Source",
    "Split",
    "Splitter",
    "Store",
    "Table",
    "WindowIndex",
    "digest",
    "fit_codec",
    "hold_out",
    "look",
    "orders",
    "parse_window",
    "prepare",
    "prepare_table",
    "prepare_tabular",
    "raw_values",
    "read",
    "room",
    "schema_from_file",
    "size_text",
    "windows",
    "write",
]
