"""What `fit` makes and everything else takes: one folder of JSON and safetensors. No pickle, no code."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import __version__
from . import parts as _parts  # noqa: F401  fills the registries
from .core import Batch, BundleError, Cells, Codec, Column, DataError, RecipeError, Schema, codecs, did_you_mean, encoders, option_names
from .data import Opener, Table, read, windows
from .data.cells import raw_values
from .data.rows import assemble, raw_of, truth
from .ensemble import Ensemble
from .evaluate import RATES, Robustness, checked_rates, curves
from .evaluate import evaluate as score
from .evaluate.picture import draw_learning, need_matplotlib
from .evaluate.robustness import Batches
from .model import Model, members_of, views_of
from .predictions import Predictions

FORMAT = 1
_MANIFEST, _RECIPE, _CODECS, _ENCODERS, _CARD = "manifest.json", "recipe.json", "codecs.json", "encoders.json", "card.json"
_WEIGHTS = "weights.safetensors"
_CHUNK = 256  # rows that go through the model at a time


@dataclass
class Bundle:
    """A fitted model with all that is needed to use it.

    Example:
        bundle = polyfuse.Bundle.load("pets.bundle")
        bundle.predict({"photo": "rex.jpg", "age": 3})     # one answer; cells may be missing
        bundle.predict("new.csv").write("answers.csv")

    Attributes:
        schema: the columns.
        codecs: {column: fitted codec} of inputs and targets.
        model: a Model, or an Ensemble, which can stand in its place.
        recipe: everything that made it, JSON.
        card: what it is: data, metrics, versions, JSON.
    """

    schema: Schema
    codecs: dict[str, Codec]
    model: Any
    recipe: dict[str, Any]
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.views = views_of(self.schema, self.codecs)
        self.targets = [c.name for c in self.schema.having("target")]
        self.model.eval()

    # -- answers ------------------------------------------------------------------------------------------------

    def predict(self, rows: Any, *, base: str | Path | None = None, allow_outside: bool = False, strict: bool = False) -> Any:
        """Answers for one row (a dict gives {target: answer}) or for a table, path or list of dicts (gives Predictions).

        Args:
            base: folder that paths of media start from; by default the folder of the table, or the working folder.
            allow_outside: also read files outside `base`.
            strict: a row with a cell that cannot be read gets an error instead of an answer from its other cells.
        """
        opener = Opener(Path(base) if base else Path.cwd(), allow_outside)
        if isinstance(rows, dict) and not any(
            isinstance(v, list | tuple | np.ndarray) and c.modality in ("number", "category", "text")
            for c in self.schema.having("input")
            if (v := rows.get(c.name)) is not None
        ):
            only = self._answers(self._raws([rows]), 1, opener, strict)[0]
            if only["error"]:
                raise DataError("the row", only["error"])
            return only["answer"]
        if isinstance(rows, list) and not (self.schema.window and rows and self.schema.window.id in rows[0]):
            return self.predict_rows(rows, base=base, allow_outside=allow_outside, strict=strict)
        table = read(rows, base=Path(base) if base else None)
        opener = Opener(table.base, allow_outside)
        made = [r for raws, size in self._chunks(table) for r in self._answers(raws, size, opener, strict)]
        return Predictions(made, self._notes(table), self._carried(table))

    def predict_rows(
        self, rows: list[dict[str, Any]], *, base: str | Path | None = None, allow_outside: bool = False, strict: bool = False
    ) -> Predictions:
        """The one path to an answer: rows as dicts; a cell is a path, bytes, an array or a plain value. Thread-safe."""
        opener = Opener(Path(base) if base else Path.cwd(), allow_outside)
        made: list[dict[str, Any]] = []
        for at in range(0, len(rows), _CHUNK):
            chunk = rows[at : at + _CHUNK]
            made += self._answers(self._raws(chunk), len(chunk), opener, strict)
        return Predictions(made)

    @torch.inference_mode()
    def embed(self, rows: Any, *, base: str | Path | None = None, allow_outside: bool = False) -> np.ndarray:
        """[rows, D] float32: the fused vector of each row of a table, path or list of dicts."""
        table = read(rows if not isinstance(rows, dict) else [rows], base=Path(base) if base else None)
        opener = Opener(table.base or Path.cwd(), allow_outside)
        out = [self.model.embed(self.model.encode(assemble(raws, size, self.views, opener)[0])) for raws, size in self._chunks(table)]
        return torch.cat(out).numpy() if out else np.zeros((0, self.model.width), np.float32)

    def evaluate(self, rows: Any, *, base: str | Path | None = None, allow_outside: bool = False) -> dict[str, Any]:
        """Metrics on labelled rows: {"metrics": {target: {metric: {"value", "low", "high"}}}, "report", "rows", "refused", "notes"}.

        Raises:
            DataError: the table has no target column, or no row with a label.
        """
        table = read(rows, base=Path(base) if base else None)
        self._must_have(table, self.targets)
        outs, truths, refused, count = self.outputs(table, allow_outside)
        metrics, reports = {}, {}
        for target, task in zip(self.targets, self.model.tasks):
            if not len(truths[target].rows):
                raise DataError(f"target '{target}'", f"has no readable label in {table.name}", fix="evaluate needs labelled rows")
            metrics[target] = score(task, outs[target], truths[target])
            reports[target] = task.report(outs[target], truths[target])
        return {"metrics": metrics, "report": reports, "rows": count, "refused": refused, "notes": self._notes(table) + _unseen(truths)}

    def robustness(
        self,
        rows: Any,
        *,
        against: "Bundle | None" = None,
        target: str | None = None,
        most: int = 4000,
        seed: int = 0,
        base: str | Path | None = None,
        allow_outside: bool = False,
        **options: Any,
    ) -> Robustness:
        """The score against the rate of missing, noisy and swapped cells, for each view and each pair of views.

        Args:
            rows: labelled.
            against: the reference of effective robustness, usually a late fusion.
            target: the main one unless named.
            most: rows that are used, drawn at random; 0 = all. The intervals say what fewer cost.
            **options: kinds, rates, views, pairs, draws and progress, as `polyfuse.evaluate.curves` has them.
        """
        checked_rates(options.get("rates", RATES))  # before a long table is read
        if seed < 0:
            raise RecipeError(f"--seed {seed}", "is negative", expected="0 or more")
        target, table = target or self.recipe.get("main") or self.targets[0], read(rows, base=Path(base) if base else None)
        options["views"] = self._there(table, options.get("views"))
        found = []
        for bundle in (self,) if against is None else (self, against):
            if target not in bundle.targets:
                whose = "this bundle" if bundle is self else "the reference"
                raise RecipeError(f"target '{target}'", f"is not what {whose} answers", expected=f"one of {', '.join(bundle.targets)}")
            if bundle is not self:
                options["views"] = [v for v in options.get("views") or self.views if v in bundle.views]
            steps, batches = bundle._labelled(table, target, most, seed, allow_outside)
            found.append(curves(bundle.model, bundle.views, batches, target, seed=seed, steps=steps, **options))
        found[0].notes += self._notes(table)
        return found[0] if against is None else found[0].over(found[1])

    def _there(self, table: Table, wanted: Sequence[str] | None) -> list[str]:
        """The views a table has a column of, of these or of all: one that is nowhere can be harmed no further."""
        there = [v for v, c in self.views.items() if any(r in table.names for m in members_of(c) for r in self.schema[m].reads)]
        lacking = [v for v in wanted or () if v in self.views and v not in there]
        if lacking or not there:
            what = f"has no column of view '{lacking[0]}'" if lacking else "has no column of any view"
            raise DataError(table.name, what, expected=f"columns of {', '.join(self.views)}")
        return list(wanted or there)

    @torch.inference_mode()
    def outputs(self, table: Table, allow_outside: bool = False) -> tuple[dict[str, Tensor], dict[str, Cells], dict[str, int], int]:
        """The tasks' raw outs and the truth of a labelled table: {target: out}, {target: Cells}, {column: refused cells}, rows."""
        opener = Opener(table.base or Path.cwd(), allow_outside)
        outs: dict[str, list[Tensor]] = {t: [] for t in self.targets}
        labels: dict[str, list[Any]] = {t: [] for t in self.targets}
        refused: dict[str, int] = {}
        count = 0
        for raws, size in self._chunks(table, targets=True):
            batch, warnings = assemble(raws, size, self.views, opener)
            for target, out in self.model.answers(self.model.encode(batch)).items():
                outs[target].append(out)
                labels[target] += raws.get(target) or [None] * size
            for text in (w for row in warnings for w in row):
                name = text.split("'")[1]
                refused[name] = refused.get(name, 0) + 1
            count += size
        truths = {t: truth(labels[t], self.codecs[t], opener) for t in self.targets}
        for t, (_, warnings) in truths.items():
            if bad := sum(map(bool, warnings)):
                refused[t] = bad
        return {t: torch.cat(o) if o else torch.zeros(0) for t, o in outs.items()}, {t: c for t, (c, _) in truths.items()}, refused, count

    def _answers(self, raws: dict[str, list[Any]], size: int, opener: Opener, strict: bool) -> list[dict[str, Any]]:
        batch, warnings = assemble(raws, size, self.views, opener)
        with torch.inference_mode():
            outs = self.model.answers(self.model.encode(batch))
            decoded = {t: task.decode(outs[t]) for t, task in zip(self.targets, self.model.tasks)}
        some = torch.stack([batch.cells[v].present() for v in self.views], 1).any(1).tolist()
        rows = []
        for i in range(size):
            error = warnings[i][0] if strict and warnings[i] else None
            answer = {} if error else {t: decoded[t][i] for t in self.targets}
            known = warnings[i] if some[i] else [*warnings[i], "no cell of this row could be used: the answer is that for an unknown row"]
            rows.append({"answer": answer, "warnings": known, "error": error})
        return rows

    # -- rows ---------------------------------------------------------------------------------------------------

    def _inputs(self) -> tuple[Column, ...]:
        return self.schema.having("input")

    def _raws(self, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {c.name: [raw_of(row, c) for row in rows] for c in self._inputs()}

    def _must_have(self, table: Table, targets: Sequence[str]) -> None:
        for target in targets:
            if target not in table.names:
                known, fix = ", ".join(table.names), did_you_mean(target, table.names) or "take labelled rows"
                raise DataError(f"target '{target}'", f"is not a column of {table.name}", expected=f"one of {known}", fix=fix)

    def _labelled(self, table: Table, target: str, most: int, seed: int, allow_outside: bool) -> tuple[int, Batches]:
        """At most so many rows in random order: how many, and batches with one target's labels and the rows' numbers."""
        self._must_have(table, [target])
        count = len(windows(table, self.schema.window)) if self.schema.window else len(table)
        order = np.random.default_rng(seed).permutation(count)[: most or None]
        opener = Opener(table.base or Path.cwd(), allow_outside)

        def batches() -> Batches:
            for at, (raws, size) in zip(range(0, len(order), _CHUNK), self._chunks(table, targets=True, order=order)):
                labels, _ = truth(raws[target], self.codecs[target], opener)
                yield Batch(assemble(raws, size, self.views, opener)[0].cells | {target: labels}, size), order[at : at + size]

        return len(order), batches()

    def _chunks(self, table: Table, targets: bool = False, order: np.ndarray | None = None) -> Iterable[tuple[dict[str, list[Any]], int]]:
        cut = windows(table, self.schema.window) if self.schema.window else None
        order = np.arange(len(cut) if cut is not None else len(table)) if order is None else order
        wanted = [
            c
            for c in self._inputs() + (self.schema.having("target") if targets else ())
            if all(r in table.names for r in c.reads) or (c.sources and any(r in table.names for r in c.reads))
        ]
        for at in range(0, len(order), _CHUNK):
            rows = order[at : at + _CHUNK]
            yield {c.name: list(raw_values(table, c, rows, cut)) for c in wanted}, len(rows)

    def _notes(self, table: Table) -> list[str]:
        notes = list(table.notes)
        for column in self._inputs():
            lost = [r for r in column.reads if r not in table.names]
            if lost:
                hint = did_you_mean(lost[0], table.names)
                told = f"column '{lost[0]}'" + (f" and {len(lost) - 1} more of '{column.name}'" if len(lost) > 1 else "")
                verb = "are" if len(lost) > 1 else "is"
                notes.append(f"{told} {verb} not in {table.name}: missing in every row" + (f" ({hint})" if hint else ""))
        return notes

    def _carried(self, table: Table) -> dict[str, list[Any]]:
        """Ids and order of the rows."""
        names = [n for c in self.schema.columns if c.role in ("id", "group", "time") for n in c.reads if n in table.names]
        if self.schema.window:
            cut = windows(table, self.schema.window)
            names = list(dict.fromkeys([self.schema.window.id, self.schema.window.order, *names]))
            return {n: table.column(n).take(pa.array(cut.target_row)).to_pylist() for n in names if n in table.names}
        return {n: table.column(n).to_pylist() for n in names}

    def plot_learning(self, path: str | Path) -> Path:
        """Draw how fast each view learned: the metric of every epoch with one view shown and with all, as a PNG.

        Raises:
            DataError: the fit had one view only or no held-out rows, or the file cannot be written.
            RecipeError: matplotlib is not installed.
        """
        need_matplotlib()
        if not self.card.get("alone"):
            raise DataError("the learning curves", "were not recorded", expected="a fit of several views with held-out rows")
        try:
            draw_learning(self.card, Path(path))
        except OSError as error:
            raise DataError(f"picture '{path}'", f"cannot be written ({error.strerror})", fix="choose another place") from None
        return Path(path)

    # -- the folder ---------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder beside its place and rename it there: a reader never sees half of one."""
        path = Path(path)
        check_place(path, overwrite)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            states = {name: codec.state() for name, codec in self.codecs.items()}
            _write_json(temporary / _RECIPE, self.recipe)
            _write_json(temporary / _CODECS, states)
            _write_json(temporary / _CARD, self.card)
            _write_json(temporary / _ENCODERS, self.model.configs())
            weights = {k: v.detach().cpu().clone().contiguous() for k, v in self.model.state_dict().items()}
            save_file(weights, temporary / _WEIGHTS)
            files = {f.name: _sha256(f) for f in sorted(temporary.iterdir())}
            _write_json(temporary / _MANIFEST, {"format": FORMAT, "polyfuse": __version__, "files": files})
            old = path.with_name(f"{temporary.name}-old")
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"bundle '{path}'", f"cannot be written ({error})", fix="free room, or choose another place") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Bundle":
        """Raises BundleError where the folder is no bundle, is altered, incomplete or of a newer format."""
        path = Path(path)
        manifest = _checked(path)
        if manifest["format"] > FORMAT:
            raise BundleError(
                f"bundle '{path}'",
                f"has format {manifest['format']}, written by polyfuse {manifest.get('polyfuse')}",
                expected=f"format {FORMAT} or older",
                fix="install that release of polyfuse or a newer one",
            )
        recipe, states, card, configs = (_read_json(path / f) for f in (_RECIPE, _CODECS, _CARD, _ENCODERS))
        try:
            bundle = build(recipe, states, card, configs)
            bundle.model.load_state_dict(load_file(path / _WEIGHTS))
        except RecipeError as error:
            raise BundleError(
                f"bundle '{path}'", f"needs a part that is not here ({error})", fix="load its plugin: --plugin FILE"
            ) from None
        except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
            raise BundleError(f"bundle '{path}'", f"does not fit together ({error})", fix="fit again") from None
        bundle.model.eval()
        return bundle


