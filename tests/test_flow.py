"""From a table to a bundle to answers, through the public API."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file

import polyfuse as pf
from polyfuse.ready import processors

QUICK = {"train.epochs": 4, "train.batch": 16}


def fit(table, target="label", **options):
    options.setdefault("ignore", ["degrees"] if target == "label" else ["label"])
    return pf.fit(table, target, size="s", set=QUICK | options.pop("set", {}), **options)


def test_a_mixed_table_is_learned_and_answered(mixed, tmp_path):
    bundle = fit(mixed(120), out=tmp_path / "b", set={"train.epochs": 12})
    fresh = mixed(60, seed=7, name="new.csv")
    answers = pf.Bundle.load(tmp_path / "b").predict(fresh)
    truth = [line.split(",")[-2] for line in fresh.read_text("utf-8").splitlines()[1:]]
    assert np.mean([a == t for a, t in zip(answers.values(), truth)]) > 0.85
    assert bundle.card["metrics"]["label"]
    assert set(bundle.views) == {"photo", "sound", "note", "trace", "table"}
    assert answers.carried["row_id"][:2] == ["r7-0", "r7-1"]


def test_saved_and_loaded_answers_are_the_same(mixed, tmp_path):
    table = mixed()
    bundle = fit(table, out=tmp_path / "b")
    again = pf.Bundle.load(tmp_path / "b")
    assert json.dumps(bundle.predict(table)) == json.dumps(again.predict(table))


def test_same_seed_same_weights_other_seed_other_weights(mixed):
    table = mixed()
    a, b, c = (fit(table, seed=s).model.state_dict() for s in (3, 3, 4))
    assert all(a[k].equal(b[k]) for k in a)
    assert not all(a[k].equal(c[k]) for k in a)


def test_one_row_as_a_dict_with_cells_missing(mixed, tmp_path):
    bundle = fit(mixed())
    for row in ({"note": "warm sunny day"}, {"age": 41}, {}):
        answer = bundle.predict(row)["label"]
        assert answer["value"] in ("hot", "cold") and abs(sum(answer["probability"].values()) - 1) < 1e-5


def test_bytes_arrays_and_paths_are_the_same_cell(mixed, tmp_path):
    bundle = fit(mixed(missing=0.0))
    path = tmp_path / "media" / "0-0.png"
    by = [bundle.predict({"photo": cell}, base=tmp_path) for cell in ("media/0-0.png", path.read_bytes())]
    assert by[0] == by[1]


def test_a_bad_cell_flags_its_row_and_no_other(mixed, tmp_path):
    bundle = fit(mixed())
    rows = [{"age": 40, "note": "warm"}, {"age": "4o", "note": "warm"}, {"photo": "nowhere.png", "note": "warm"}]
    answers = bundle.predict_rows(rows, base=tmp_path)
    assert [len(a["warnings"]) for a in answers] == [0, 1, 1]
    assert "4o" in answers[1]["warnings"][0] and "nowhere.png" in answers[2]["warnings"][0]
    alone = bundle.predict_rows([{"note": "warm"}])
    assert answers[1]["answer"]["label"]["probability"]["hot"] == pytest.approx(alone[0]["answer"]["label"]["probability"]["hot"], abs=1e-6)
    strict = bundle.predict_rows(rows, base=tmp_path, strict=True)
    assert strict[1]["error"] and not strict[0]["error"]


def test_a_column_absent_at_prediction_is_missing_in_every_row_and_said(mixed, tmp_path):
    bundle = fit(mixed())
    answers = bundle.predict([{"note": "warm"}, {"note": "cold"}])
    assert len(answers) == 2
    table = tmp_path / "few.csv"
    table.write_text("note,new column\nwarm sunny day,1\n", "utf-8")
    answers = bundle.predict(table)
    assert len(answers) == 1
    assert any("'photo' is not in few.csv: missing in every row" in n for n in answers.notes)


def test_evaluate_and_embed(mixed):
    table = mixed()
    bundle = fit(table)
    found = bundle.evaluate(table)
    assert found["rows"] == 60 and json.dumps(found)
    figure = next(iter(found["metrics"]["label"].values()))
    assert figure["low"] <= figure["value"] <= figure["high"]
    vectors = bundle.embed(table)
    assert vectors.shape == (60, 64) and np.isfinite(vectors).all()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_threads_are_no_more_than_the_processors_a_process_may_use():
    code = """import os, torch
