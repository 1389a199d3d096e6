"""What a run tells: nothing when quiet, lines in a log."""

from polyfuse.core import progress
from polyfuse.core.progress import Progress


def test_quiet_says_nothing(capsys):
    quiet = Progress(quiet=True)
    quiet.say("hello")
    with quiet.bar("training", 10) as bar:
        bar.step(3)
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_a_line_now_and_then_with_the_time_left(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress().bar("training", 10) as bar:
        bar.about("loss 0.5")
        for _ in range(6):
            bar.step()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training: 30%, about 70 s left loss 0.5", "training: 60%, about 40 s left loss 0.5"]
