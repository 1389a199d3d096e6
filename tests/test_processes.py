"""Several processes on one fit, and trackers that watch one."""

import subprocess
import sys

import pytest
from safetensors.torch import load_file

import polyfuse as pf

SCRIPT = """
import sys
import polyfuse as pf
rows = [{"a": i / 10, "text": f"word{i % 7}", "y": "ab"[i % 2]} for i in range(64)]
still = {f"{part}.dropout": 0.0 for part in ("text", "table", "fusion", "y")}  # its draws depend on the batch's shape
# a small rate: where a gradient is little more than rounding, Adam's step is as large as elsewhere, but follows the rounding
options = {"train.epochs": 2, "train.batch": 16, "train.drop": 0.0, "train.rate": 2e-4} | still
pf.fit(rows, "y", out=sys.argv[1], size="s", device="cpu", columns={"text": "text"}, set=options, threads=1)
"""


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, command in (("one", [sys.executable]), ("two", launch)):
        done = subprocess.run([*command, str(tmp_path / "script.py"), str(tmp_path / name)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert set(one) == set(two)
    assert max((one[k].float() - two[k].float()).abs().max().item() for k in one) < 1e-5
    assert pf.Bundle.load(tmp_path / "two").predict({"a": 1.0})["y"]["value"] in ("a", "b")


def test_tensorboard_gets_every_epoch(tmp_path):
    pytest.importorskip("tensorboard", reason="the tracker's own package is not installed")
    rows = [{"a": i / 10, "y": "ab"[i % 2]} for i in range(40)]
    pf.fit(rows, "y", out=tmp_path / "b", log_to="tensorboard", size="s", set={"train.epochs": 3})
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_an_unknown_tracker_is_named():
    with pytest.raises(pf.RecipeError, match="tensorbord.*did you mean 'tensorboard'"):
        pf.fit([{"a": i, "y": i % 2} for i in range(20)], "y", log_to="tensorbord")
