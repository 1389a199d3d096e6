"""What a search found: the best options, how far they beat the defaults, which option matters, and the command that uses them."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import DataError
from .journal import Trial

_SHOWN = 10  # trials in the table


@dataclass
class SearchResult:
    """What `search` finds.

    Attributes:
        target, metric, higher: the main target, its metric, whether more of it is better.
        trials: every trial that ended by itself, the defaults first.
        space: {"part.option": what it could be}.
        split: in words, what the score of a trial is measured on.
        over_defaults: {"value", "low", "high"}: by how much the best trial beats the defaults on the same rows, above zero =
            better, with the 95 % interval of the paired bootstrap; None without both.
        importance: {"part.option": its share of what varies}; empty where too few trials tell.
        command: the command that fits with the best options.
        note: what the reader must know (a budget that ended it), or "".
    """

    target: str
    metric: str
    higher: bool
    trials: list[Trial]
    space: dict[str, str]
    split: str
    over_defaults: dict[str, float] | None = None
    importance: dict[str, float] = field(default_factory=dict)
    command: str = ""
    note: str = ""

    @property
    def best(self) -> Trial | None:
        return best_of(self.trials)

    def lines(self) -> list[str]:
        """The best trials as a table, then what they say."""
        ranked = sorted((t for t in self.trials if t.state == "complete"), key=lambda t: -t.value)
        shown = ranked[:_SHOWN] + [t for t in ranked[_SHOWN:] if t.number == 0]
        table = [("trial", self.metric, "s", ""), *((str(t.number), f"{t.score:.4g}", f"{t.seconds:.1f}", _options(t)) for t in shown)]
        widths = [max(len(line[c]) for line in table) for c in range(3)]
        told = ["  ".join([*(cell.rjust(w) for cell, w in zip(line, widths)), line[3]]).rstrip() for line in table]
        failed = [t for t in self.trials if t.state == "failed"]
        counts = f"{len(self.trials)} trials: {len(ranked)} finished"
        for state in ("pruned", "failed"):
            count = sum(t.state == state for t in self.trials)
            counts += f", {count} {state}" * bool(count)
        told += ["", f"{counts}; scored on {self.split}"]
        told += [f"trial {t.number} failed: {t.reason} ({_options(t)})" for t in failed[:3]]
        told += [self._verdict()]
        if self.importance:
            told.append("what matters: " + ", ".join(f"{name} {share:.0%}" for name, share in self.importance.items()))
        return [*told, *([self.note] if self.note else []), "", self.command]

    def _verdict(self) -> str:
        best, gained = self.best, self.over_defaults
        if best is None:
            return "no trial came to its end"
        if best.number == 0:
            return f"no trial is better than the defaults, {self.metric} {best.score:.4g}"
        line = f"best is trial {best.number}, {self.metric} {best.score:.4g} with {_options(best)}"
        if gained is None:
            return line
        value = f"better than the defaults by {gained['value']:.3g}"
        if not math.isfinite(gained["low"]):
            return f"{line}: {value}"
        value += f" [{gained['low']:.3g}, {gained['high']:.3g}]"
        many = f", of {len(self.trials)} trials the luckiest too: expect less of new rows" if gained["low"] > 0 else ", which may be chance"
        return f"{line}: {value}{many}"

    def to_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "target": self.target,
            "metric": self.metric,
            "higher": self.higher,
            "split": self.split,
            "best": None if best is None else best.to_json(),
            "over_defaults": self.over_defaults and {k: v if math.isfinite(v) else None for k, v in self.over_defaults.items()},
            "importance": self.importance,
            "space": self.space,
            "command": self.command,
            "note": self.note,
            "trials": [t.to_json() for t in self.trials],
        }

    def table(self) -> list[dict[str, Any]]:
        """One flat dict a trial, as in trials.csv."""
        rows = []
        for t in self.trials:
            score = t.score if math.isfinite(t.score) else None
            row = {"trial": t.number, "state": t.state, self.metric: score, "seconds": round(t.seconds, 2)}
            rows.append(row | {key: t.options.get(key) for key in self.space} | {"reason": t.reason})
        return rows

    def write(self, folder: str | Path) -> Path:
        """trials.csv and best.json."""
        folder, rows = Path(folder), self.table()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "trials.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["trial", "state", self.metric, "seconds", *self.space, "reason"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            (folder / "best.json").write_text(json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise DataError(f"folder '{folder}'", f"cannot be written ({error.strerror})", fix="choose another") from None
        return folder


def best_of(trials: list[Trial]) -> Trial | None:
    """The finished trial with the best score, the earlier one of two."""
    return max((t for t in trials if t.state == "complete"), key=lambda t: t.value, default=None)


def _options(trial: Trial) -> str:
    return " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.options.items()) or "the defaults"
