"""python -m polyfuse.cli."""

from . import main

main()
