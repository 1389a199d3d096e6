"""Processor time to predict one row, warm, on one thread, decoding included, against a loop written by hand.

    python benchmarks/latency.py [--quick]

Two tables: a JPEG of 256 x 256, a text, 10 numbers and 5 categories; and the same with 40 numbers and 10 categories.
"""

import itertools
import os
import tempfile
from pathlib import Path

import torch
from plain import PlainLoop
from result import Report, arguments, interleaved, middle, ratio
from tables import mixed, rows_of

import polyfuse as pf


def main() -> None:
    quick = arguments(__doc__).quick
    torch.set_num_threads(1)
    report = Report(__file__, quick)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["POLYFUSE_CACHE"] = f"{folder}/cache"
        for numbers, categories in ((10, 5), (40, 10)):
            table = mixed(Path(folder) / f"{numbers}.csv", 100 if quick else 400, numbers=numbers, categories=categories, side=256)
            bundle = pf.fit(table, "label", fusion="concat", set={"train.epochs": 1}, device="cpu", threads=1)
            plain = PlainLoop(bundle, table)
            rows = [{k: v for k, v in row.items() if k != "label"} for row in rows_of(table)]
            some = itertools.cycle(rows)
            calls = 20 if quick else 60

            def ours(bundle=bundle, some=some, calls=calls) -> None:
                for _ in range(calls):
                    bundle.predict_rows([next(some)], base=folder)

            def theirs(plain=plain, some=some, calls=calls) -> None:
                for _ in range(calls):
                    plain.predict(next(some))

            found = interleaved({"ours": ours, "plain": theirs}, 3 if quick else 9)
            what = f"image, text, {numbers} numbers, {categories} categories"
            for side, name in (("plain", "plain loop"), ("ours", "polyfuse")):
                value, spread = middle(found[side])
                report.add(f"one row, {what}: {name}", value / calls * 1e3, spread / calls * 1e3, "ms")
            report.add(f"one row, {what}: over the plain loop", *ratio(found["ours"], found["plain"]), "x", at_most=1.5)
    report.close()


if __name__ == "__main__":
    main()
