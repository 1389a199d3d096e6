"""Distillation: the loss, the lesson, the students, and what is told of them."""

import copy
import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import polyfuse as pf
from polyfuse.cli import main
from polyfuse.compress import lines
from polyfuse.compress.distillation import aim, best_view
from polyfuse.compress.lesson import Lesson, Taught, apart, ask, carried
from polyfuse.compress.students import wanted
from polyfuse.core import Batch, Cells, Tokens, codecs, tasks

QUICK = {"train.epochs": 6, "train.batch": 16}
WORDS = {"red": ["rose", "fire", "blood"], "green": ["leaf", "grass", "moss"], "blue": ["sea", "sky", "ice"]}


def rows(count, seed=0, label=True):
    """A word of a colour, a number that leans the same way; one in ten cells is missing."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        colour = str(rng.choice(list(WORDS)))
        size = rng.normal(3.0 * list(WORDS).index(colour), 1.0)
        row = {
            "note": " ".join(rng.choice([*WORDS[colour], "the", "a", "thing"], 4)) if rng.random() > 0.1 else "",
            "size": f"{size:.3f}" if rng.random() > 0.1 else "",
            "price": f"{10 * size + rng.normal(0, 1):.3f}",
        }
        out.append(row | ({"colour": colour} if label else {}))
    return out


def write_csv(path, made):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(made[0]))
        writer.writeheader()
        writer.writerows(made)
    return path


@pytest.fixture
def table(tmp_path):
    def make(count, seed=0, label=True, name="train.csv"):
        return write_csv(tmp_path / name, rows(count, seed, label))

    return make


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """One teacher for all tests, on a store of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return pf.fit(rows(200), "colour", ignore=["price"], fusion="concat", size="m", set={**QUICK, "train.epochs": 14})


@pytest.fixture
def teacher(taught):
    return replace(taught, card=copy.deepcopy(taught.card))


def task_of(name, values=("a", "b", "c"), **options):
    modality = {"multilabel": "labels", "regression": "number"}.get(name, "category")
    codec = codecs.build(modality, "y")
    codec.fit(iter([list(values)] if modality == "labels" else [1.0, 2.0, 5.0] if modality == "number" else list(values)))
    return tasks.build(name, codec, 8, **options).eval()


# -- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_of_classes_is_the_divergence_at_the_temperature():
    task, (out, said) = task_of("multiclass"), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for t in (1.0, 2.0, 4.0):
        found = apart(task, out, said, t)
        for row in range(5):
            p = [math.exp(v / t) for v in said[row].tolist()]
            q = [math.exp(v / t) for v in out[row].tolist()]
            p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
            assert float(found[row]) == pytest.approx(t * t * sum(a * math.log(a / b) for a, b in zip(p, q)), abs=1e-5)


def test_the_loss_of_labels_compares_each_by_itself():
    task, (out, said) = task_of("multilabel"), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    found = apart(task, out, said, 2.0)
    for row in range(4):
        total = 0.0
        for a, b in zip(said[row].tolist(), out[row].tolist()):
            p, q = 1 / (1 + math.exp(-a / 2)), 1 / (1 + math.exp(-b / 2))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert float(found[row]) == pytest.approx(4 * total / 3, abs=1e-5)


@pytest.mark.parametrize("name", ["multiclass", "multilabel", "regression"])
def test_the_loss_is_zero_where_the_student_agrees_and_finite_far_off(name):
    task, said = task_of(name), 50 * torch.randn(4, 1 if name == "regression" else 3)
    assert apart(task, said, said, 2.0).abs().max() < 1e-5
    assert apart(task, -said, said, 2.0).isfinite().all() and (apart(task, -said, said, 2.0) > 0).all()


def test_numbers_are_compared_by_squares():
    found = apart(task_of("regression"), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]]), 7.0)
    assert found.tolist() == pytest.approx([4.0, 0.25])


def lesson_batch(task, labelled, trust, weight=None):
    g = torch.Generator().manual_seed(2)
    said, row = torch.randn(4, 3, generator=g), torch.randn(4, 1, 8, generator=g)
    truth = Cells({"index": torch.tensor([[1], [2], [3], [1]])}, torch.arange(4), 4)
    told = Cells({"out": said, "labelled": torch.tensor(labelled)}, torch.arange(4), 4)
    batch = Batch({"y": truth, carried("y"): told}, 4, weight)
    tokens = Tokens(row, torch.ones(4, 1, dtype=torch.bool), {"row": slice(0, 1)})
    return Taught({"y": task}, 2.0, trust, {})(tokens, tokens, batch), task(tokens), said


