"""The rules of the project itself: imports, sizes, words, and that what the documents say is so."""

import ast
import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

import polyfuse as pf
from polyfuse import contract
from polyfuse.core import option_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "polyfuse"
FILES = sorted(PACKAGE.rglob("*.py"))
# a module may import those to its left, never one to its right
ORDER = (
    "core",
    "data",
    "modalities",
    "fusions",
    "tasks",
    "objectives",
    "model",
    "learners",
    "ensemble",
    "evaluate",
    "explain",
    "recipe",
    "plugins",
    "parts",
    "look",
    "tracking",
    "predictions",
    "bundle",
    "ready",
    "card",
    "presets",
    "fit",
    "compare",
    "search",
    "report",
    "compress",
    "matrix",
    "estimators",
    "serve",
    "cluster",
    "contract",
    "catalogue",
    "cli",
)
PARTS = ("modalities", "fusions", "tasks", "objectives")  # in these folders siblings never import each other
MOST_LINES = 450


def tree(path):
    return ast.parse(path.read_text("utf-8"), str(path))


def name_of(path):
    return str(path.relative_to(ROOT))


def is_module(path):
    return path.with_suffix(".py").is_file() or path.is_dir()


def own_imports(path):
    """The modules of polyfuse a file imports, as tuples below the package: ("core", "codec")."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "polyfuse")
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = here[: len(here) - node.level] + module
            elif module[:1] == ("polyfuse",):
                base = module[1:]
            else:
                continue
            # `from . import x` and `from .. import __version__`: the names may be modules
            modules = [a.name for a in node.names if is_module(PACKAGE.joinpath(*base, a.name))]
            yield from ((*base, m) for m in modules) if modules else [base]


def test_every_module_has_its_place_in_the_order():
    assert {f.relative_to(PACKAGE).with_suffix("").parts[0] for f in FILES} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts
    if here == ("__init__",):
        return  # it loads lazily whatever is asked for
    for there in own_imports(path):
        if not there:
            continue  # the package itself: its version
        assert ORDER.index(there[0]) <= ORDER.index(here[0]), f"{name_of(path)} imports {'.'.join(there)}"
        if here[0] in PARTS and there[0] == here[0] and here[1:] != ("__init__",) and len(there) > 1:
            assert there[1] == here[1], f"{name_of(path)} imports its sibling {'.'.join(there)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_pickle(path):
    for node in ast.walk(tree(path)):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {n.split(".")[0] for n in [*(a.name for a in node.names), getattr(node, "module", None) or ""]}
            assert not names & {"pickle", "joblib", "dill", "cloudpickle"}, where
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "torch.save"), where
            assert all(k.arg != "allow_pickle" or ast.unparse(k.value) == "False" for k in node.keywords), where


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_broad_except(path):
    if path.relative_to(PACKAGE).parts[0] in ("cli", "serve"):
        return  # where a program meets its user
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = [] if node.type is None else [ast.unparse(t) for t in getattr(node.type, "elts", [node.type])]
            raises_again = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
            assert raises_again or (caught and not {"Exception", "BaseException"} & set(caught)), f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(tree(path)) or not text.strip(), "has no docstring"


def test_import_is_light():
    code = "import sys, polyfuse; print(sorted(m for m in ('torch', 'numpy', 'pyarrow', 'sklearn') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    for name in pf.__all__:
        assert getattr(pf, name) is not None
    assert set(pf.__all__) <= set(dir(pf))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        pf.fitt  # noqa: B018


def public_parts():
    pf.Bundle  # noqa: B018  fills the registries
    return [
        (noun, name)
        for noun, registry in contract.REGISTRIES.items()
        for name in registry.names()
        if registry.get(name).__module__.startswith("polyfuse.")
    ]


@pytest.mark.parametrize(("noun", "name"), public_parts(), ids=lambda v: v)
def test_parts_are_documented(noun, name):
    part = contract.REGISTRIES[noun].get(name)
    doc = part.__dict__.get("__doc__") or ""
    assert doc, "has no docstring of its own"
    assert "Source:" in doc, "says no source (authors, year, title, or 'Source: ours')"
    assert "Shapes:" in doc, "says no shapes"
    for option in option_names(part):
        assert re.search(rf"\b{option}\b", doc), f"does not explain the option '{option}'"


# -- documents --------------------------------------------------------------------------------------------------


def test_readme_begins_with_two_commands():
    first = (ROOT / "README.md").read_text("utf-8").splitlines()[:30]
    assert any("make demo" in line for line in first) and any("make test" in line for line in first)


def test_changelog_and_citation_have_the_version():
    assert f"## [{pf.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\nversion: {pf.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_license_is_apache():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "Version 2.0" in text and len(text) > 10_000


def test_the_part_shown_to_contributors_passes_the_checks(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.S)
    path = tmp_path / "colour.py"
    path.write_text(code[1], "utf-8")
    registries = [contract.REGISTRIES[n] for n in ("modalities", "encoders", "fusions")]
    try:
        found = list(contract.check_file(path))
    finally:
        for registry, name in zip(registries, ("colour", "colour-mlp", "largest")):
            registry._parts.pop(name, None)
    assert {name.split()[0] for name, _ in found} == {"colour", "colour-mlp", "largest"}
    assert not [f"{name}: {wrong}" for name, wrong in found if wrong]


def test_makefile_lists_its_targets():
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    described = [line.split(":")[0] for line in lines if re.match(r"^[a-z-]+:.*## ", line)]
    assert phony == described


# -- the demonstration's data -----------------------------------------------------------------------------------

DIGITS = ROOT / "examples" / "digits"


@pytest.mark.parametrize(("name", "rows"), [("train.csv", 1200), ("test.csv", 597)])
def test_digits_are_complete(name, rows):
    with open(DIGITS / name, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == rows and {r["digit"] for r in table} == set("0123456789")
    for column in ("image", "audio", "note", "ink_mm"):
        assert 0.08 < sum(r[column] == "" for r in table) / rows < 0.16, column
    named = [r[c] for r in table for c in ("image", "audio") if r[c]]
    assert len(set(named)) == len(named) and all((DIGITS / n).is_file() for n in named)


def test_digits_are_small_and_without_strays():
    files = [f for folder in ("images", "sounds") for f in (DIGITS / folder).iterdir()]
    assert sum(f.stat().st_size for f in files) + sum(f.stat().st_size for f in DIGITS.glob("*.csv")) < 4e6
    text = "".join((DIGITS / n).read_text("utf-8") for n in ("train.csv", "test.csv"))
    assert all(f"{f.parent.name}/{f.name}" in text for f in files)


def test_digits_columns_are_described():
    readme = (DIGITS / "README.md").read_text("utf-8")
    with open(DIGITS / "train.csv", newline="", encoding="utf-8") as file:
        assert all(f"`{column}`" in readme for column in next(csv.reader(file)))
