"""What the README and the tutorial tell a reader to run, runs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from polyfuse.cli import main

ROOT = Path(__file__).resolve().parents[1]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


@pytest.fixture
def digits(tmp_path, monkeypatch):
    for name in ("train.csv", "test.csv", "images", "sounds"):
        source = ROOT / "examples" / "digits" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_tutorial_and_the_readme_run(digits, monkeypatch, capsys):
    told = blocks("docs/tutorial.md", "console") + blocks("docs/fusion.md", "console")
    lines = [line[2:] for block in told for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 10
    for line in lines:
        monkeypatch.setattr("sys.argv", shlex.split(line.replace("--time 30s", "--time 15s")))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, line
    made = {"schema.json", "digits.bundle", "small.bundle", "answers.csv", "digits.compare", "learning.png", "digits.robustness"}
    assert made <= {p.name for p in digits.iterdir()}
    for page in ("docs/tutorial.md", "README.md"):
        for block in blocks(page, "python"):
            block = block.replace('time="20s"', 'time="10s", overwrite=True').replace('preset="fast"', 'preset="fast", overwrite=True')
            exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
