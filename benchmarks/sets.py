"""The real data sets: their columns, what is measured on them, and what has to be reached.

Each lies in a folder of its own (train.csv, test.csv, media). Inputs are exactly the columns named here: no other column
of a file can leak into a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from measures import MEASURES, Answers

import polyfuse as pf


def head(path: Path, rows: int | None) -> pf.Table:
    """The table, or its first rows."""
    table = pf.read(path)
    return table if rows is None else table.take(np.arange(min(rows, len(table))))


def classified(bundle: pf.Bundle, test: pf.Table) -> Answers:
    target = bundle.targets[0]
    answers = [row["answer"][target] for row in bundle.predict(test)]
    places = {value: at for at, value in enumerate(answers[0]["probability"])}
    truth = [places.get(str(value), -1) for value in test.column(target).to_pylist()]
    said = np.array([list(answer["probability"].values()) for answer in answers])
    return Answers(said, np.array(truth), np.array([places[answer["value"]] for answer in answers]))


def last_cycles(bundle: pf.Bundle, test: pf.Table) -> Answers:
    """At each engine's last cycle, against the true remaining life, not the capped one that is learned."""
    unit, cycle, rul, last = (test.column(c).to_pylist() for c in ("unit", "cycle", "rul", "is_last"))
    truth = {(u, c): float(r) for u, c, r, end in zip(unit, cycle, rul, last) if end == "1"}
    answers = bundle.predict(test)
    said = dict(zip(zip(answers.carried["unit"], answers.carried["cycle"]), answers.values()))
    return Answers(np.array([said[at] for at in truth]), np.array(list(truth.values())))


# -- networks -----------------------------------------------------------------------------------------------------

LETTERS = ("margin", "shape", "texture")


def accuracy(bundle: pf.Bundle, folder: Path, rows: int | None) -> float:
    found = bundle.evaluate(head(folder / "test.csv", rows))["metrics"]
    return next(iter(found.values()))["accuracy"]["value"]


def last_cycle_rmse(bundle: pf.Bundle, folder: Path, rows: int | None) -> float:
    return MEASURES["RMSE"].value(last_cycles(bundle, pf.read(folder / "test.csv")))


@dataclass(frozen=True)
class Set:
    """One data set for a network by the name of its fusion.

    Args:
        columns: what the model may see, and the target; nothing else is read.
        bar: what `measure` must reach, at least or (with `less`) at most.
        known: figures to compare with, for the reader.
    """

    columns: tuple[pf.Column, ...]
    measure: Callable[[pf.Bundle, Path, int | None], float]
    unit: str
    bar: float
    known: str
    less: bool = False
    fusion: str = "concat"
    window: pf.Window | None = None
    val: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    size: str = "m"


SETS = {
    "av_digits": Set(
        (pf.Column("image", "image"), pf.Column("audio", "audio"), pf.Column("label", "category", role="target")),
        accuracy,
        "accuracy",
        0.86,
        "naive fusion .840, best single .653, a 60-line script .857",
    ),
    "easy_vqa": Set(
        (pf.Column("image", "image"), pf.Column("question", "text"), pf.Column("answer", "category", role="target")),
        accuracy,
        "accuracy",
        0.98,
        "published .995; a quick script with a product .9999, with concat .878",
        fusion="multiply",
        val=False,
        # every word of a question and every colour decides: none is hidden or changed
        settings={"question.drop": 0, "image.augment": 0, "train.epochs": 6},
    ),
    "leaf100": Set(
        (
            pf.Column("image", "image"),
            *(pf.Column(view, "vector", sources=tuple(f"{view}{i}" for i in range(1, 65))) for view in LETTERS),
            pf.Column("species", "category", role="target"),
        ),
        accuracy,
        "accuracy",
        0.97,
        "all columns naively .983, views alone .60 to .76",
    ),
    "cmapss_fd001": Set(
        (
            pf.Column("sensors", "series", sources=tuple([f"setting{i}" for i in (1, 2, 3)] + [f"s{i:02}" for i in range(1, 22)])),
            pf.Column("unit", "category", role="group"),
            pf.Column("rul125", "number", role="target"),
        ),
        last_cycle_rmse,
        "RMSE",
        14.5,
        "published LSTM 14.93, CNN 16.97; a quick GRU 14.7",
        less=True,
        window=pf.Window(id="unit", order="cycle", length=40),
        val=False,
        settings={
            "sensors.encoder": "series-gru",
            "sensors.last": True,
            "sensors.depth": 1,
            "sensors.dropout": 0.3,
            "fusion.dropout": 0.3,
            "sensors.augment": 2.0,
            "train.epochs": 6,
        },
        size="s",
    ),
}


# -- presets ------------------------------------------------------------------------------------------------------


