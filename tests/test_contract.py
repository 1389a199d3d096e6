"""DESIGN's invariants over every registered part: a new part is tested by existing."""

import pytest

from polyfuse import contract
from polyfuse.core import RecipeError

ALL = list(contract.all_checks())


@pytest.mark.parametrize(("noun", "part", "check"), ALL, ids=[f"{p}-{c}" for _, p, c in ALL])
def test_part_keeps_the_contract(noun, part, check):
    reason = contract.run_check(noun, part, check)
    if reason is not None:
        pytest.skip(f"exempt: {reason}")


def test_every_noun_has_parts():
    assert {noun for noun, _, _ in ALL} == {"modalities", "encoders", "fusions", "tasks", "objectives", "learners"}


GOOD = '''
"""A fusion of one's own."""
from torch import nn
from polyfuse.core import Fusion, Tokens, fusions, pooled
import torch


@fusions("mine-NAME")
class Mine(Fusion):
    """The mean of the views, through one layer."""

    def __init__(self, views, width, *, gain: float = 1.0):
        super().__init__(views, width)
        self.out = nn.Linear(width, width)
        self.gain = gain

    def forward(self, tokens: Tokens) -> Tokens:
        x, present = pooled(tokens, self.views)
        return tokens.with_row(torch.tanh(self.out(x.sum(1) * self.gain)))
'''


def test_check_passes_a_sound_part_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace("NAME", "good"))
    problems = [f"{name}: {problem}" for name, problem in contract.check_file(file) if problem]
    assert not problems


def test_check_catches_a_part_that_reads_behind_the_mask(tmp_path):
    file = tmp_path / "leaky.py"
    file.write_text(GOOD.replace("NAME", "leaky").replace("pooled(tokens, self.views)", "tokens.x, None"))
    failed = {name.split()[1] for name, problem in contract.check_file(file) if problem}
    assert "fusion_hidden_values" in failed


def test_check_says_when_a_file_brings_nothing(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    assert [p for _, p in contract.check_file(file)] == ["registers no part"]


def test_check_says_why_a_file_does_not_load(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(RecipeError, match="nothing_of_that_name"):
        list(contract.check_file(file))