def test_labels_take_their_share_of_the_loss_where_there_are_any():
    task, labelled = task_of("multiclass"), [True, False, True, False]
    loss, out, said = lesson_batch(task, labelled, 0.7)
    soft = apart(task, out, said, 2.0)
    hard = torch.nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 0]), reduction="none")
    each = [0.7 * soft[i] + 0.3 * hard[i] if labelled[i] else soft[i] for i in range(4)]
    assert loss.item() == pytest.approx(sum(each).item() / 4, abs=1e-5)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    weighed, _, _ = lesson_batch(task, labelled, 0.7, weight)
    assert weighed.item() == pytest.approx(sum(w * e for w, e in zip(weight, each)).item() / 4, abs=1e-5)


def test_no_row_needs_a_label_and_heads_get_a_gradient():
    task = task_of("multiclass")
    loss, out, said = lesson_batch(task, [False] * 4, 0.7)
    assert loss.item() == pytest.approx(apart(task, out, said, 2.0).mean().item(), abs=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.head[-1].parameters())


# -- what is taught -----------------------------------------------------------------------------------------------


def test_the_lesson_has_every_row_and_labels_where_the_table_has_them(teacher, tmp_path):
    made = rows(20, seed=3)
    made[2]["colour"] = ""
    made[5]["colour"] = "purple"  # of a class that the teacher does not know
    lesson = ask(teacher, pf.read(write_csv(tmp_path / "new.csv", made)))
    assert len(lesson) == 20 and lesson.unknown == {"colour": 1}
    assert np.flatnonzero(~lesson.labelled("colour")).tolist() == [2, 5]
    probability = teacher.model.tasks[0].probability(lesson.outs["colour"])
    answers = teacher.predict(made)
    for i, answer in enumerate(answers):
        assert list(answer["answer"]["colour"]["probability"].values()) == pytest.approx(probability[i].tolist(), abs=1e-5)
    full = lesson.complete(teacher, "colour", np.zeros(20, bool)).cells(np.arange(20))
    values = teacher.codecs["colour"].values
    expected = [answers.values()[i] if i in (2, 5) else row["colour"] for i, row in enumerate(made)]
    assert [values[i - 1] for i in full.x["index"][:, 0].tolist()] == expected
    own = lesson.complete(teacher, "colour", np.ones(20, bool))
    assert np.flatnonzero(~own.present).tolist() == [2, 5]


def test_a_learner_is_taught_each_class_with_its_probability(teacher, tmp_path):
    lesson = ask(teacher, pf.read(write_csv(tmp_path / "new.csv", rows(30, seed=4))))
    task = teacher.model.tasks[0]
    p = task.probability(lesson.outs["colour"]).numpy()
    of, y, share = wanted(task, lesson, "colour", np.arange(30), 1.0)
    got = np.zeros_like(p)
    got[of, y] = share
    assert np.allclose(got.sum(1), 1) and np.abs(got - p).max() < 0.05
    truth = task.answers(lesson.truth["colour"].x)
    of, y, share = wanted(task, lesson, "colour", np.arange(30), 0.0)
    assert np.array_equal(of, np.arange(30)) and np.array_equal(y, truth) and (share == 1).all()


def test_a_learner_is_taught_the_probabilities_of_labels_in_grades():
    task = task_of("multilabel")
    out = torch.logit(torch.tensor([[0.9, 0.55, 0.05], [0.3, 0.7, 0.5]]))
    empty = Cells({"hot": torch.zeros(0, 3)}, torch.zeros(0, dtype=torch.long), 2)
    of, y, share = wanted(task, Lesson({"y": out}, {"y": empty}, {"y": 0}), "y", np.arange(2), 0.5)
    got = np.stack([(y[of == row] * share[of == row][:, None]).sum(0) for row in range(2)])
    assert np.abs(got - out.sigmoid().numpy()).max() <= 0.125 + 1e-6


# -- students -----------------------------------------------------------------------------------------------------


def accuracy(bundle, made):
    return np.mean([a == r["colour"] for a, r in zip(bundle.predict(made).values(), made)])


@pytest.mark.parametrize("to", ["net", "linear", "note"])
def test_a_student_learns_from_rows_without_labels(teacher, table, tmp_path, to):
    fresh = rows(150, seed=9)
    unlabelled = table(300, seed=8, label=False, name="bare.csv")
    student = pf.distil(teacher, unlabelled, to=to, out=tmp_path / "small", test=fresh, set={**QUICK, "train.epochs": 12})
    found = student.card["distilled"]
    assert accuracy(student, fresh) > (0.8 if to != "note" else 0.7)
    assert found["labelled"] == {"colour": 0} and found["after"]["score"]["colour"]["low"] < found["after"]["score"]["colour"]["value"]
    assert list(student.views) == (["note"] if to == "note" else ["note", "table"])
    again = pf.Bundle.load(tmp_path / "small")
    assert json.dumps(again.predict(fresh)) == json.dumps(student.predict(fresh))
    assert again.recipe["distilled"]["to"] == to and again.card["distilled"] == json.loads(json.dumps(found))
    for row in ({"note": "rose fire"}, {"size": 6.1}, {}):  # cells may be missing
        answer = student.predict(row)["colour"]
        assert sum(answer["probability"].values()) == pytest.approx(1.0, abs=1e-5)
    assert student.predict({"note": "rose fire blood"})["colour"]["value"] == "red"


