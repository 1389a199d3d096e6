"""Series, numbers, categories, times, ids and labels: from the raw cell to tensors, whatever the cell holds."""

import io
import json
import math
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from polyfuse import parts as _parts  # noqa: F401  fills the registries
from polyfuse.core import Codec, DataError, Draws, TabularCodec, codecs

KINDS = ["series", "number", "category", "time", "ids", "labels"]
DIGITS = 10**5000  # more digits than Python writes
DEEP = "[" * 100_000


def fitted(kind: str, cells=None, **options) -> Codec:
    codec = codecs.build(kind, "c", **options)
    read = [codec.read(c) for c in (codec.examples() if cells is None else cells)]
    codec.fit(iter([v for v in read if v is not None]))
    return codec


def clean(codec: Codec, raw) -> dict[str, np.ndarray]:
    return codec.clean(codec.read(raw))


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def parquet(columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


# -- all of them ------------------------------------------------------------------------------------------------

ODD = [
    *(None, "", "  ", "\x00", "\ud83d", "oops", "null", "NaN", "[", DEEP, "[1," * 50_000, "[[1], [2, 3]]", "{}", "[{}]", '["a", 1]'),
    *(True, False, np.bool_(True), 0, -1, 2**63, 2**64, -(2**63), 10**400, DIGITS, [DIGITS], [10**400], 1.5, 1e300, 5e-324),
    *(math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf"), Decimal("NaN"), Decimal("1.5"), 1j, b"", b"x", b"\xff\xfe"),
    *([], [None], [math.nan], [math.inf], [[]], [[[1]]], [[1], [2, 3]], ["a"], [1.5], [True], [b"1"], [{}], (), (1, 2), {1}, {"a": 1}),
    *(np.zeros(0), np.array(3), np.array("x"), np.array([1j]), np.zeros((2, 2, 2)), np.array(["2020"], "M8[Y]"), np.array([None])),
    *(np.datetime64("NaT"), np.datetime64(2**62, "s"), datetime.min, datetime.max, date.max, timedelta(1), object(), "9" * 5000),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_odd_cell_is_read_missing_or_refused_and_never_anything_else(kind):
    codec = fitted(kind)
    for raw in ODD:
        try:
            value = codec.read(raw)
            arrays = {} if value is None else codec.clean(value)
        except DataError as error:
            assert str(error).startswith("column 'c': ") and "Expected" in str(error) and len(str(error)) < 400
            continue
        assert all(np.isfinite(a).all() for a in arrays.values())
        if arrays:
            assert set(codec.collate([arrays, codec.filler()])) == set(codec.collate([codec.filler()]))


@pytest.mark.parametrize("kind", KINDS)
def test_claims_bear_any_sample(kind):
    for raw in ODD:
        if raw is not None and raw is not DIGITS:
            assert 0 <= codecs.get(kind).claims([raw]) <= 1
    assert codecs.get(kind).claims([]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_fit_on(kind):
    codec = fitted(kind, [])
    for raw in codec.examples():
        try:
            assert all(np.isfinite(a).all() for a in clean(codec, raw).values())
        except DataError as error:
            assert "channels" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_plain_json_and_enough(kind):
    codec, again = fitted(kind), codecs.build(kind, "c")
    again.load_state(json.loads(json.dumps(codec.state())))
    for raw in codec.examples():
        want, got = clean(codec, raw), clean(again, raw)
        assert set(want) == set(got) and all((want[k] == got[k]).all() for k in want)


@pytest.mark.parametrize("kind", ["number", "category", "time"])
def test_a_column_at_once_equals_cell_by_cell(kind):
    codec = fitted(kind)
    assert isinstance(codec, TabularCodec)
    cells = [
        str(c) for c in ["1", " 2.5 ", "oops", "1e400", "nan", "NA", "", "∞", "1_000", "0x10", "-inf", "2020-01-02", "30.02.2020", "x"]
    ]
    values, present, refused = codec.read_column(pa.chunked_array([cells[:5], cells[5:] + [None]], pa.string()))
    for row, raw in enumerate([*cells, None]):
        try:
            value = codec.read(raw)
        except DataError as error:
            assert str(refused[row]) == str(error) and not present[row]
            continue
        assert row not in refused and present[row] == (value is not None) and (value is None or values[row] == value)
    kept = [v for v, p in zip(values, present) if p]
    many = codec.clean_many(kept)
    assert all((many[k][i] == v).all() for i, one in enumerate(map(codec.clean, kept)) for k, v in one.items())


# -- series -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        *("[1, null, 3]", "[[1], [null], [3]]", [1, None, 3], [1, math.nan, 3], [[1], [""], [3]], ("1", "", "3"), np.array([1, np.nan, 3])),
        *(np.array([[1], [np.nan], [3]], np.float32), npy(np.array([1, np.nan, 3])), b"1\nnan\n3\n", b"t\n1\nnan\n3\n"),
        *(b"\xef\xbb\xbfa\r\n1\r\nnan\r\n3\r\n", parquet({"t": [1.0, None, 3.0]}), npy(np.asfortranarray([[1.0], [np.nan], [3.0]]))),
    ],
)
def test_one_series_in_many_forms(raw):
    value = codecs.build("series", "c").read(raw)
    np.testing.assert_array_equal(value, [[1], [np.nan], [3]])


@pytest.mark.parametrize("raw", ["[[1, 10], [2, null]]", [[1, 10], [2, None]], b"a;b\n1;10\n2;\n", b"1\t10\n2\tnan\n", b"a,b\n1,10\n2,\n"])
def test_channels_stand_side_by_side(raw):
    np.testing.assert_array_equal(codecs.build("series", "c").read(raw), [[1, 10], [2, np.nan]])


@pytest.mark.parametrize(
    "raw, part",
    [
        *((r, "shape") for r in ("[]", [], np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((2, 2, 2)), "5", 5, b"a\n", parquet({"a": []}))),
        *((r, "only gaps") for r in ("[null]", [math.nan, None], np.full((2, 2), np.nan), npy(np.full(3, np.nan)))),
        *((r, "infinite") for r in ("[1e400]", "[-Infinity, 1]", [math.inf], [1e300], npy(np.array([1, np.inf])), b"1\ninf\n")),
        *((r, "cannot read") for r in ("1 2", DEEP[:9000], ["1", "x"], [10**400], {"a": 1}, np.array(["a"]), np.array([1j]), "[1\x002]")),
        (npy(np.arange(9.0))[:-8], "no series"),
        (npy(np.arange(9.0))[:40], "no series"),
        (npy(np.array([1, None], object), allow_pickle=True), "no series"),
        (npy(np.array([(1.0,)], [("a", "f8")])), "cannot read"),
        *(
            (r, "no series")
            for r in (b"1,2\n3\n", b"a\nx\n", b"\xff\xd8\xff\xe0", b"PAR1PAR1", b"\n\n", parquet({"a": ["x"]}), b"v\n2,5\n")
        ),
        (b"", "empty"),
    ],
)
def test_a_series_that_is_none_is_refused(raw, part):
    with pytest.raises(DataError, match=part):
        codecs.build("series", "c").read(raw)


def test_series_are_scaled_per_channel_and_gaps_are_masked():
    codec = fitted("series", [[[1, 5], [3, 5]], [[None, 5], [5, 5]]], longest=9)
    assert codec.mean == [3, 5] and codec.std == pytest.approx([math.sqrt(8 / 3), 1])
    x = codec.collate([clean(codec, [[3, 6]]), clean(codec, [[5, None], [None, 4], [1, 5]])])
    assert x["value"].shape == (2, 3, 2) and x["mask"].tolist() == [[True, False, False], [True] * 3]
    torch.testing.assert_close(x["value"][0, 0], torch.tensor([0.0, 1.0]))
    s = float(math.sqrt(1.5))
    torch.testing.assert_close(x["value"][1], torch.tensor([[s, 0.0], [0.0, -1.0], [-s, 0.0]]))
    assert x["real"][1].tolist() == [[True, False], [False, True], [True, True]] and not x["real"][0, 1:].any()


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e9, 1e30])
def test_a_series_of_any_unit_is_scaled_alike(scale):
    codec = fitted("series", [[1 * scale, 3 * scale]])
    np.testing.assert_allclose(clean(codec, [3 * scale, 2 * scale])["value"][:, 0], [1, 0], atol=1e-6)
    assert np.isfinite(clean(codec, [3e38, -3e38])["value"]).all()


