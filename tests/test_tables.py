"""Tables in every form: read, looked at, split and cut into windows, and what is wrong with them said clearly."""

import datetime
import gzip
import json
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import polyfuse as pf
from polyfuse.core import Column, Schema, Window
from polyfuse.data import hold_out, look, parse_window, raw_values, read, schema_from_file, windows

TEXT = "a,名\n1,x\n2,Köln\n"
WANT = {"a": ["1", "2"], "名": ["x", "Köln"]}
NUMBERS = {"a": [1, 2], "名": ["x", "Köln"]}
LINES = '{"a": 1, "名": "x"}\n\n{"a": 2, "名": "Köln"}\n'


def packed(text, encoding="utf-8"):
    return gzip.compress(text.encode(encoding), mtime=0)


@pytest.fixture
def put(tmp_path):
    """put(name, content) writes a file and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# -- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", TEXT),
        ("A.CSV", TEXT.replace("\n", "\r\n")),
        ("old.csv", TEXT.replace("\n", "\r")),
        ("名 前.csv", TEXT),
        ("a.tsv", TEXT.replace(",", "\t")),
        ("semicolon.csv", TEXT.replace(",", ";")),
        ("tab.csv", TEXT.replace(",", "\t")),
        ("pipe.txt", TEXT.replace(",", "|")),
        ("bom.csv", "\ufeff" + TEXT),
        ("wide.csv", TEXT.encode("utf-16")),
        ("wide.csv.gz", packed(TEXT, "utf-16")),
        ("a.csv.gz", packed(TEXT)),
        ("a.csv.zst", pa.compress(TEXT.encode(), "zstd", asbytes=True)),
        ("blank.csv", "\n \n" + TEXT.replace("1,x\n", "1,x\n\n")),
        ("no end.csv", TEXT.rstrip()),
    ],
)
def test_text_tables(put, name, content):
    table = read(put(name, content))
    assert table.arrow.to_pydict() == WANT and table.name == name and not table.refused_rows


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.replace("\n", "\r\n")),
        ("a.jsonl.gz", packed(LINES)),
        ("bom.jsonl", "\ufeff" + LINES),
        ("wide.jsonl", LINES.encode("utf-16")),
        ("list.json", json.dumps([{"a": 1, "名": "x"}, {"a": 2, "名": "Köln"}])),
        ("indented.json", json.dumps([{"a": 1, "名": "x"}, {"a": 2, "名": "Köln"}], indent=2)),
    ],
)
def test_json_tables(put, name, content):
    assert read(put(name, content)).arrow.to_pydict() == NUMBERS


@pytest.mark.parametrize(
    "source",
    [
        NUMBERS,
        [{"a": 1, "名": "x"}, {"a": 2, "名": "Köln"}],
        {"a": np.array([1, 2]), "名": ("x", "Köln")},
        pd.DataFrame(NUMBERS),
        pd.DataFrame({"a": [0, *NUMBERS["a"]], "名": ["", *NUMBERS["名"]]})[1:],
        pl.DataFrame(NUMBERS),
        pa.table(NUMBERS),
        pa.table(NUMBERS).to_reader(),
        read(NUMBERS),
    ],
)
def test_tables_in_memory(source):
    assert read(source).arrow.to_pydict() == NUMBERS


def test_parquet_whatever_its_ending(tmp_path):
    for name in ("a.parquet", "a.csv", "a"):
        pq.write_table(pa.table(NUMBERS), tmp_path / name)
        assert read(tmp_path / name).arrow.to_pydict() == NUMBERS
    pd.DataFrame(NUMBERS, index=["p", "q"]).to_parquet(tmp_path / "pandas.parquet")
    assert read(tmp_path / "pandas.parquet").names == ["a", "名"], "the labels of rows are no column"


def test_mixed_and_missing_values_in_memory():
    assert read({"a": [1, "x", None, float("nan"), [1], {"b": 1}]}).arrow["a"].to_pylist() == ["1", "x", None, None, "[1]", '{"b": 1}']
    assert read(pd.DataFrame({"a": [1, "x", None]})).arrow["a"].to_pylist() == ["1", "x", None]
    for nothing in (pd.NA, pd.NaT, np.float32("nan"), np.datetime64("NaT")):
        assert read({"a": [nothing, "x"]}).arrow["a"].to_pylist() == [None, "x"]
    assert read([{"a": 1}, {"b": "y"}]).arrow.to_pydict() == {"a": [1, None], "b": [None, "y"]}
    assert read({"a": [2**70, "\ud83d"]}).arrow["a"].to_pylist() == [str(2**70), "?"]
    assert list(raw_values(read({"a": [np.zeros((2, 2))]}), Column("a", "series"))) == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize(
    "source, part",
    [
        (None, "is a NoneType"),
        (5, "is a int"),
        ([1], "other things than dicts"),
        ({"a": [1], "b": [1, 2]}, "columns of 1 and 2 rows"),
        ({"a": 1}, "column 'a': is a int"),
        ({"a": "xy"}, "column 'a': is a str"),
        ({"a": (i for i in range(2))}, "is a generator"),
        ({1: [1], "1": [2]}, "occurs twice"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "Duplicate"),
        (pa.table([[1], [2]], names=["a", "a"]), "occurs twice"),
        (pd.Series([1]), "the table"),
    ],
)
def test_what_is_no_table_is_said(source, part):
    with pytest.raises(pf.DataError, match=part):
        read(source)


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("a.csv", b"", "empty"),
        ("a.csv", " \n\t\n", "white space"),
        ("a.csv", "\ufeff", "white space"),
        ("a.csv", "x,a,x\n1,2,3\n", "column 'x': occurs twice"),
        ("a.csv", bytes(range(256)) * 20, "no text"),
        ("a.csv", b"\x89PNG\r\n\x1a\n" + np.random.default_rng(0).bytes(5000), "no t"),
        ("a.csv", b"\0" * 999, "zero bytes"),
        ("a.csv", TEXT.encode("utf-16-le"), "zero bytes"),
        ("a.csv", packed(TEXT), "no t"),
        ("a.csv.gz", TEXT, "cannot be read"),
        ("a.csv.zst", TEXT, "cannot be read"),
        ("a.csv.gz", packed(TEXT * 99)[:40], "cannot be read"),
        ("a.jsonl.gz", packed(LINES * 99)[:40], "cannot be read"),
        ("a.parquet", TEXT, "as Parquet"),
        ("a.parquet", b"PAR1" + b"\xff" * 40, "as Parquet"),
        ("a.arrow", TEXT, "no table"),
        ("a.jsonl", "oops\n", "line 1 is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", "\n\n", "no columns"),
        ("a.jsonl", '{"ä": 1}'.encode("latin-1"), "not UTF-8"),
        ("a.jsonl", LINES.encode("utf-16")[:-1], "no table"),
        ("a.xlsx", b"PK\x03\x04", "the ending '.xlsx'"),
        ("a", TEXT, "the ending 'none'"),
    ],
)
def test_a_file_that_is_no_table_is_said(put, name, content, part):
    path = put(name, content)
    with pytest.raises(pf.DataError, match=part) as caught:
        read(path)
    assert len(str(caught.value)) < 600


def test_a_missing_file_is_named_with_the_nearest(put, tmp_path):
    put("train.csv", TEXT)
    with pytest.raises(pf.DataError, match="did you mean 'train.csv'"):
        read(tmp_path / "trian.csv")
    with pytest.raises(pf.DataError, match="does not exist"):
        read(tmp_path / "no" / "train.csv")


def test_rows_of_another_length_are_counted_listed_and_left_out(put):
    rows = ["1,2", "3", "4,5,6", '"x\ny","he said ""no"""', "7,8"]
    table = read(put("a.csv", "a,b\n" + "\n".join(rows) + "\n"))
    assert table.arrow.to_pydict() == {"a": ["1", "x\ny", "7"], "b": ["2", 'he said "no"', "8"]}
    assert [line for line, _ in table.refused_rows] == [3, 4] and "2 rows could not be read" in table.notes[0]
    table = read(put("a.jsonl", '{"a": 1}\n{"a":\n[1]\n{"a": 2}\n{"a": 3}\n{"a": ' + "[" * 100_000))
    assert table.arrow["a"].to_pylist() == [1, 2, 3] and [line for line, _ in table.refused_rows] == [2, 3, 6]


