"""Write docs/reference from the docstrings and --help, and the README's table from benchmarks/results; --check fails where one is stale.

python tools/make_docs.py [--check]
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")

from polyfuse import contract
from polyfuse.catalogue import WIDTH, list_parts

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
README = ROOT / "README.md"
PROGRAMS = ("start", "latency", "throughput", "memory", "size", "real", "fast", "fusion")
BEGIN, END = "<!-- results: made by `make docs` -->", "<!-- end of results -->"
COMMANDS = ["look", "fit", "compare", "search", "predict", "evaluate", "robustness", "distil", "info", "parts", "check", "cache"]


def pages() -> dict[Path, str]:
    """{path: text} of every generated page."""
    out: dict[Path, str] = {}
    contents = ["# Reference", "", "Generated from the docstrings by `make docs`.", ""]
    for noun, entries in list_parts().items():
        contents += [f"## {noun.capitalize()}", ""]
        for entry in entries:
            out[REFERENCE / noun / f"{entry['name']}.md"] = page(noun, entry)
            contents.append(f"- [{entry['name']}]({noun}/{entry['name']}.md): {entry['summary']}")
        contents.append("")
    out[REFERENCE / "commands.md"] = commands()
    out[README] = readme()
    contents += ["## Command line", "", "- [commands](commands.md): every command with its options", ""]
    out[REFERENCE / "index.md"] = "\n".join(contents)
    return out


def page(noun: str, entry: dict) -> str:
    name = entry["name"]
    lines = [f"# {name}", "", f"One of the [{noun}](../index.md).", "", "```text", entry["doc"], "```", ""]
    if entry["parameters"] is not None:
        of = {"fusions": "with three views", "encoders": "on its codec's examples"}.get(noun, "on a target of a few examples")
        lines += [f"{entry['parameters']:,} trainable parameters at width {WIDTH}, {of}.", ""]
    if entry["options"]:
        lines += ["| option | default |", "|---|---|", *(f"| `{k}` | `{v!r}` |" for k, v in entry["options"].items()), ""]
        where = {"fusions": "fusion", "tasks": "TARGET", "objectives": name, "learners": "train" if name == "net" else ""}.get(
            noun, "COLUMN"
        )
        lines += [f"Set one with `--set {where}.OPTION=value`." if where else "Searched by `polyfuse search --learner`.", ""]
    exempt = contract.REGISTRIES[noun].get(name).exempt if name in contract.REGISTRIES.get(noun, ()) else {}
    if exempt:
        lines += ["Contract checks it is exempt from:", "", *(f"- `{k}`: {v}" for k, v in exempt.items()), ""]
    return "\n".join(lines)


def commands() -> str:
    lines = ["# Commands", ""]
    for command in COMMANDS:
        text = subprocess.run([sys.executable, "-m", "polyfuse.cli", command, "--help"], capture_output=True, text=True, check=True).stdout
        lines += [f"## polyfuse {command}", "", "```text", "\n".join(line.rstrip() for line in text.strip().splitlines()), "```", ""]
    return "\n".join(lines)


def readme() -> str:
    """The README with the last measured value of every figure that has a bar between its two marks."""
    lines = ["| what | measured | bar | holds | program, commit |", "|---|---|---|---|---|"]
    for program in PROGRAMS:
        path = ROOT / "benchmarks" / "results" / f"{program}.csv"
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines())) if path.is_file() else []
        latest = {re.sub(r", \d+ seeds", "", row["figure"]): row for row in rows if row["bar"]}
        for row in latest.values():
            spread = f" ± {float(row['spread']):.2g}" if float(row["spread"]) else ""
            holds = "yes" if row["holds"] == "True" else "**no**"
            measured = f"{float(row['value']):.4g}{spread} {row['unit']}"
            lines.append(f"| {row['figure']} | {measured} | {float(row['bar']):g} | {holds} | `{program}.py`, {row['commit'][:7]} |")
    before, after = README.read_text("utf-8").split(BEGIN)[0], README.read_text("utf-8").split(END)[1]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


def main() -> None:
    made = pages()
    stale = [p for p, text in made.items() if not p.is_file() or p.read_text("utf-8") != text]
    left = [p for p in REFERENCE.rglob("*.md") if p not in made]
    if "--check" in sys.argv:
        for path in stale + left:
            print(f"stale: {path.relative_to(ROOT)}")
        raise SystemExit(1 if stale or left else 0)
    for path in left:
        path.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    print(f"{len(made)} pages, {len(stale)} changed")


if __name__ == "__main__":
    main()