def test_several_columns_are_channels_stretched_to_the_longest():
    codec = codecs.build("series", "c")
    np.testing.assert_array_equal(codec.read((npy(np.arange(4.0)), npy(np.array([7.0, 8.0])))), [[0, 7], [1, 7], [2, 8], [3, 8]])
    np.testing.assert_array_equal(codec.read((np.array([1.0, 2.0]), None)), [[1, np.nan], [2, np.nan]])
    np.testing.assert_array_equal(codec.read(("1", "2.5", None)), [[1], [2.5], [np.nan]])
    with pytest.raises(DataError, match="no series"):
        codec.read((npy(np.arange(4.0)), b"oops,"))
    np.testing.assert_array_equal(codec.read(([1, 2, 3], [4, 5, 6])), [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(codec.read([[1, 2, 3], [4, 5, 6]]), [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(DataError, match="as a series"):
        codec.read([[1], [2, 3]])


def test_another_number_of_channels_is_refused_and_long_series_keep_their_end():
    codec = fitted("series", [[[1, 2]], [[3, 4]], [5]])
    assert codec.channels == 2
    with pytest.raises(DataError, match="has 1 channels. Expected 2"):
        clean(codec, [1, 2])
    assert len(clean(fitted("series", [[1, 2, 3]], longest=2), [1, 2, 9])["value"]) == 2
    assert clean(fitted("series", [[0, 2]], longest=2), [5, 0, 2])["value"][:, 0].tolist() == [-1, 1]
    assert clean(codec, [[1, 2]])["value"].shape == (1, 2)


# -- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [" 1500 ", "1.5e3", "+1500.0", 1500, np.int64(1500), np.float32(1500), Decimal("1500"), "1500."])
def test_one_number_in_many_forms(raw):
    assert codecs.build("number", "c").read(raw) == 1500


@pytest.mark.parametrize("raw", [None, "", "  ", "NaN", "nan", " NA ", "n/a", "null", "None", "-", math.nan, np.float32("nan"), "#N/A"])
def test_missing_numbers(raw):
    assert codecs.build("number", "c").read(raw) is None


@pytest.mark.parametrize(
    "raw, hint",
    [
        *(("1,5", "write 1.5"), ("1_000", "write 1000.0"), ("٣", "write 3.0"), ("1.234,5", "12.5"), ("1 234", "12.5"), ("oops", "12.5")),
        *(("50%", "12.5"), ("$5", "12.5"), ("∞", "12.5"), ("1e400", "finite"), ("-inf", "finite"), (math.inf, "finite"), (1e39, "finite")),
        *(
            (10**400, "finite"),
            (Decimal("1e5000"), "finite"),
            ([1], "list"),
            (b"x", "bytes"),
            (date(2020, 1, 1), "date"),
            ("9" * 5000, "finite"),
        ),
    ],
)
def test_a_number_that_is_none_is_refused_with_a_hint(raw, hint):
    with pytest.raises(DataError, match="as a number|not a finite number") as caught:
        codecs.build("number", "c").read(raw)
    assert hint in str(caught.value) and len(str(caught.value)) < 300


def test_numbers_are_standardised_and_ranked():
    codec = fitted("number", [1, 2, 3, 4, 1000])
    value, rank = clean(codec, 3)["value"]
    assert value == pytest.approx((3 - 202) / 399.001, abs=1e-4) and rank == pytest.approx(0, abs=1e-6)
    assert clean(codec, 1e30)["value"][0] == 10 and clean(codec, 2**63)["value"][1] == clean(codec, 1000)["value"][1]
    torch.testing.assert_close(codec.restore(torch.tensor([0.0, 1.0])), torch.tensor([202.0, 202.0 + codec.std]))


@pytest.mark.parametrize("cell", [0, 5, 0.1, 1e-3, 3e38, -1e20, 2**63 - 1])
def test_a_constant_column_is_zero_and_leaves_room(cell):
    codec = fitted("number", [cell] * 7)
    assert codec.std == 1 and clean(codec, cell)["value"] == pytest.approx([0, 0], abs=1e-6)
    assert np.isfinite(clean(codec, -cell)["value"]).all()


@pytest.mark.parametrize("cells", [[3e38, -3e38], [0, 5e-324], [1e-30, 2e-30], [-(2**63), 2**63]])
def test_extreme_numbers_stay_finite(cells):
    codec = fitted("number", cells)
    for cell in (*cells, 0, 3e38, -3e38):
        assert np.isfinite(clean(codec, cell)["value"]).all() and np.abs(clean(codec, cell)["value"]).max() <= 10


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.decimal128(22, 1), pa.large_string()])
def test_number_columns_of_any_type(kind):
    text = pa.types.is_large_string(kind)
    values, present, refused = codecs.build("number", "c").read_column(
        pa.chunked_array([pa.array(["1", None] if text else [1, None]).cast(kind)])
    )
    assert values[0] == 1 and present.tolist() == [True, False] and not refused


# -- categories -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw, value",
    [
        *((1, "1"), (1.0, "1"), ("1", "1"), ("1.0", "1.0"), (1.5, "1.5"), (np.float64(2), "2"), (np.int8(3), "3"), ("01", "01")),
        *(
            (True, "true"),
            (np.bool_(False), "false"),
            (" Köln ", "Köln"),
            ("北京", "北京"),
            ("مدينة", "مدينة"),
            (date(2020, 1, 2), "2020-01-02"),
        ),
        *(
            (math.nan, None),
            (np.float32("nan"), None),
            (np.datetime64("NaT"), None),
            ("  ", None),
            ("half \ud83d", "half ?"),
            (math.inf, "inf"),
        ),
    ],
)
def test_a_category_is_its_text(raw, value):
    assert codecs.build("category", "c").read(raw) == value


def test_a_class_never_seen_is_its_own_case_and_rare_ones_can_be():
    codec = fitted("category", ["b", "a", "10", "9", "b", "once"])
    assert codec.values == ["9", "10", "a", "b", "once"] and codec.cardinality == 6
    assert [int(clean(codec, c)["index"][0]) for c in ("9", "10", "once", "new", "NEW")] == [1, 2, 5, 0, 0]
    assert fitted("category", ["b", "a", "b"], min_count=2).values == ["b"]
    assert fitted("category", ["only"] * 3).cardinality == 2
    many = fitted("category", [f"v{i}" for i in range(30_000)] + ["v7"], most=5)
    assert len(many.values) == 5 and "v7" in many.values
    draws = Draws(0, 0, "c", np.arange(2000))
    hidden = codec.augment({"index": torch.ones(2000, 1, dtype=torch.long)}, draws)["index"] == 0
    assert 0.005 < hidden.float().mean() < 0.05


# -- times ------------------------------------------------------------------------------------------------------

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "raw",
    [
        *("2024-02-29T12:00:00Z", "2024-02-29 12:00", "20240229T120000", "2024-02-29T14:00:00+02:00", "2024-02-29T06:30:00-05:30"),
        *(
            "29.02.2024 12:00",
            "29.2.2024 12:00:00",
            "2024/02/29 12:00",
            "2024-W09-4T12:00",
            NOON,
            int(NOON),
            str(int(NOON)),
            str(NOON),
            np.int64(NOON),
            np.float64(NOON),
        ),
        *(datetime(2024, 2, 29, 12), datetime(2024, 2, 29, 14, tzinfo=timezone(timedelta(hours=2))), np.datetime64("2024-02-29T12:00")),
        np.datetime64("2024-02-29T12:00:00.000000000"),
    ],
)
def test_one_time_in_many_forms(raw):
    assert codecs.build("time", "c").read(raw) == NOON