def naive_fusion(train: pf.Table, test: pf.Table, columns: Sequence[pf.Column]) -> Answers:
    """By hand with scikit-learn: words to a logistic regression, the other columns to boosted trees, the mean of both."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    sides = [table.arrow.to_pandas() for table in (train, test)]
    (target,) = (c.name for c in columns if c.role == "target")
    y, truth = (side[target].astype(int).to_numpy() for side in sides)
    texts = [side["title"].fillna("") + " " + side["review_text"].fillna("") for side in sides]
    words = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True), LogisticRegression(C=3.0, max_iter=1000))
    categories = [c.name for c in columns if c.modality == "category" and c.role == "input"]
    numbers = [c.name for c in columns if c.modality == "number" and c.role == "input"]
    for side in sides:
        side[numbers] = side[numbers].astype(float)
    encoded = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), categories), ("passthrough", numbers)
    )
    trees = make_pipeline(encoded, HistGradientBoostingClassifier(categorical_features=list(range(len(categories))), random_state=0))
    spoken = words.fit(texts[0], y).predict_proba(texts[1])
    return Answers((spoken + trees.fit(sides[0], y).predict_proba(sides[1])) / 2, truth)


@dataclass(frozen=True)
class Case:
    """One data set under the presets.

    Args:
        folder: of the set.
        columns: what a model may see, and the target; nothing else is read.
        bars: {preset: {measure: what it must reach}}; by the first measure the answer is held against its best single modality.
        told: what the reader has to know of the inputs, and figures to compare with.
        ask: a bundle's answers to the test rows.
        settings: what the measures ask of the bundle, as `fit` takes it in `set`.
        pretrained: {preset: text columns whose encoder is then also a frozen MiniLM}.
        naive: a fusion by hand, which the measures must not be below beyond two standard errors.
        no_gain: the verdict must be that no gain from fusing is shown.
    """

    folder: str
    columns: tuple[pf.Column, ...]
    bars: dict[str, dict[str, float]]
    told: str
    ask: Callable[[pf.Bundle, pf.Table], Answers] = classified
    window: pf.Window | None = None
    settings: dict[str, str] = field(default_factory=dict)
    pretrained: dict[str, str] = field(default_factory=dict)
    naive: Callable[[pf.Table, pf.Table, Sequence[pf.Column]], Answers] | None = None
    no_gain: bool = False


def numbers(*names: str) -> tuple[pf.Column, ...]:
    return tuple(pf.Column(name, "number") for name in names)


def categories(*names: str) -> tuple[pf.Column, ...]:
    return tuple(pf.Column(name, "category") for name in names)


CLOTHING = (
    pf.Column("title", "text"),
    pf.Column("review_text", "text"),
    *categories("division_name", "department_name", "class_name"),
    *numbers("age", "positive_feedback_count"),
)
LAGS = [f"{name}_lag{day}" for day in range(1, 6) for name in ("movement", "open", "high", "low", "close", "volume")]

CASES = {
    "av_digits": Case(
        "av_digits",
        SETS["av_digits"].columns,
        {"fast": {"accuracy": 0.86}, "good": {"accuracy": 0.885}},
        "naive fusion .840, best single .653",
    ),
    "womens_clothing_a": Case(
        "womens_clothing",
        (*CLOTHING, *numbers("rating"), pf.Column("recommended", "category", role="target")),
        {"fast": {"F1": 0.0, "PR-AUC": 0.0}, "good": {"F1": 0.967, "PR-AUC": 0.9965}},
        "`rating` is an input, and nearly gives the answer away; `threshold=f1`; `good` has a frozen MiniLM; published F1 .957-.968, "
        "PR-AUC .992-.995",
        settings={"recommended.threshold": "f1"},
        pretrained={"good": ("title", "review_text")},
        naive=naive_fusion,
    ),
    "womens_clothing_b": Case(
        "womens_clothing",
        (*CLOTHING, *categories("recommended"), pf.Column("rating", "category", role="target")),
        {"fast": {"AUROC": 0.890}, "good": {"AUROC": 0.905}},
        "`recommended` is an input, as in MulTaBench; naive fusion .883, published on another sample .893 to .918",
        pretrained={"good": ("title", "review_text")},
    ),
    "leaf100": Case(
        "leaf100",
        SETS["leaf100"].columns,
        {"fast": {"accuracy": 0.985}, "good": {"accuracy": 0.99}},
        "naive fusion .983, views alone .60 to .76",
    ),
    "cmapss_fd001": Case(
        "cmapss_fd001",
        (*SETS["cmapss_fd001"].columns, *numbers("cycle")),
        {"fast": {"RMSE": 13.0, "NASA score": 236.0}, "good": {"RMSE": 12.3}},
        "an engine's age, `cycle`, is an input beside its last 60 cycles; boosting on statistics of 30 cycles 13.03 and 236, CNN 16.97",
        ask=last_cycles,
        window=pf.Window(id="unit", order="cycle", length=60),
    ),
    "grocery_store": Case(
        "grocery_store",
        (pf.Column("image", "image"), pf.Column("class_id", "category", role="target")),
        {"fast": {"accuracy": 0.45}, "good": {"accuracy": 0.52}},
        "image alone, 81 classes, nothing pretrained; gradients and colours with an SVM .234",
    ),
    "stocknet": Case(
        "stocknet",
        (
            pf.Column("text", "text"),
            *categories("sector", "stock"),
            *numbers(*LAGS),
            pf.Column("date", "time", role="time"),
            pf.Column("label", "category", role="target"),
        ),
        {"fast": {"accuracy": 0.51}, "good": {"accuracy": 0.51}},
        "folds by `date`; naive fusion .515, always the larger class .513",
        no_gain=True,
    ),
}