def test_a_linear_student_speaks_of_rows_that_lack_a_view_which_no_training_row_lacked(teacher):
    full = [r for r in rows(400, seed=5) if r["note"] and r["size"]]
    student = pf.distil(teacher, full, to="linear")
    assert student.predict({"note": "sea sky ice"})["colour"]["value"] == "blue"
    assert student.predict({"size": 0.0})["colour"]["value"] == "red"


def test_the_teacher_uses_what_the_student_does_not_see(teacher, table):
    """The number alone tells the colour in part; the teacher's doubt and certainty come from the note as well."""
    student = pf.distil(teacher, table(300, seed=8), to="table", set=QUICK)
    assert list(student.views) == ["table"] and [c.name for c in student.schema.having("input")] == ["size"]
    assert student.card["distilled"]["before"]["score"]["colour"]["value"] > 0.8


def test_numbers_are_distilled(table, tmp_path):
    teacher = pf.fit(table(240, name="taught.csv"), "price", ignore=["colour"], fusion="concat", set={**QUICK, "train.epochs": 14})
    fresh = rows(100, seed=9)
    for to in ("net", "linear"):
        student = pf.distil(teacher, table(240, seed=8), to=to, test=fresh, set=QUICK)
        score = student.card["distilled"]["after"]["score"]["price"]
        assert score["metric"] == "rmse" and score["value"] < 35
    with pytest.raises(pf.RecipeError, match="cannot answer 'price' \\(quantile\\)"):
        quantiles = pf.fit(table(60, name="q.csv"), "price", ignore=["colour"], task="quantile", fusion="concat", set=QUICK)
        pf.distil(quantiles, table(60), to="linear")


def test_same_seed_same_student(teacher, table):
    new = table(80, seed=8)
    a, b, c = (pf.distil(teacher, new, to="net", set=QUICK, seed=s).model.state_dict() for s in (1, 1, 2))
    assert all(a[k].equal(b[k]) for k in a) and not all(a[k].equal(c[k]) for k in a)


def test_few_labels_leave_the_judgement_to_the_teacher(teacher, tmp_path):
    made = rows(90, seed=8)
    for row in made[20:]:
        row["colour"] = ""
    student = pf.distil(teacher, write_csv(tmp_path / "new.csv", made), to="net", set=QUICK)
    assert "judged by the teacher" in student.card["data"]["split"]
    assert float(student.model.tasks[0].temperature) == 1.0
    labelled = pf.distil(teacher, write_csv(tmp_path / "all.csv", rows(140, seed=8)), to="net", set=QUICK)
    assert "judged" not in labelled.card["data"]["split"] and labelled.card["distilled"]["labelled"]["colour"] > 100


def test_a_table_that_lacks_classes_and_columns_still_teaches(teacher):
    made = [{k: v for k, v in row.items() if k != "size"} for row in rows(200, seed=8) if row["colour"] != "red"]
    student = pf.distil(teacher, made, to="note", set=QUICK)
    assert student.codecs["colour"].values == teacher.codecs["colour"].values
    assert set(student.predict({"note": "leaf"})["colour"]["probability"]) == set(WORDS)


def test_validation_rows_may_be_given(teacher, table):
    student = pf.distil(teacher, table(100, seed=8, label=False), val=table(60, seed=9, name="val.csv"), to="linear", set=QUICK)
    assert student.card["data"]["split"] == "validation rows are those of val.csv"
    some = sum(bool(r["note"] or r["size"]) for r in rows(100, seed=8))  # a row with no cell at all teaches nothing
    assert student.card["data"]["trained_on"] == some and student.card["distilled"]["scored_on"] == "60 rows held out"


# -- what is told -------------------------------------------------------------------------------------------------