@pytest.mark.parametrize("raw", ["2024-02-29", "29.02.2024", "2024/2/29", date(2024, 2, 29), np.datetime64("2024-02-29"), " 20240229 "])
def test_a_date_is_its_midnight(raw):
    assert codecs.build("time", "c").read(raw) == NOON - 43200


@pytest.mark.parametrize(
    "raw",
    [
        *("2023-02-29", "31.04.2024", "2024-13-01", "03/04/2024", "25:00", "13:45", "yesterday", "2024-01-01T25:00", "0000-00-00", "12.5"),
        *(1e12, math.inf, 10**400, True, [1], b"2024", np.datetime64("99999-01-01"), "x" * 10**6, "\x00"),
    ],
)
def test_an_impossible_or_ambiguous_time_is_refused(raw):
    with pytest.raises(DataError, match="time"):
        codecs.build("time", "c").read(raw)


@pytest.mark.parametrize("raw", [None, "", " ", math.nan, np.datetime64("NaT")])
def test_missing_times(raw):
    assert codecs.build("time", "c").read(raw) is None


def test_times_know_the_day_of_the_week_and_the_hour():
    codec = fitted("time", ["2024-01-01", "2024-01-03"])
    monday = clean(codec, "2024-01-01")["value"]
    np.testing.assert_allclose(monday[[0, 6, 7, 8, 9]], [-1, 0, 1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(clean(codec, "2024-01-01T06:00")["value"][[8, 9]], [1, 0], atol=1e-5)
    np.testing.assert_allclose(clean(codec, "2024-01-08")["value"][6:], monday[6:], atol=1e-5)
    for extreme in ("0001-01-01", "9999-12-31"):
        assert np.isfinite(clean(codec, extreme)["value"]).all()


# -- ids and labels ---------------------------------------------------------------------------------------------


def test_ids_keep_their_order_and_unseen_ones_are_other():
    codec = fitted("ids", [[17, 4, 4], "[4, 17]", ["北", "17"]], longest=4)
    assert codec.values == ["17", "4"]
    x = codec.collate([clean(codec, c) for c in ([4, 17, 99], "[17]", np.array([4, 4]), (1, 2, 3, 4, 17))])
    assert x["ids"].tolist() == [[2, 1, 0, 0], [1, 0, 0, 0], [2, 2, 0, 0], [0, 0, 2, 1]]
    assert x["mask"].sum(1).tolist() == [3, 1, 2, 4]


@pytest.mark.parametrize("kind", ["ids", "labels"])
@pytest.mark.parametrize("mark", ["|", ";", ","])
def test_the_separator_is_learned(kind, mark):
    codec = fitted(kind, [f"b {mark} a", f"a{mark}b{mark}", "a", "größer" + mark + "größer"])
    assert codec.separator == mark and codec.values == ["a", "b", "größer"]
    assert fitted(kind, ["a/b", "b/a"], separator="/").values == ["a", "b"]


@pytest.mark.parametrize("kind", ["ids", "labels"])
@pytest.mark.parametrize(
    "raw", [[None], [1.5], [[1]], "[1.0]", "[null]", "['a']", DEEP[:9000], {"a": 1}, b"x", [DIGITS], 5.5, np.array([[1]])]
)
def test_lists_of_other_things_are_refused(kind, raw):
    with pytest.raises(DataError, match="list|other things|holds"):
        codecs.build(kind, "c").read(raw)


def test_no_labels_is_an_answer_and_an_empty_cell_is_none():
    codec = fitted("labels", [["red", "round"], "blue|red", '["blue"]', []])
    hot = {str(c): clean(codec, c)["hot"].tolist() for c in (["red"], "round|blue", '["red", "new"]', [], "[ ]", ["new"])}
    assert codec.values == ["blue", "red", "round"]
    assert list(hot.values()) == [[0, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert codec.read("") is None and codec.read(None) is None and codec.read(" ") is None
    with pytest.raises(DataError, match="empty list"):
        codecs.build("ids", "c").read([])


def test_huge_cells_take_no_time():
    start = time.process_time()
    for kind, raw in (("ids", "|".join(map(str, range(300_000)))), ("labels", ["x"] * 300_000), ("series", list(range(300_000)))):
        clean(fitted(kind, [raw]), raw)
    assert time.process_time() - start < 5