def test_encodings_and_odd_cells_of_a_csv(put):
    table = read(put("old.csv", "a\nKöln\n€\n".encode("cp1252")))
    assert table.arrow["a"].to_pylist() == ["Köln", "€"] and "Windows-1252" in table.notes[0]
    assert read(put("nul.csv", "a,b\nx\0y,1\n")).arrow["a"].to_pylist() == ["x\0y"]
    table = read(put("noname.csv", ",b,\n1,2,3\n"))
    assert table.names == ["column_1", "b", "column_3"] and len(table.notes) == 2
    assert read(put("quoted.csv", '"a\nb","c;d"\n1,\n')).arrow.to_pydict() == {"a\nb": ["1"], "c;d": [None]}
    names = [f"gene {i} of a long name, so that\u2028the header is long" for i in range(5000)]
    assert read(put("many.csv", ",".join(f'"{n}"' for n in names) + "\n" + "1," * 4999 + "1\n")).names == names
    assert read(put("mark.csv", "a\u2028b,c\x0cd\n1,2\n")).arrow.to_pydict() == {"a\u2028b": ["1"], "c\x0cd": ["2"]}
    assert len(read(put("long.csv", "a,b\n1," + "x" * 5_000_000 + "\n2,y\n"))) == 2
    assert len(read(put("surrogate.jsonl", '{"a": "\\ud83d", "\\ud83d": 1}\n'))) == 1


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_tiny_tables(put, rows):
    for end in ("", "\n"):
        table = read(put("a.csv", "\n".join(["a,b", "1,2", "3,4"][: rows + 1]) + end))
        assert len(table) == rows and table.names == ["a", "b"]
        assert [c.seen for c in pf.look(table).columns] == [rows, rows]