def test_score_size_and_time_are_told_before_and_after(teacher, table):
    test = table(80, seed=9, name="test.csv")
    student = pf.distil(teacher, table(120, seed=8), to="net", test=test, set=QUICK)
    found = student.card["distilled"]
    assert found["before"]["score"]["colour"]["value"] == pytest.approx(teacher.evaluate(test)["metrics"]["colour"]["accuracy"]["value"])
    assert found["after"]["score"]["colour"]["value"] == pytest.approx(student.evaluate(test)["metrics"]["colour"]["accuracy"]["value"])
    assert found["after"]["parameters"] == student.model.size < found["before"]["parameters"] == teacher.model.size
    assert 0 < found["after"]["bytes"] < found["before"]["bytes"] and found["after"]["latency_ms"] > 0
    gained = found["after"]["score"]["colour"]["value"] - found["before"]["score"]["colour"]["value"]
    assert found["difference"]["colour"]["value"] == pytest.approx(gained)
    text = "\n".join(lines(found))
    assert "80 rows of test.csv" in text and "parameters" in text and " ms" in text and "MB" in text and "note:" not in text


def test_a_teacher_that_is_small_already_is_said_to_be(teacher, table):
    student = pf.distil(teacher, table(80, seed=8), to="net", size="l", set=QUICK)
    assert any("already that small" in note for note in student.card["distilled"]["notes"])
    assert any("may have learned from these rows" in note for note in student.card["distilled"]["notes"])


def test_the_command_prints_the_table(teacher, table, tmp_path, monkeypatch, capsys):
    teacher.save(tmp_path / "large")
    new = table(60, seed=8)
    words = ["polyfuse", "distil", str(tmp_path / "large"), str(new), "--to", "note", "--out", str(tmp_path / "small"), "--quiet"]
    monkeypatch.setattr("sys.argv", [*words, "--set", "train.epochs=2"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "before" in out and "after" in out and "one row" in out
    assert pf.Bundle.load(tmp_path / "small").card["distilled"]["to"] == "note"
    monkeypatch.setattr("sys.argv", [*words[:4], "--to", "nett", "--out", str(tmp_path / "other")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "did you mean 'net'?" in capsys.readouterr().err


def test_the_best_view_is_the_one_that_the_card_names(teacher):
    assert teacher.card["alone"] and aim(teacher, "one-modality", None) == ("net", [best_view(teacher)])
    teacher.card["verdict"] = {"colour": {"single": "table"}}
    assert best_view(teacher) == "table"
    teacher.card.pop("verdict")
    teacher.card["alone"] = {"metric": "accuracy", "views": {"note": {"value": 0.8}, "table": {"value": 0.7}}}
    assert best_view(teacher) == "note"
    teacher.card["alone"] = {}
    with pytest.raises(pf.RecipeError, match="does not say which view is best"):
        best_view(teacher)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "linaer"}, "did you mean 'linear'"),
        ({"to": "not"}, "did you mean 'note'"),
        ({"to": "net", "views": ["nothe"]}, "did you mean 'note'"),
        ({"to": "net", "views": []}, "names none"),
        ({"to": "note", "views": ["table"]}, "cannot go with --views"),
        ({"fusion": "decision-mean"}, "answers view by view"),
        ({"temperature": 0}, "is no temperature"),
        ({"trust": 1.5}, "is no share"),
        ({"set": ["colour.balance=sqrt"]}, "answered as by the teacher"),
        ({"set": ["train.epoch=3"]}, "did you mean 'epochs'"),
        ({"size": "x"}, "size 'x'"),
    ],
)
def test_what_cannot_be_asked_for_is_said(teacher, table, options, message):
    with pytest.raises(pf.RecipeError, match=message):
        pf.distil(teacher, table(60, seed=8), **options)


def test_tables_that_cannot_teach_are_refused(teacher, table, tmp_path):
    with pytest.raises(pf.DataError, match="has 3 rows"):
        pf.distil(teacher, rows(3))
    with pytest.raises(pf.DataError, match="column 'note': of the student is not in"):
        pf.distil(teacher, [{"size": r["size"], "notes": r["note"]} for r in rows(30)])
    with pytest.raises(pf.DataError, match="no two rows with a cell"):
        pf.distil(teacher, [r | {"note": ""} for r in rows(30)], to="note")
    with pytest.raises(pf.DataError, match="no readable label in"):
        pf.distil(teacher, table(60, seed=8), to="note", test=rows(20, label=False), set=QUICK)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(pf.BundleError, match="exists already"):
        pf.distil(teacher, table(60, seed=8), out=tmp_path / "taken")


def test_an_ensemble_teaches_a_network(table, tmp_path):
    teacher = pf.fit(table(200, name="taught.csv"), "colour", ignore=["price"], preset="fast", time="20s")
    fresh = rows(100, seed=9)
    student = pf.distil(teacher, table(300, seed=8), to="net", test=fresh, set={**QUICK, "train.epochs": 10})
    assert accuracy(student, fresh) > 0.8
