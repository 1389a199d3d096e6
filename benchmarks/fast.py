"""How long a fit under a preset takes, whole commands from process start to end, and how much memory it needs.

    python benchmarks/fast.py [--quick] [--data FOLDER] [--only fast good memory]

fast: 18,788 reviews, text and table, with `--preset fast` and a cold store; the same command once more, and with another
seed; and the same steps written with scikit-learn (BY_HAND): as many terms, directions, members, folds and rounds, as many
strengths that a linear model is tried with, members weighed by greedy selection, and the interval of what fusing gains. Every
command has two threads. good: 4,800 digits, seen and heard, with `--preset good`. memory: 200,000 reviews, no two with the
same words in the same order, `fast` with as much time as it wants, so that no member is left out.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from memory import peak_mb
from result import ROOT, Report, arguments, middle, ratio
from sets import CASES, Case, head

import polyfuse as pf
from polyfuse.data import write

SECTIONS = ("fast", "good", "memory")
THREADS = "2"
MANY = 200_000

BY_HAND = """
import sys
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack
from sklearn.compose import make_column_transformer
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

data = pd.read_csv(sys.argv[1])
y = data["recommended"].to_numpy()
texts = [data[name].fillna("") for name in ("title", "review_text")]
categories = ["division_name", "department_name", "class_name"]
numbers = ["age", "positive_feedback_count", "rating"]
count = dict(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
terms = [TfidfVectorizer(max_features=20_000, **count).fit_transform(text) for text in texts]
words = [TfidfVectorizer(max_features=10_000, **count).fit_transform(text) for text in texts]
words = [TruncatedSVD(min(256, *found.shape), n_iter=3, random_state=0).fit_transform(found).astype(np.float32) for found in words]
hot = make_column_transformer((OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories), ("passthrough", numbers))
codes = make_column_transformer((OrdinalEncoder(), categories), ("passthrough", numbers))
hot, codes = (t.fit_transform(data).astype(np.float32) for t in (hot, codes))
boost = HistGradientBoostingClassifier(max_iter=300, max_leaf_nodes=15, early_stopping=True, n_iter_no_change=15, random_state=0)
line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
strengths = {"logisticregression__C": np.logspace(-4, 0, 7)}
line = GridSearchCV(line, strengths, scoring="neg_log_loss", cv=StratifiedShuffleSplit(1, test_size=0.2, random_state=0))
folds = StratifiedKFold(3, shuffle=True, random_state=0)
sparse = GridSearchCV(LogisticRegression(max_iter=1000), {"C": np.logspace(-1, 1, 4)}, scoring="neg_log_loss", cv=line.cv)
both = hstack([*terms, csr_matrix(0.5 * StandardScaler().fit_transform(hot))]).tocsr()
lines, others = [(line, x) for x in (*words, hot, np.hstack([*words, hot]))], [(boost, codes), *((sparse, x) for x in (*terms, both))]
said = []
for model, x in (*lines, *others):
    said.append(cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1])
    model.fit(x, y)
    print(type(model).__name__, x.shape, roc_auc_score(y, said[-1]))
said, rng = np.stack(said), np.random.default_rng(0)
weights = np.zeros(len(said))
for bag in range(8):
    rows = rng.integers(len(y), size=6000)
    total, counts = np.zeros(len(rows)), np.zeros(len(said))
    for count in range(1, 26):
        p = np.where(y[rows] == 1, (total + said[:, rows]) / count, 1 - (total + said[:, rows]) / count)
        best = np.argmax(np.log(p).mean(1))
        total, counts[best] = total + said[best, rows], counts[best] + 1
    weights += counts / counts.sum() / 8
fused, gains = weights @ said, []
single = max(said[[0, 1, 2, 4, 5, 6]], key=lambda p: roc_auc_score(y, p))
for draw in range(425):
    rows = rng.integers(len(y), size=len(y))
    gains.append(roc_auc_score(y[rows], fused[rows]) - roc_auc_score(y[rows], single[rows]))
