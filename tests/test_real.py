"""Real tables, a few rows of each: what every column is found to be, and a fit from file to answer."""

import numpy as np
import pytest

import polyfuse as pf

QUICK = {"size": "s", "set": {"train.epochs": 1}}


def head(path, rows):
    table = pf.read(path)
    return table.take(np.arange(min(rows, len(table))))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "target", "found"),
    [
        ("av_digits", "label", {"image": "image", "audio": "audio"}),
        ("moving_digits_av", "match", {"video": "video", "audio": "audio"}),
        ("easy_vqa", "answer", {"image": "image", "question": "text"}),
    ],
)
def test_a_real_table_from_file_to_answer(real_data, name, target, found):
    train, test = head(real_data / name / "train.csv", 120), head(real_data / name / "test.csv", 20)
    looked = pf.look(train, target)
    assert {c: looked.schema[c].modality for c in found} == found
    bundle = pf.fit(train, schema=looked.schema.only(list(found)), **QUICK)
    answers = bundle.predict(test)
    assert len(answers) == 20 and not any(a["warnings"] or a["error"] for a in answers)
