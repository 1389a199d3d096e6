"""The command line: what it prints, what it returns, what it says when something is wrong."""

import inspect
import json

import pytest
from typer.testing import CliRunner

import polyfuse as pf
from polyfuse import cli
from polyfuse.cli.options import arguments

QUICK = ["--size", "s", "--set", "train.epochs=2", "--ignore", "degrees"]


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """run("fit", ...) -> (exit status, stdout, stderr), through the real entry point."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr("sys.argv", ["polyfuse", *map(str, args)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out = capfd.readouterr()
        return status, out.out, out.err

    return call


def test_look_fit_predict_evaluate_info(run, mixed, tmp_path):
    table = mixed(40)
    status, out, _ = run("look", table, "--target", "label", "--ignore", "degrees")
    assert status == 0 and "photo" in out and "image" in out
    schema = json.loads((tmp_path / "schema.json").read_text("utf-8"))
    assert {c["name"]: c["modality"] for c in schema["columns"]}["sound"] == "audio"
    status, _, err = run("fit", table, "--schema", "schema.json", "--out", "b", "--size", "s", "--set", "train.epochs=2")
    assert status == 0 and "held-out rows" in err
    status, _, err = run("predict", "b", table, "--out", "answers.csv")
    assert status == 0 and "wrote 40 rows" in err
    assert (tmp_path / "answers.csv").read_text("utf-8").startswith("row_id,label,")
    status, out, _ = run("evaluate", "b", table, "--json")
    found = json.loads(out)
    assert status == 0 and found["rows"] == 40 and set(found) >= {"metrics", "rows", "refused"}
    status, out, _ = run("info", "b")
    assert status == 0 and "fusion concat" in out and "photo" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fit", "nowhere.csv", "--target", "y", "--out", "b"), "nowhere.csv"),
        (("predict", "nowhere", "nowhere.csv", "--out", "a.csv"), "does not exist"),
        (("fit", "t.csv", "--target", "y", "--out", "b", "--column", "photo"), "has no '='"),
        (("fit", "t.csv", "--target", "y", "--out", "b", "--join", "v=vector"), "names no columns"),
        (("fit", "t.csv", "--out", "b"), "has no target"),
        (("fit", "t.csv", "--target", "y", "--out", "b", "--plugin", "mine.py"), "is not a file"),
    ],
)
def test_mistakes_are_one_message_and_status_2(run, tmp_path, args, message):
    (tmp_path / "t.csv").write_text("x,y\n1,a\n2,b\n3,a\n4,b\n")
    status, _, err = run(*args)
    assert status == 2 and message in err and "Traceback" not in err


def test_cache_is_shown_and_cleared(run, mixed):
    run("fit", mixed(20), "--target", "label", "--out", "b", *QUICK)
    status, out, _ = run("cache")
    assert status == 0 and "photo" in out
    status, _, err = run("cache", "--clear")
    assert status == 0 and "freed" in err
    assert json.loads(run("cache", "--json")[1]) == []


def test_parts_and_version(run):
    assert run("--version")[1].startswith("polyfuse 0.")
    assert "concat" in run("parts", "fusions")[1]
    assert "image-cnn" in json.dumps(json.loads(run("parts", "--json")[1]))


def test_parts_are_listed_with_size_options_and_cost(run):
    _, out, _ = run("parts", "fusions")
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == ["lowrank"])
    assert lines[0] == "fusions" and "264 k  Low-rank tensor fusion" in lines[at]
    assert lines[at + 1].split(" | ")[0].strip() == "rank=4 dropout=0.1"
    assert "(V * rank + 4) * D^2 parameters" in lines[at + 1] and "not lookup" in lines[at + 1]
    summaries = {e["name"]: e["summary"] for e in json.loads(run("parts", "fusions", "--json")[1])["fusions"]}
    starts = {line.index(summaries[line.split()[0]]) for line in lines[1:] if line[2] != " "}
    assert len(starts) == 1, "the lines are not aligned"
    status, _, err = run("parts", "fusion")
    assert status == 2 and "did you mean 'fusions'" in err


@pytest.mark.parametrize("name", ["look", "fit", "compare", "search", "distil"])
def test_a_command_asks_for_what_its_function_takes(name):
    said = dict.fromkeys(inspect.signature(getattr(cli, name)).parameters)
    assert arguments(said).keys() <= inspect.signature(getattr(pf, name)).parameters.keys()


def test_every_command_and_option_has_help():
    app = cli.typer.main.get_command(cli.app)
    for name, command in app.commands.items():
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None), f"{name} {option.name}"
    assert CliRunner().invoke(cli.app, ["--help"]).exit_code == 0
