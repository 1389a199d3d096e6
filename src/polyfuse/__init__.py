"""Multimodal learning from a table: text, images, sound, video, sensors and numbers together.

    import polyfuse as pf
    bundle = pf.fit("train.csv", "label")
    bundle.predict("new.csv").write("answers.csv")

The names below are loaded when they are first used, so that `import polyfuse` takes no time.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Bundle": "bundle",
    "Predictions": "predictions",
    "fit": "fit",
    "look": "look",
    "compare": "compare",
    "Comparison": "compare",
    "search": "search",
    "SearchResult": "search",
    "distil": "compress",
    "load_plugin": "plugins",
    "Column": "core",
    "Schema": "core",
    "Window": "core",
    "Error": "core",
    "DataError": "core",
    "RecipeError": "core",
    "BundleError": "core",
    "Table": "data",
    "read": "data",
    "Store": "data",
    "PolyfuseClassifier": "estimators",
    "PolyfuseRegressor": "estimators",
    "PolyfuseTransformer": "estimators",
}
__all__ = [
    "BundleError",
    "Bundle",
    "Column",
    "Comparison",
    "DataError",
    "Error",
    "PolyfuseClassifier",
    "PolyfuseRegressor",
    "PolyfuseTransformer",
    "Predictions",
    "RecipeError",
    "Schema",
    "SearchResult",
    "Store",
    "Table",
    "Window",
    "__version__",
    "compare",
    "distil",
    "fit",
    "load_plugin",
    "look",
    "read",
    "search",
]

if TYPE_CHECKING:
    from .bundle import Bundle
    from .compare import Comparison, compare
    from .compress import distil
    from .core import BundleError, Column, DataError, Error, RecipeError, Schema, Window
    from .data import Store, Table, read
    from .estimators import PolyfuseClassifier, PolyfuseRegressor, PolyfuseTransformer
    from .fit import fit
    from .look import look
    from .plugins import load_plugin
    from .predictions import Predictions
    from .search import SearchResult, search


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'polyfuse' has no attribute {name!r}")
    import_module(".parts", __name__)
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """Importing `polyfuse.fit` would put that module in place of the function `fit`: the function stays."""
        super().__setattr__(name, getattr(value, name) if name in _WHERE and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
