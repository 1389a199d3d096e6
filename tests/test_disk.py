"""A full disk and folders that cannot be written: a clear message, nothing half-written, nothing lost."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import polyfuse as pf

QUICK = {"size": "s", "set": {"train.epochs": 2}}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs Linux and the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    for i in range(120):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "p" / f"{i}.png", compress_level=1)
    return pf.read([{"photo": f"p/{i}.png", "y": "ab"[i % 2]} for i in range(120)], base=tmp_path)


def test_a_store_that_would_not_fit_is_said_before_the_work(small_disk, pictures, monkeypatch):
    monkeypatch.setenv("POLYFUSE_CACHE", str(small_disk))
    with pytest.raises(pf.DataError, match=r"column 'photo': needs about .* which has .* free.*POLYFUSE_CACHE"):
        pf.fit(pictures, "y", **QUICK)
    assert not list(small_disk.glob("tmp-*"))


def test_a_disk_that_fills_up_while_it_is_written(small_disk, pictures, monkeypatch):
    monkeypatch.setenv("POLYFUSE_CACHE", str(small_disk))
    monkeypatch.setattr(pf.Store, "check_room", lambda *_: None)
    with pytest.raises(pf.DataError, match="cannot be written .*No space left.*free room"):
        pf.fit(pictures, "y", **QUICK)
    assert not list(small_disk.glob("tmp-*")) and not pf.Store().entries()


def test_a_bundle_on_a_full_disk_is_not_half_there(small_disk):
    rows = [{"a": i / 10, "y": "ab"[i % 2]} for i in range(40)]
    (small_disk / "ballast").write_bytes(b"x" * 900_000)
    with pytest.raises(pf.Error, match="No space left"):
        pf.fit(rows, "y", out=small_disk / "b", size="l", set={"train.epochs": 2})
    assert not (small_disk / "b").exists()


def test_a_store_that_cannot_be_written_is_replaced_and_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("POLYFUSE_CACHE", str(tmp_path / "file" / "cache"))
    rows = [{"text": f"word {i % 3} of many", "y": "ab"[i % 2]} for i in range(40)]
    bundle = pf.fit(rows, "y", quiet=False, columns={"text": "text"}, **QUICK)
    assert bundle.predict(rows[0])["y"]["value"] in ("a", "b")
    assert "cannot write to the cache" in capsys.readouterr().err


def test_an_out_that_cannot_be_written_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(pf.Error, match="file"):
        pf.fit([{"a": i, "y": i} for i in range(9)], "y", out=tmp_path / "file" / "b")
