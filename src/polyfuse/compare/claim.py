"""The folder that a long call comes back to, and the promise that it belongs to this very call."""

import json
import os
import shutil
from pathlib import Path

from ..core import RecipeError


def claim(folder: Path, name: str, mark: str, overwrite: bool, *, another: str, old: tuple[str, ...]) -> None:
    """Make the folder this call's: `name`.json in it holds the mark of the table and the options.

    Args:
        mark: what differs where the table or the options do.
        another: what the folder is said to hold where its mark is another one.
        old: files and folders in it that go when it is overwritten.
    Raises:
        RecipeError: it holds another call's results and may not be overwritten, or other things, or cannot be written.
    """
    file = folder / f"{name}.json"
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"--out '{folder}'", "is a file", fix="choose another folder")
    if file.is_file():
        try:
            found = json.loads(file.read_text("utf-8")).get("fingerprint")
        except (OSError, ValueError, AttributeError):
            found = None
        if found != mark:
            if not overwrite:
                raise RecipeError(f"--out '{folder}'", f"holds {another}", fix="choose another, or give --overwrite")
            for path in (folder / part for part in old):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    elif folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(f"--out '{folder}'", "holds other things", fix="choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.{os.getpid()}"
        temporary.write_text(json.dumps({"fingerprint": mark}), "utf-8")
        os.replace(temporary, file)
    except OSError as error:
        raise RecipeError(f"--out '{folder}'", f"cannot be written ({error.strerror})", fix="choose another") from None