def test_a_table_larger_than_memory_is_laid_out_and_mapped(put, tmp_path):
    path = put("big.csv", "a,b\n" + "".join(f"{i},text {i}\n" for i in range(20_000)) + "odd\n")
    before = pa.total_allocated_bytes()
    table = read(path, memory_mb=0.01, scratch=tmp_path)
    deadline = time.monotonic() + 30
    while pa.total_allocated_bytes() - before >= 100_000 and time.monotonic() < deadline:
        time.sleep(0.001)  # the thread that parsed the last block lets go of it a moment after handing it over
    assert pa.total_allocated_bytes() - before < 100_000 and list(tmp_path.glob("*.arrow"))
    assert table.arrow.equals(read(path).arrow) and table.refused_rows == [(20002, "1 cells where the header has 2")]


def test_nothing_is_left_of_a_table_that_cannot_be_laid_out(put, tmp_path):
    path = put("big.csv.gz", packed("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(999)))[:-900])
    with pytest.raises(pf.DataError, match="cannot be read"):
        read(path, scratch=tmp_path)
    with pytest.raises(pf.DataError, match="cannot be read"):
        read(put("a.csv", TEXT), memory_mb=0, scratch=tmp_path / "nowhere")
    assert not list(tmp_path.glob("*.arrow"))


def test_folders_of_classes(put, tmp_path):
    for name in ("all/cat/1.png", "all/北/é 2.png", "all/.git/x", "all/cat/.hidden"):
        put(name, "x")
    assert read(tmp_path / "all").arrow.to_pydict() == {"file": ["cat/1.png", "北/é 2.png"], "label": ["cat", "北"]}
    (tmp_path / "none" / "empty").mkdir(parents=True)
    with pytest.raises(pf.DataError, match="holds no files in folders"):
        read(tmp_path / "none")


# -- looking ----------------------------------------------------------------------------------------------------


def varied(n=60):
    rng = np.random.default_rng(0)
    label = rng.choice(["hot", "cold"], n).tolist()
    return {
        "id": [f"r{i}" for i in range(n)],
        "copy": [{"hot": "1", "cold": "0"}[v] for v in label],
        "constant": ["x"] * n,
        "day": [f"2026-01-{i % 28 + 1:02d}" for i in range(n)],
        "count": [str(i % 4) for i in range(n)],
        "story": [f"a text of many words, the {i}th with {i * i} of them" for i in range(n)],
        "trace": [json.dumps(rng.normal(size=3 + i % 5).round(2).tolist()) for i in range(n)],
        "pixels": [[0.0] * 99 + [float(i)] for i in range(n)],
        "photo": [f"img/{i}.png" for i in range(n)],
        "size": [f"{v:.3f}" for v in rng.normal(size=n)],
        "nothing": [""] * n,
        "城市": ["北京", "Köln", "Ulm"] * (n // 3),
        "label": label,
    }


def test_what_each_column_is():
    looked = pf.look(varied(), "label")
    assert {c.name: (c.role, c.modality) for c in looked.columns} == {
        "id": ("id", "category"),
        "copy": ("ignore", "number"),
        "constant": ("ignore", "category"),
        "day": ("input", "time"),
        "count": ("input", "number"),
        "story": ("input", "text"),
        "trace": ("input", "series"),
        "pixels": ("input", "vector"),
        "photo": ("ignore", "image"),
        "size": ("input", "number"),
        "nothing": ("ignore", "text"),
        "城市": ("input", "category"),
        "label": ("target", "category"),
    }
    why = {c.name: c.why for c in looked.columns}
    assert "copy of the target" in why["copy"] and "there is no file 'img/0.png'" in why["photo"]
    assert len(looked.lines()) == 14 and json.dumps(looked.to_json())


def test_declarations_overrule_the_guess():
    looked = look(
        read(varied()),
        target=["label"],
        columns={"copy": "category", "size": "id", "story": "ignore"},
        ignore=["trace"],
        join={"both": ("series", ["cou*", "pixels"])},
        group="城市",
        time="day",
        split="constant",
        weight="id",
    )
    found = {c.name: (c.role, c.modality) for c in looked.schema.columns}
    assert found["copy"] == ("input", "category") and found["size"][0] == "id" and found["id"][0] == "weight"
    assert [found[n][0] for n in ("story", "trace", "城市", "day", "constant")] == ["ignore", "ignore", "group", "time", "split"]
    assert looked.schema["both"].sources == ("count", "pixels") and "count" not in looked.schema


@pytest.mark.parametrize(
    "options, part",
    [
        ({"target": ["lable"]}, "did you mean 'label'"),
        ({"columns": {"sise": "number"}}, "did you mean 'size'"),
        ({"columns": {"size": "nubmer"}}, "did you mean 'number'"),
        ({"ignore": ["stroy"]}, "did you mean 'story'"),
        ({"join": {"a": ("series", ["tracee"])}}, "did you mean 'trace'"),
        ({"join": {"a": ("series", ["x*"])}}, "no column is like 'x\\*'"),
        ({"join": {"a": ("serie", ["size"])}}, "did you mean 'series'"),
        ({"join": {"a": ("series", [])}}, "names no columns"),
        ({"join": {"a": ("series", ["label"])}}, "both target and part of 'a'"),
        ({"join": {"size": ("series", ["count"])}}, "twice"),
        ({"group": "citty"}, "is not in"),
        ({"group": "label"}, "both target and group"),
        ({"columns": {"label": "ignore"}}, "both target and ignore"),
        ({"window": Window("id", "dya", 3)}, "did you mean 'day'"),
        ({"window": Window("label", "day", 3)}, "both target and group"),
        ({"task": "regresion"}, "did you mean 'regression'"),
        ({"target": ["nothing"]}, "missing in every row"),
    ],
)
def test_wrong_names_say_what_is_right(options, part):
    with pytest.raises(pf.Error, match=part):
        look(read(varied()), **({"target": ["label"]} | options))


def test_a_glob_passes_over_the_target():
    table = read({"x1": [1, 2], "x2": [3, 4], "x10": [5, 6], "xy": ["a", "b"]})
    assert look(table, target=["xy"], join={"all": ("series", ["x*"])}).schema["all"].sources == ("x1", "x2", "x10")


@pytest.mark.parametrize(
    "cells, task, modality",
    [
        ([0, 1, 2] * 10, None, "category"),
        ([0, 1, 2] * 10, "regression", "number"),
        ([i / 7 for i in range(30)], None, "number"),
        ([str(i / 7) for i in range(28)] + ["NA", "oops"], None, "number"),
        (["x", "y", "1"] * 10, None, "category"),
        ([True, False] * 15, None, "category"),
        ("a|b a|c b|c a|d c|d b|d a b c d".split() * 3, None, "labels"),
        ([[], ["a"], ["a", "b"]] * 10, None, "labels"),
        (["[]", '["a"]', "[]"] * 10, None, "labels"),
        ([[0.5, 1.5]] * 30, None, "vector"),
        (["only"] * 30, None, "category"),
    ],
)
def test_what_a_target_is(cells, task, modality):
    assert pf.look({"x": list(range(30)), "y": cells}, "y", task=task).schema["y"].modality == modality


def test_lists_that_begin_alike_are_not_one_value():
    first = {"a": [[0.0] * 200 + [float(i)] for i in range(30)], "b": [b"\0" * 300 + bytes([i]) for i in range(30)]}
    assert [c.distinct for c in pf.look(first).columns] == [30, 30]


@pytest.mark.parametrize("cells", [["[" * 5000] * 9 + ["x"], ["\0"] * 9 + ["x"], [{"x": 1}, {"x": [2]}], [10**400, 1], [b"\xff", b""]])
def test_odd_columns_are_looked_at(cells):
    assert pf.look({"a": cells, "y": list(range(len(cells)))}, "y").columns[0].name == "a"


def test_schema_round_trip(tmp_path):
    looked = pf.look(
        varied(),
        "label",
        join={"both": ("series", ["count", "size"])},
        window=Window("id", "day", 4, horizon=1),
        out=tmp_path / "schema.json",
    )
    assert schema_from_file(tmp_path / "schema.json") == looked.schema == Schema.from_json(looked.schema.to_json())
    with pytest.raises(pf.RecipeError, match="cannot be read"):
        schema_from_file(tmp_path / "none.json")
    for text, part in (("{", "not JSON"), ("[]", "is not a schema"), ('{"columns": [{"nam": "a"}]}', "did you mean 'name'")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(pf.RecipeError, match=part):
            schema_from_file(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('{"columns": [{"name": "a", "modality": "nubmer"}]}')
    with pytest.raises(pf.RecipeError, match="did you mean 'number'"):
        schema_from_file(tmp_path / "bad.json")


# -- splitting --------------------------------------------------------------------------------------------------


def split(columns, share=0.2, **roles):
    kinds = {"y": ("category", "target")} | {n: ("category", r) for r, n in roles.items()}
    schema = Schema(tuple(Column(n, *kinds.get(n, ("number", "input"))) for n in columns))
    return hold_out(read(columns), schema, share=share)


def test_each_class_gives_its_share():
    y = ["a"] * 50 + ["b"] * 30 + ["c"] * 19 + ["once"]
    found = split({"y": y})
    held = [y[i] for i in found.held]
    assert [held.count(k) for k in ("a", "b", "c", "once")] == [10, 6, 4, 0] and "stratified" in found.rule
    assert sorted([*found.train, *found.held]) == list(range(100))
    assert split({"y": y}).held.tolist() == found.held.tolist()


def test_groups_are_never_split():
    groups = [f"g{i % 7}" for i in range(70)]
    found = split({"y": ["a", "b"] * 35, "g": groups}, group="g")
    assert len(found.held) == 10 and not {groups[i] for i in found.held} & {groups[i] for i in found.train}
    with pytest.raises(pf.DataError, match="one group only"):
        split({"y": ["a", "b"], "g": ["x", "x"]}, group="g")


@pytest.mark.parametrize(
    "stamp",
    [
        lambda i: i,
        lambda i: str(i),
        lambda i: float(i) / 2,
        lambda i: f"{i % 28 + 1}.{i // 28 + 1}.2024",
        lambda i: (datetime.datetime(2024, 1, 1) + datetime.timedelta(i)).isoformat(),
        lambda i: datetime.datetime(2024, 1, 1) + datetime.timedelta(i),
        lambda i: 1_700_000_000_000_000_000 + i,
    ],
)
def test_the_latest_rows_are_held(stamp):
    order = np.random.default_rng(0).permutation(100)
    found = split({"y": ["a", "b"] * 50, "t": [stamp(int(i)) for i in order]}, time="t")
    assert sorted(order[found.held]) == list(range(80, 100))


def test_rows_without_a_time_train():
    for odd in ("nan", "oops", None, " "):
        found = split({"y": ["a", "b"] * 10, "t": [odd, *map(str, range(18, -1, -1))]}, share=0.1, time="t")
        assert found.held.tolist() == [1] and 0 in found.train
    with pytest.raises(pf.DataError, match="has no time"):
        split({"y": ["a", "b"], "t": [None, 1]}, time="t")


def test_a_split_column_is_followed():
    marks = ["train"] * 6 + ["Val", "valid", "test", ""]
    found = split({"y": list("ababababab"), "s": marks}, split="s")
    assert found.train.tolist() == [0, 1, 2, 3, 4, 5] and found.held.tolist() == [6, 7]
    for mark in ("test", "val"):
        with pytest.raises(pf.DataError, match="no row to train on"):
            split({"y": ["a", "b"], "s": [mark, mark]}, split="s")


@pytest.mark.parametrize("y", [["a", "b"], ["a", "a"], ["a", "b", "c"], ["a", "a", None], ["a", "b", "a"]])
def test_the_smallest_tables_are_split(y):
    found = split({"y": y})
    assert len(found.train) >= 1 and not set(found.train) & set(found.held)


@pytest.mark.parametrize("y", [[], ["a"], [None, "a", None], ["", "a"]])
def test_fewer_than_two_labels_are_too_few(y):
    with pytest.raises(pf.DataError, match="have a label"):
        split({"y": y, "x": [1] * len(y)})


# -- windows ----------------------------------------------------------------------------------------------------


def cut(columns, length=2, **options):
    index = windows(read(columns), Window("u", "t", length, **options))
    return [index.order[a:b].tolist() for a, b in zip(index.start, index.stop)], index


def test_windows_follow_the_order_within_each_unit():
    found, index = cut({"u": ["b", "a", "b", "a", "b"], "t": ["10", "2", "9", "1", "11"]})
    assert found == [[3], [3, 1], [2], [2, 0], [0, 4]]
    assert index.target_row.tolist() == [3, 1, 2, 0, 4] and index.unit.tolist() == [0, 0, 1, 1, 1]


def test_stride_horizon_and_units_of_own_length():
    columns = {"u": [1] * 5 + [2], "t": [1, 2, 3, 4, 5, 1]}
    assert cut(columns, 3, stride=2)[0] == [[0], [0, 1, 2], [2, 3, 4], [5]]
    found, index = cut(columns, 3, horizon=2)
    assert found == [[0], [0, 1], [0, 1, 2]] and index.target_row.tolist() == [2, 3, 4]
    assert [len(cut(columns, 9, horizon=9)[1]), len(cut({"u": [], "t": []})[1])] == [0, 0]


@pytest.mark.parametrize(
    "times", [["9.1.2024", "10.1.2024"], [0.1, 0.9], ["2024-01-01T10:00+09:00", "2024-01-01T02:00+00:00"], [2**60, 2**60 + 1]]
)
def test_the_order_is_that_of_numbers_and_times(times):
    assert cut({"u": [1, 1], "t": times[::-1]})[0] == [[1], [1, 0]]


@pytest.mark.parametrize(
    "ids", [["01", "1"], [2**53, 2**53 + 1], ["北", "京"], pl.Series(["01", "1"]), pd.Series(["x", "y"], dtype="category")]
)
def test_units_that_differ_are_told_apart(ids):
    frame = {"u": ids, "t": [1, 1]}
    assert len(cut(pl.DataFrame(frame) if isinstance(ids, pl.Series) else pd.DataFrame(frame))[1]) == 2


@pytest.mark.parametrize(
    "columns, part",
    [
        ({"u": [1, None], "t": [1, 2]}, "'u': has empty cells"),
        ({"u": ["a", " "], "t": [1, 2]}, "'u': has empty cells"),
        ({"u": [1, 1], "t": ["1", ""]}, "'t': has empty cells"),
        (pl.DataFrame({"u": [1, 1], "t": [1.0, float("nan")]}), "'t': has empty cells"),
        ({"u": [1, 1], "t": ["1", "1.0"]}, "row 2.*repeats"),
        ({"u": [1] * 20, "t": [*range(19), "x"]}, "holds 'x'"),
        ({"x": [1], "t": [1]}, "column 'u': is not in"),
        ({"u": [[1]], "t": [1]}, "holds list"),
    ],
)
def test_what_cannot_be_cut_is_said(columns, part):
    with pytest.raises(pf.DataError, match=part):
        cut(columns)


def test_readings_of_a_window_and_its_other_columns():
    columns = {"u": [1, 1, 1], "t": [3, 1, 2], "p": ["5", "x", ""], "q": [0.5, float("inf"), 1e400], "y": ["last", "a", "b"]}
    table, index = read(columns), cut(columns, 3)[1]
    cells = list(raw_values(table, Column("s", "series", "input", ("p", "q", "gone")), None, index))
    np.testing.assert_array_equal(cells[2], [[np.nan] * 3, [np.nan] * 3, [5, 0.5, np.nan]])
    assert list(raw_values(table, Column("y", "category", "target"), None, index)) == ["a", "b", "last"]
    held = hold_out(
        read({**columns, "u": [1, 2, 3]}), Schema((Column("y", "category", "target"),)), index=cut({**columns, "u": [1, 2, 3]})[1]
    )
    assert len(held.held) == 1 and "whole groups" in held.rule


@pytest.mark.parametrize(
    "text", ["id=u", "id=u,order=t,length=0", "id=u,order=t,length=-1", "ids=u,order=t,length=2", "id=u,order=t,length=²", ""]
)
def test_a_window_that_cannot_be_read(text):
    with pytest.raises(pf.RecipeError, match="--window"):
        parse_window(text)


@pytest.mark.parametrize("options", [{"length": 0}, {"stride": 0}, {"horizon": -1}])
def test_a_window_of_no_length_is_refused(options):
    with pytest.raises(pf.RecipeError, match="at least 1"):
        cut({"u": [1], "t": [1]}, **options)


def test_many_columns_alike_are_told_in_one_line():
    rows = [{**{f"margin{k}": (i * 37 + k * 11) % 101 / 7 for k in range(20)}, "y": "ab"[i % 2]} for i in range(40)]
    lines = pf.look(rows, "y").lines()
    assert len(lines) == 3 and "margin0 .. margin19" in lines[1] and "--join 'margin=vector:margin*'" in lines[1]
