"""Importing this fills the registries: the built-in parts, then those of installed packages."""

from . import fusions, learners, modalities, objectives, tasks
from .plugins import load_entry_points

load_entry_points()

__all__ = ["fusions", "learners", "modalities", "objectives", "tasks"]
