"""polyfuse as scikit-learn estimators: for pipelines, cross-validation and searches on tables of mixed columns.

    from polyfuse import PolyfuseClassifier
    cross_val_score(PolyfuseClassifier(random_state=0), frame, labels)

Importing this imports scikit-learn, which is slow; `import polyfuse` alone does not.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import torch as tensors
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, assert_all_finite, check_is_fitted, validate_data

from .bundle import Bundle
from .core import DataError
from .core.progress import Progress
from .data import Store, Table, read
from .fit import fit
from .learners.design import Design
from .matrix import describe, matrix, names, new_design


class _Estimator(BaseEstimator):
    """What the three share: tables in, a bundle kept, a pickle made of the bundle's own files."""

    bundle_: Bundle
    fusion: str | None
    columns: dict[str, str] | None
    join: dict[str, tuple[str, list[str]]] | None
    size: str
    time: float | str | None
    settings: dict[str, Any] | None
    base: str | Path | None
    store: str | Path | None
    random_state: Any
    device: str | None
    threads: int | None
    verbose: bool

    def _keep(self, given: dict[str, Any]) -> None:
        """Every argument of a constructor, its `locals()`, as it was given: scikit-learn asks for no less and no more."""
        for name, value in given.items():
            if name != "self":
                setattr(self, name, value)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The bundle as the files it is saved in: nothing of it is pickled but their bytes."""
        state = dict(super().__getstate__())
        if "bundle_" in state:
            with tempfile.TemporaryDirectory(prefix="polyfuse-") as folder:
                saved = state["bundle_"].save(Path(folder) / "bundle")
                state["bundle_"] = {file.name: file.read_bytes() for file in sorted(saved.iterdir())}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "bundle_" in state:
            with tempfile.TemporaryDirectory(prefix="polyfuse-") as folder:
                for name, data in state["bundle_"].items():
                    (Path(folder) / name).write_bytes(data)
                state = {**state, "bundle_": Bundle.load(folder)}
        super().__setstate__(state)

    def _table(self, X: Any, y: Any = "no_validation", *, reset: bool) -> Table:
        """X as a table. Its columns are known by their place, and named as in `fit`; those of an array are x0, x1, ..."""
        framed = hasattr(X, "__arrow_c_stream__") and len(X.shape) == 2
        if not framed:
            X = check_array(X, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1, estimator=self)
        validate_data(self, X, y, reset=reset, skip_check_array=True)
        names = list(getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)]))
        if framed:
            X = X.reset_index(drop=True) if hasattr(X, "reset_index") else X  # a named index is no column
            arrow = read(X).arrow.rename_columns(names)
        else:
            arrow = read({name: _cells(X[:, i]) for i, name in enumerate(names)}).arrow
        if not len(arrow):
            raise DataError("X", "has no rows", expected="at least one")
        if reset and all(column.null_count == len(arrow) for column in arrow.columns):
            raise DataError("X", "holds nothing to learn from: every cell is missing", expected="some values")
        return Table(arrow, "X", Path(self.base or Path.cwd()))

    def _columns(self, table: Table) -> dict[str, str]:
        """{column: modality} where it is not to be guessed: numbers of an array, fractions of a frame, and what the user says."""
        sure = pa.types.is_floating if hasattr(self, "feature_names_in_") else _is_number
        return {f.name: "number" for f in table.arrow.schema if sure(f.type)} | dict(self.columns or {})

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _learn(self, table: Table, cells: Any, modality: str, task: str, preset: str | None, sample_weight: Any = None) -> Bundle:
        """`fit` on the table and one more column, the target; rows of weight 0 are as good as not there."""
        target, weight = _free("target", table.names), None
        columns = {**self._columns(table), target: modality}
        arrow = table.arrow.append_column(target, pa.array(cells))
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, np.empty(len(table)), ensure_non_negative=True)
            weight = _free("weight", arrow.column_names)
            arrow = arrow.append_column(weight, pa.array(weights)).filter(pa.array(weights > 0))
        with _store(self.store) as store:
            return fit(
                Table(arrow, table.name, table.base),
                target,
                preset=preset,
                fusion=self.fusion,
                task=task,
                columns=columns,
                join=self.join,
                group=getattr(self, "group", None),
                time_column=getattr(self, "time_column", None),
                weight=weight,
                size=self.size,
                time=self.time,
                seed=self._seed(),
                device=self.device,
                threads=self.threads,
                quiet=not self.verbose,
                set=self.settings,
                store=store,
            )


class _Predictor(_Estimator):
    preset: str

    def __init__(
        self,
        preset: str = "fast",
        *,
        fusion: str | None = None,
        columns: dict[str, str] | None = None,
        join: dict[str, tuple[str, list[str]]] | None = None,
        group: str | None = None,
        time_column: str | None = None,
        size: str = "m",
        time: float | str | None = None,
        settings: dict[str, Any] | None = None,
        base: str | Path | None = None,
        store: str | Path | None = None,
        random_state: Any = None,
        device: str | None = None,
        threads: int | None = None,
        verbose: bool = False,
    ):
        self._keep(locals())

    def _out(self, X: Any) -> Any:
        """The task and its raw out for each row."""
        check_is_fitted(self)
        outs, _, _, _ = self.bundle_.outputs(self._table(X, reset=False))
        return self.bundle_.model.tasks[0], outs[self.bundle_.targets[0]]


class PolyfuseClassifier(ClassifierMixin, _Predictor):
    """Classes from a table of mixed columns, as a scikit-learn classifier.

    X is a data frame (pandas, polars, Arrow) with columns of any modality, or an array; cells may be missing. Columns of an
    array are called x0, x1, ... and numbers among them are taken as numbers, as are fractions of a frame; what every other
    column is, `look` finds. `polyfuse.fit` has more: several targets, windows, validation rows, checkpoints to resume.

    Args:
        preset: "fast", "good" or "best", as `polyfuse.fit` has them.
        fusion: train one network with this fusion instead; `preset` then plays no part.
        columns: {column: modality}, overruling the guess; "ignore" leaves a column out.
        join: {name: (modality, [columns or globs])}: one cell of several columns.
        group, time_column: columns by which the folds inside `fit` are cut.
        size: "s", "m" or "l": width of networks.
        time: budget of a fit, seconds or "10m". Fits that come near it may differ from one to the next.
        settings: {"part.option": value}, the `set` of `polyfuse.fit`.
        base: folder that paths of media start from; the working folder by default.
        store: folder to keep prepared cells, features and finished steps in, for fits on the same rows to come; by default
            they go when `fit` ends, since cross-validation would fill a disk with them.
        random_state: an int for the same result every time.
        device: of networks, "cpu" or "cuda"; found by default.
        threads: as `polyfuse.fit` has it.
        verbose: tell on standard error what is done.

    Attributes:
        bundle_: all that was learned: `bundle_.save(path)`, `bundle_.card`, `bundle_.robustness` ...
        classes_: as they were given, sorted.
        n_features_in_, feature_names_in_: of X.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(80, 2)).astype("float32")
        >>> y = np.where(X[:, 0] > 0, "up", "down")
        >>> model = PolyfuseClassifier(random_state=0).fit(X, y)
        >>> model.predict([[2.0, 0.0], [-2.0, np.nan]]).tolist()
        ['up', 'down']
    """

    classes_: np.ndarray

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "PolyfuseClassifier":
        """Learn.

        Args:
            sample_weight: [rows] of each row in the losses; 0 leaves it out.
        Raises:
            ValueError: fewer than two classes; X or y is not what scikit-learn takes.
            DataError, RecipeError: as `polyfuse.fit`.
        """
        table = self._table(X, y, reset=True)
        y = _labels(y, len(table))
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, '{self.classes_[0]}': {type(self).__name__} needs at least 2 classes")
        task = "binary" if len(self.classes_) == 2 else "multiclass"
        self.bundle_ = self._learn(table, index, "category", task, None if self.fusion else self.preset, sample_weight)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """[rows, classes] probabilities, in the order of `classes_`."""
        task, out = self._out(X)
        found = np.zeros((len(out), len(self.classes_)))
        found[:, [int(v) for v in task.values]] = task.probability(task.tempered(out.double())).numpy()
        return found

    def predict(self, X: Any) -> np.ndarray:
        """[rows] the class that is answered to each: the most probable one, unless `settings` have a threshold."""
        task, out = self._out(X)
        numbers = np.array([int(v) for v in task.values])
        best = task.decided(task.probability(task.tempered(out.double())).numpy())
        return self.classes_[numbers[best]]


class PolyfuseRegressor(RegressorMixin, _Predictor):
    """A number, or several, from a table of mixed columns, as a scikit-learn regressor.

    X and all parameters are those of `PolyfuseClassifier`. y may have several columns, which are learned together.

    Attributes:
        bundle_: all that was learned.
        n_features_in_, feature_names_in_: of X.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(80, 2))
        >>> model = PolyfuseRegressor(random_state=0).fit(X, 10 + X[:, 0])
        >>> model.predict([[1.0, 0.0]]).round().tolist()
        [11.0]
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "PolyfuseRegressor":
        """Learn.

        Args:
            y: [rows] or [rows, outputs].
            sample_weight: [rows] of each row in the losses; 0 leaves it out.
        """
        table = self._table(X, y, reset=True)
        cells, modality = _amounts(y, len(table))
        self._flat = modality == "number"
        self.bundle_ = self._learn(table, cells, modality, "regression", None if self.fusion else self.preset, sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """[rows], or [rows, outputs] where y had two dimensions."""
        task, out = self._out(X)
        found = np.asarray(task.codec.restore(out.double()), np.float64)
        return found[:, 0] if self._flat else found


class PolyfuseTransformer(TransformerMixin, _Estimator):
    """A table of mixed columns as numbers, for any scikit-learn estimator.

    By default every column is described by an encoder that needs no training, and y is not looked at: numbers standardised,
    with their ranks; a column of 0 and 1 for each value of a category; descriptors of texts, images, sound, series; flags for
    cells that some rows lack; nothing that is constant. With `fusion` a network is trained on y, and each row becomes its
    fused vector, which is shorter and knows the target.

    Args:
        fusion: None, or the fusion of a network to train.
        task: with `fusion`, "multiclass" or "regression"; found from y by default.
        columns, join, size, time, settings, base, store, random_state, device, threads, verbose: as `PolyfuseClassifier`.

    Attributes:
        bundle_: all that was learned; without `fusion` it predicts nothing.
        n_features_in_, feature_names_in_: of X.

    Example:
        >>> import pandas as pd
        >>> X = pd.DataFrame({"size": [1.0, 2.0, 3.0, None] * 5, "colour": ["red", "red", "blue", "blue"] * 5})
        >>> PolyfuseTransformer().fit(X).get_feature_names_out().tolist()
        ['size_0', 'size_1', 'colour_blue', 'colour_red', 'size_there']
    """

    task: str | None
    _design: Design | None

    def __init__(
        self,
        fusion: str | None = None,
        *,
        task: str | None = None,
        columns: dict[str, str] | None = None,
        join: dict[str, tuple[str, list[str]]] | None = None,
        size: str = "m",
        time: float | str | None = None,
        settings: dict[str, Any] | None = None,
        base: str | Path | None = None,
        store: str | Path | None = None,
        random_state: Any = None,
        device: str | None = None,
        threads: int | None = None,
        verbose: bool = False,
    ):
        self._keep(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.fusion is not None
        tags.transformer_tags.preserves_dtype = []  # float32, whatever comes in
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if state.get("_design") is not None:
            state["_design"] = tensors.save(state["_design"].state_dict())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state.get("_design") is not None:
            design = new_design(self.bundle_)
            design.load_state_dict(tensors.load(state["_design"]))
            self._design = design.eval()

    def fit(self, X: Any, y: Any = None) -> "PolyfuseTransformer":
        """Fit the encoders, or with `fusion` train the network on y."""
        table = self._table(X, y if self.fusion else "no_validation", reset=True)
        if not self.fusion:
            with _store(self.store) as store:
                self.bundle_, self._design = describe(
                    table,
                    store,
                    Progress(not self.verbose),
                    columns=self._columns(table),
                    join=self.join,
                    settings=self.settings,
                    size=self.size,
                    seed=self._seed(),
                    threads=self.threads,
                    device=self.device,
                )
            return self
        task = self.task or ("regression" if type_of_target(y).startswith("continuous") else "multiclass")
        if task == "regression":
            cells, modality = _amounts(y, len(table))
        else:
            cells, modality = np.unique(_labels(y, len(table)), return_inverse=True)[1], "category"
        self.bundle_, self._design = self._learn(table, cells, modality, task, None), None
        return self

    def transform(self, X: Any) -> np.ndarray:
        """[rows, features] float32."""
        check_is_fitted(self)
        table = self._table(X, reset=False)
        return self.bundle_.embed(table) if self._design is None else matrix(self.bundle_, self._design, table)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """COLUMN_0 ... of numbers and descriptors, COLUMN_VALUE of categories, COLUMN_there of flags; with `fusion` fused_0 ..."""
        check_is_fitted(self)
        fused = [f"fused_{i}" for i in range(self.bundle_.model.width)]
        return np.array(fused if self._design is None else names(self.bundle_, self._design), object)


def _cells(column: np.ndarray) -> Any:
    """A column of an array as Arrow likes it."""
    return pa.array(column, from_pandas=True) if column.dtype.kind in "iuf" else column


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _labels(y: Any, rows: int) -> np.ndarray:
    y = column_or_1d(y, warn=True)
    check_consistent_length(np.empty(rows), y)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def _amounts(y: Any, rows: int) -> tuple[Any, str]:
    """-> the cells of a target column and their modality: numbers, or a list of them where y has two dimensions."""
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    check_consistent_length(np.empty(rows), y)
    return (y, "number") if y.ndim == 1 else (list(y), "vector")


def _free(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "_"
    return name


@contextmanager
def _store(folder: str | Path | None) -> Iterator[Store]:
    """The store in this folder, or one that goes at the end."""
    if folder is not None:
        yield Store(folder)
        return
    with tempfile.TemporaryDirectory(prefix="polyfuse-", ignore_cleanup_errors=True) as temporary:
        yield Store(temporary)
