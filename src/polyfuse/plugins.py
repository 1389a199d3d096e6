"""A user's own parts: a file given with --plugin, or a package that has the entry point `polyfuse.parts`.

Loading a plugin runs its code, so a plugin is only ever named by the user; nothing in a bundle can name one.
"""

import hashlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from .core import RecipeError

_loaded = False


def load_plugin(path: str | Path) -> ModuleType:
    """Run a file that registers parts (`@codecs("radar")`, `@fusions("mine")` ...).

    Raises:
        RecipeError: no such file, or it fails while it is loaded.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise RecipeError(f"plugin '{path}'", "is not a file", expected="a Python file that registers parts")
    name = f"polyfuse_plugin_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"plugin '{path}'", "is not Python", expected="a file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, TypeError, AttributeError) as error:
        del sys.modules[name]
        raise RecipeError(f"plugin '{path}'", f"cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def load_entry_points() -> None:
    """Once a process: installed packages may bring parts under the entry point group `polyfuse.parts`."""
    global _loaded
    if not _loaded:
        _loaded = True
        for point in entry_points(group="polyfuse.parts"):
            point.load()