torch.set_num_threads(8)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from polyfuse.ready import use_threads
print(use_threads(None), torch.get_num_threads(), use_threads(3), torch.get_num_threads())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "3", "3"]


@pytest.mark.parametrize("share, threads", [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8), ("", 8)])
def test_a_container_has_its_share_of_the_processors(tmp_path, monkeypatch, share, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    (tmp_path / "cpu.max").write_text(share)
    assert processors(tmp_path / "cpu.max") == threads
    assert processors(tmp_path / "none") == 8


def test_regression_and_several_targets(mixed):
    bundle = pf.fit(mixed(100), ["degrees", "label"], size="s", set=QUICK | {"train.epochs": 15})
    answers = bundle.predict([{"note": "warm sunny day", "age": 45}, {"note": "cold rainy night", "age": 25}])
    assert answers[0]["answer"]["degrees"]["value"] > answers[1]["answer"]["degrees"]["value"]
    assert set(answers[0]["answer"]) == {"degrees", "label"}


@pytest.mark.parametrize("fusion", ["add", "multiply", "weighted", "attention", "transformer"])
def test_every_first_fusion_fits(mixed, fusion):
    bundle = fit(mixed(40), fusion=fusion, set={"train.epochs": 1})
    assert bundle.model.fusion.name == fusion


def test_the_recipe_repeats_the_fit(mixed, tmp_path):
    table = mixed()
    first = fit(table, out=tmp_path / "a", fusion="attention")
    second = pf.fit(table, recipe=tmp_path / "a")
    assert all(v.equal(second.model.state_dict()[k]) for k, v in first.model.state_dict().items())


def test_a_time_budget_is_kept_and_its_recipe_replays(mixed, tmp_path):
    table = mixed()
    started = time.monotonic()
    first = fit(table, out=tmp_path / "a", time=8, set={"train.epochs": 100000})
    assert time.monotonic() - started < 14
    assert 0 < first.recipe["plan"]["stopped_at"] < 100000
    second = pf.fit(table, recipe=tmp_path / "a")
    assert all(v.equal(second.model.state_dict()[k]) for k, v in first.model.state_dict().items())


def test_killed_and_resumed_ends_with_the_same_weights(mixed, tmp_path):
    table = mixed(80)
    settings = QUICK | {"train.epochs": 40, "train.checkpoint_s": 0}
    whole = pf.fit(table, "label", size="s", ignore=["degrees"], set=settings, threads=1)
    command = [
        sys.executable,
        "-m",
        "polyfuse.cli",
        "fit",
        str(table),
        "--target",
        "label",
        "--ignore",
        "degrees",
        "--out",
        str(tmp_path / "b"),
        "--size",
        "s",
        "--threads",
        "1",
        *(f for k, v in settings.items() for f in ("--set", f"{k}={v}")),
    ]
    checkpoint = tmp_path / ".b.run" / "checkpoint.safetensors"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
    try:
        deadline = time.monotonic() + 120
        seen = 0
        while seen < 30 and time.monotonic() < deadline and process.poll() is None:
            if checkpoint.exists():
                seen += 1
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
        process.stderr.close()
    assert checkpoint.exists() and not (tmp_path / "b").exists(), "the run must have been killed between two checkpoints"
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    weights = load_file(tmp_path / "b" / "weights.safetensors")
    assert all(weights[k].equal(v) for k, v in whole.model.state_dict().items())
    assert not (tmp_path / ".b.run").exists()


def test_resume_with_other_options_is_refused(mixed, tmp_path):
    table = mixed(30)
    (tmp_path / ".b.run").mkdir()
    (tmp_path / ".b.run" / "run.json").write_text('{"fingerprint": "of another run"}')
    with pytest.raises(pf.RecipeError, match="other data or options"):
        fit(table, out=tmp_path / "b", resume=True)


def test_predictions_are_written_in_every_format(mixed, tmp_path):
    table = mixed(30)
    answers = fit(table).predict(table)
    for suffix in (".csv", ".parquet", ".jsonl"):
        answers.write(tmp_path / f"out{suffix}")
        back = pf.read(tmp_path / f"out{suffix}")
        assert len(back) == 30 and {"row_id", "label", "label probability hot", "warnings", "error"} <= set(back.names)


def test_second_fit_decodes_nothing(mixed, monkeypatch):
    table = mixed(40)
    fit(table, set={"train.epochs": 1})
    from polyfuse.core import codecs

    def never(self, value):
        raise AssertionError("a cell was cleaned again")

    for modality in ("photo", "sound"):
        codec = codecs.get({"photo": "image", "sound": "audio"}[modality])
        monkeypatch.setattr(codec, "clean", never)
    fit(table, set={"train.epochs": 1})


# -- bundles ----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(mixed, tmp_path):
    fit(mixed(30), out=tmp_path / "b", set={"train.epochs": 1})
    return tmp_path / "b"


def test_bundle_is_json_and_safetensors(saved):
    assert sorted(f.suffix for f in saved.iterdir()) == [".json"] * 5 + [".safetensors"]


def test_wrong_altered_newer_and_incomplete_bundles_are_refused(saved, tmp_path):
    def copy(name):
        return shutil.copytree(saved, tmp_path / name)

    with pytest.raises(pf.BundleError, match="does not exist"):
        pf.Bundle.load(tmp_path / "nowhere")
    with pytest.raises(pf.BundleError, match="no manifest.json"):
        pf.Bundle.load(tmp_path / "media")
    altered = copy("altered")
    data = bytearray((altered / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(bytes(data))
    with pytest.raises(pf.BundleError, match="was altered: 'weights.safetensors'"):
        pf.Bundle.load(altered)
    lacking = copy("lacking")
    (lacking / "codecs.json").unlink()
    with pytest.raises(pf.BundleError, match="lacks its file 'codecs.json'"):
        pf.Bundle.load(lacking)
    newer = copy("newer")
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(pf.BundleError, match="format 99"):
        pf.Bundle.load(newer)
    broken = copy("broken")
    (broken / "manifest.json").write_text("{")
    with pytest.raises(pf.BundleError, match="cannot be read as JSON"):
        pf.Bundle.load(broken)


def test_existing_out_is_refused_without_overwrite(saved, mixed):
    with pytest.raises(pf.BundleError, match="exists already"):
        fit(mixed(30), out=saved)
    fit(mixed(30), out=saved, overwrite=True, set={"train.epochs": 1})


def test_overwrite_never_removes_a_folder_that_is_no_bundle(mixed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(pf.BundleError, match="is no bundle"):
        fit(mixed(30), out=tmp_path / "mine", overwrite=True, set={"train.epochs": 1})
    assert (tmp_path / "mine" / "thesis.txt").exists()


# -- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "cocnat"}, "did you mean 'concat'"),
        ({"set": {"fusion.dept": 3}}, "no option 'dept'"),
        ({"set": {"photo.encoder": "image-resnt"}}, "did you mean 'image-resnet'"),
        ({"set": {"photo.encoder": "text-gru"}}, "cannot be encoded by 'text-gru'"),
        ({"set": {"phot.size": 32}}, "did you mean 'photo'"),
        ({"set": {"train.epochs": "many"}}, "train.epochs"),
        ({"set": ["train.epochs"]}, "has no '='"),
        ({"size": "xl"}, "size 'xl'"),
        ({"task": "clasification"}, "unknown"),
        ({"task": "regression"}, "degrees|label"),
        ({"time": "soon"}, "not a duration"),
        ({"resume": True}, "needs --out"),
        ({"log_to": "tensorbord"}, "did you mean 'tensorboard'"),
        ({"columns": {"phto": "image"}}, "phto"),
        ({"set": {"trace.depth": 0}}, r"encoder 'series-cnn', option 'depth': is 0. Expected a whole number from 1 on"),
        ({"set": {"trace.depth": 2.5}}, "option 'depth': is 2.5. Expected a whole number"),
        ({"set": {"fusion.dropout": 1.0}}, "option 'dropout': is 1.0. Expected a number from 0 on, below 1"),
        ({"set": {"photo.size": "big"}}, "option 'size': is 'big'"),
        ({"set": {"photo.augment": float("nan")}}, "option 'augment': is nan"),
        ({"columns": {"photo": "imge"}}, "did you mean 'image'"),
    ],
)
def test_wrong_options_say_what_is_right(mixed, options, message):
    table = mixed(30)
    with pytest.raises(pf.Error, match=message):
        pf.fit(table, "label", **({"ignore": ["degrees"], "size": "s"} | options))


def test_unknown_target_is_named(mixed):
    with pytest.raises(pf.Error, match="did you mean 'label'"):
        pf.fit(mixed(30), "lable")