print(weights, roc_auc_score(y, fused), np.quantile(gains, [0.025, 0.975]))
"""


def spent(command: Sequence[object], store: Path) -> tuple[float, float]:
    """Wall and processor seconds of a command, which ends well or ends this program."""
    env = {**os.environ, "POLYFUSE_CACHE": str(store), "OMP_NUM_THREADS": THREADS, "OPENBLAS_NUM_THREADS": THREADS}
    env["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait sleep: processor time is that of work
    before, start = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=env)
    wall, after = time.monotonic() - start, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def schema_of(case: Case, path: Path) -> Path:
    path.write_text(json.dumps(pf.Schema(case.columns, case.window).to_json()), "utf-8")
    return path


def fitting(table: Path, schema: Path, preset: str, *more: object) -> list[object]:
    """The command."""
    out = schema.with_name("made.bundle")
    given = ("--schema", schema, "--preset", preset, "--threads", THREADS, "--out", out, "--overwrite")
    return ["-m", "polyfuse.cli", "fit", table, *given, *more]


def fast(report: Report, given: argparse.Namespace, folder: Path) -> None:
    case = CASES["womens_clothing_a"]
    table, schema = given.data / case.folder / "train.csv", schema_of(case, folder / "fast.json")
    if given.quick:
        source, table = table, folder / "train.csv"
        write(head(source, 300).arrow, table)
    sides: dict[str, list[tuple[float, float]]] = {"cold": [], "again": [], "seed": [], "hand": []}
    for turn in range(1 if given.quick else 3):
        store = folder / f"store{turn}"
        sides["cold"].append(spent(fitting(table, schema, "fast"), store))
        sides["again"].append(spent(fitting(table, schema, "fast"), store))
        sides["seed"].append(spent(fitting(table, schema, "fast", "--seed", 1), store))
        sides["hand"].append(spent(["-c", BY_HAND, table], store))
        print("; ".join(f"{side} {found[-1][0]:.1f} s, processor {found[-1][1]:.1f} s" for side, found in sides.items()), flush=True)
    wall, cpu = ({side: [each[at] for each in found] for side, found in sides.items()} for at in (0, 1))
    report.add("fast on womens_clothing, cold store, whole command", *middle(wall["cold"]), "s", at_most=45)
    report.add("fast on womens_clothing, processor time", *middle(cpu["cold"]), "s")
    report.add("fast on womens_clothing, the same steps by hand, processor time", *middle(cpu["hand"]), "s")
    report.add("fast on womens_clothing, processor time over the same steps by hand", *ratio(cpu["cold"], cpu["hand"]), "x", at_most=1.3)
    report.add("fast on womens_clothing, first fit over the second", *ratio(wall["cold"], wall["again"]), "x", at_least=3)
    report.add("fast on womens_clothing, first fit over one with another seed", *ratio(wall["cold"], wall["seed"]), "x")


def good(report: Report, given: argparse.Namespace, folder: Path) -> None:
    if given.quick:
        print("good: left out, it takes minutes")
        return
    case = CASES["av_digits"]
    command = fitting(given.data / case.folder / "train.csv", schema_of(case, folder / "good.json"), "good")
    wall, cpu = spent(command, folder / "store-good")
    print(f"good on av_digits: {wall:.0f} s, processor {cpu:.0f} s")
    report.add("good on av_digits, cold store, whole command", wall / 60, 0.0, "min", at_most=10)


def shuffled(source: Path, rows: int, path: Path) -> Path:
    """A table of so many rows: those of another, again and again, the words of each review in a new order."""
    table, rng = pf.read(source).arrow, np.random.default_rng(0)
    texts = {name: [(text or "").split() for text in table.column(name).to_pylist()] for name in ("title", "review_text")}
    others = table.drop_columns(list(texts)).to_pydict()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*texts, *others])
        for row in range(rows):
            at = row % len(table)
            mixed = [" ".join(words[at][i] for i in rng.permutation(len(words[at]))) for words in texts.values()]
            writer.writerow([*mixed, *(values[at] for values in others.values())])
    return path


def memory(report: Report, given: argparse.Namespace, folder: Path) -> None:
    if not Path("/proc/self/status").exists():
        print("memory: left out, it reads /proc, which this system does not have")
        return
    case, rows = CASES["womens_clothing_a"], 500 if given.quick else MANY
    table = shuffled(given.data / case.folder / "train.csv", rows, folder / "many.csv")
    start = time.monotonic()
    options = {"schema": str(schema_of(case, folder / "memory.json")), "preset": "fast", "time": "1h"}
    peak = peak_mb(table, folder / "store-memory", options)
    print(f"memory: {rows} rows took {time.monotonic() - start:.0f} s")
    report.add(f"fast on {rows} rows of text and table, peak with mapped files", peak["VmHWM"], 0.0, "MB", at_most=2048)
    report.add(f"fast on {rows} rows of text and table, peak allocated", peak["RssAnon"], 0.0, "MB")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the sets")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS, help="these sections alone")


def main() -> None:
    given = arguments(__doc__, options)
    report = Report(__file__, given.quick)
    with tempfile.TemporaryDirectory() as folder:
        for section in (fast, good, memory):
            needed = given.data / CASES["av_digits" if section is good else "womens_clothing_a"].folder
            if section.__name__ not in given.only:
                continue
            if not needed.is_dir():
                print(f"{section.__name__}: left out, {needed} is not there")
                continue
            section(report, given, Path(folder))
    report.close()


if __name__ == "__main__":
    main()
