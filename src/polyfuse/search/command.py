"""The command line that does again what a search found best."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core import Schema, Window
from .space import Settings

_SAME = ("target", "ignore", "join", "window", "group", "time_column", "split_column", "weight", "task", "main", "absent", "size", "seed")
_OTHER = {"columns": "column", "objectives": "objective", "schema": "schema"}
_USUAL = {"size": "m", "seed": 0}


def command(asked: dict[str, Any], chosen: Settings) -> str:
    """The command line that fits with these options; of a learner it is a search of one trial, which fits what is set.

    Args:
        asked: the arguments of the search.
        chosen: what was set, and the best options.
    """
    rows, learner = asked["rows"], asked["learner"]
    words = ["polyfuse", "search" if learner else "fit", str(rows) if isinstance(rows, str | Path) else "TABLE"]
    words += ["--learner", learner] if learner else ["--fusion", asked["fusion"] or "concat"]
    for argument in (*_SAME, *_OTHER):
        if asked[argument] != _USUAL.get(argument):
            for text in _given(argument, asked[argument]):
                words += ["--" + _OTHER.get(argument, argument).replace("_", "-"), text]
    for part, options in chosen.items():
        for option, value in options.items():
            words += ["--set", f"{part}.{option}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--trials", "1", "--fit"] if learner else ["--out"]
    return shlex.join([*words, str(asked["fit_to"] or "BUNDLE")])


def _given(argument: str, value: Any) -> list[str]:
    """What stands on the command line after an option, once for each time it is given."""
    if value is None or isinstance(value, Schema):
        return [] if value is None else ["schema.json"]
    if isinstance(value, Window):
        return [",".join(f"{name}={v}" for name, v in asdict(value).items())]
    if isinstance(value, dict):
        if argument == "join":
            return [f"{name}={modality}:{','.join(sources)}" for name, (modality, sources) in value.items()]
        return [f"{name}={v['weight'] if isinstance(v, dict) else v}" for name, v in value.items()]
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]
