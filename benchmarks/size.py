"""What an installation weighs: direct dependencies, and the files of all that they bring, torch and bytecode left out.

    python benchmarks/size.py [--quick]

Reads what is installed beside this interpreter. What torch itself needs counts as torch's unless something else needs it too.
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from result import Report, arguments


def needs(name: str) -> list[str]:
    """Names of the distributions that `name` needs here, without extras."""
    found = [Requirement(r) for r in distribution(name).requires or []]
    return [plain(r.name) for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: list[str]) -> set[str]:
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen or name == "torch":
            continue
        try:
            names += needs(name)
        except PackageNotFoundError:
            continue  # for another system
        seen.add(name)
    return seen


def megabytes(made: Distribution) -> float:
    files = [f.locate() for f in made.files or [] if f.suffix != ".pyc"]
    return sum(f.stat().st_size for f in files if f.is_file()) / 1e6  # type: ignore[attr-defined]


def main() -> None:
    report = Report(__file__, arguments(__doc__).quick)
    direct = needs("polyfuse")
    sizes = {name: megabytes(distribution(name)) for name in sorted(closure(list(direct)))}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size:8.1f} MB  {name}{'' if name in direct else '  (indirect)'}")
    report.add("direct dependencies", len(direct), 0, "packages", at_most=16)
    report.add("installed without torch and bytecode", sum(sizes.values()), 0, "MB", at_most=500)
    report.close()


if __name__ == "__main__":
    main()