def check_place(path: Path, overwrite: bool) -> None:
    """Nothing is at `path`, or an old bundle that may go: never a file or a folder with anything else in it; it can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise BundleError(f"bundle '{path}'", f"cannot be written there ({error})", fix="choose another --out") from None
    if not path.exists():
        return
    if not overwrite:
        raise BundleError(f"bundle '{path}'", "exists already", fix="choose another --out, or give --overwrite")
    if not path.is_dir() or (any(path.iterdir()) and not (path / _MANIFEST).is_file()):
        raise BundleError(f"'{path}'", "is no bundle and is not overwritten", fix="choose another --out")


def build(
    recipe: dict[str, Any], states: dict[str, Any], card: dict[str, Any] | None = None, configs: dict[str, Any] | None = None
) -> Bundle:
    """A bundle with untrained weights from a resolved recipe and the codecs' states.

    Args:
        configs: {view: config} of encoders that came from a checkpoint; with it the checkpoint is not needed again.
    """
    schema = Schema.from_json(recipe["schema"])
    parts = {name: {**part, "config": configs[name]} if configs and name in configs else part for name, part in recipe["parts"].items()}
    made = {}
    for column in schema.columns:
        if column.role in ("input", "target"):
            options = recipe["codecs"].get(column.name, {})
            if configs and column.name in configs:
                wanted = encoders.get(parts[column.name]["encoder"]).codec_options(config=configs[column.name])
                options = {k: v for k, v in options.items() if k != "tokenizer"} | wanted
            made[column.name] = codecs.build(column.modality, column.name, **options)
            made[column.name].load_state(states[column.name])
    targets = {c.name: made[c.name] for c in schema.having("target")}
    return Bundle(schema, made, _model(recipe, views_of(schema, made), targets, parts, configs or {}), recipe, card or {})


def _model(
    recipe: dict[str, Any], views: dict[str, Codec], targets: dict[str, Codec], parts: dict[str, Any], configs: dict[str, Any]
) -> Model | Ensemble:
    about = recipe.get("ensemble")
    if not about:
        return Model(views, targets, recipe["width"], recipe["fusion"], parts, recipe.get("objectives"))
    features = {
        v: [{**p, "config": configs[v]} if v in configs and "config" in option_names(encoders.get(p["encoder"])) else p for p in ps]
        for v, ps in about["features"].items()
    }
    return Ensemble(views, targets, recipe["width"], parts, {**about, "features": features})


def _checked(path: Path) -> dict[str, Any]:
    if not (path / _MANIFEST).is_file():
        raise BundleError(
            f"bundle '{path}'",
            "has no manifest.json" if path.is_dir() else "is no folder" if path.exists() else "does not exist",
            expected="a folder that `polyfuse fit` wrote",
            fix="check the path",
        )
    manifest = _read_json(path / _MANIFEST)
    if not isinstance(manifest.get("format"), int) or not isinstance(manifest.get("files"), dict):
        raise BundleError(f"bundle '{path}'", "has a manifest.json that is not ours", fix="fit again")
    if manifest["format"] <= FORMAT:
        for name, digest in manifest["files"].items():
            file = path / name
            if Path(name).name != name or not file.is_file():
                raise BundleError(f"bundle '{path}'", f"lacks its file '{name}'", fix="copy the whole folder again, or fit again")
            if _sha256(file) != digest:
                raise BundleError(
                    f"bundle '{path}'", f"was altered: '{name}' is not what `fit` wrote", fix="copy the folder again, or fit again"
                )
    return manifest


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"file '{path}'", f"cannot be read as JSON ({error})", fix="copy the bundle again, or fit again") from None
    if not isinstance(data, dict):
        raise BundleError(f"file '{path}'", "holds no JSON object", fix="copy the bundle again, or fit again")
    return data


def _unseen(truths: dict[str, Cells]) -> list[str]:
    """A note on labels that no training row had: every answer to them is wrong."""
    counts = {t: int((cells.x["index"] == 0).sum()) for t, cells in truths.items() if "index" in cells.x}
    return [f"{n} labels of '{t}' are classes that training never saw: they count as wrong" for t, n in counts.items() if n]
