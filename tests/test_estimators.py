"""The scikit-learn estimators: the conventions, tables of mixed columns, and what must not happen to the user's cache."""

import inspect
import io
import pickle
import pickletools
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyfuse as pf
from polyfuse import PolyfuseClassifier, PolyfuseRegressor, PolyfuseTransformer

QUICK = {"time": 0.01, "random_state": 0}  # no time for more than the first learner: always the same one, and fast
NETWORK = {"fusion": "concat", "size": "s", "settings": {"train.epochs": 2}, "random_state": 0}
EXCEPTED = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight two is one row of the folds, and lies in one of them; two equal "
    "rows may lie in two"
}


def excepted(estimator):
    return {} if isinstance(estimator, PolyfuseTransformer) else EXCEPTED


@parametrize_with_checks(
    [PolyfuseClassifier(**QUICK), PolyfuseRegressor(**QUICK), PolyfuseTransformer()],
    expected_failed_checks=excepted,
)
def test_conventions(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [PolyfuseClassifier(), PolyfuseRegressor(), PolyfuseTransformer(**NETWORK)],
    expected_failed_checks=excepted,
)
def test_conventions_of_the_defaults(estimator, check):
    check(estimator)


def planted(rows=80, seed=0):
    """A text that tells three classes, a number that tells them too, a category that does not matter, and gaps in all of them."""
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=rows)
    words = [["grey dull dark fog", "red warm sun fire", "green calm wood moss"][b].split() for b in label]
    frame = pd.DataFrame(
        {
            "note": [" ".join(rng.choice(w, 3)) + f" in year {rng.integers(1900, 2000)}" for w in words],
            "amount": label + rng.normal(0, 0.1, rows),
            "colour": rng.choice(["blue", "green", "a very_rare one"], rows, p=[0.5, 0.48, 0.02]),
        }
    )
    frame.loc[::9, "note"] = None
    frame.loc[1::9, "amount"] = np.nan
    frame.loc[2::9, "colour"] = None
    return frame, label


FRAME, Y = planted()
X = np.random.default_rng(1).normal(size=(60, 3))


def files_in(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


# -- conventions that the checks do not see -----------------------------------------------------------------------


def test_importing_polyfuse_imports_neither_torch_nor_scikit_learn():
    code = "import sys, polyfuse; print('torch' in sys.modules, 'sklearn' in sys.modules, 'PolyfuseClassifier' in dir(polyfuse))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize("estimator", [PolyfuseClassifier, PolyfuseRegressor, PolyfuseTransformer])
def test_parameters_are_stored_as_they_are_and_said_of_fit(estimator):
    names = [n for n in inspect.signature(estimator).parameters]
    values = {n: object() for n in names}
    made = estimator(**values)
    assert all(getattr(made, n) is values[n] for n in names)
    assert made.get_params(deep=False) == values
    asked = {"set" if n == "settings" else "seed" if n == "random_state" else "quiet" if n == "verbose" else n for n in names}
    assert asked - {"base"} <= set(inspect.signature(pf.fit).parameters)


@pytest.mark.parametrize("labels", [[3, 7, 11], ["low", "mid", "high"], [-1.0, 0.0, 2.0]])
def test_labels_come_back_as_they_were_given(labels):
    y = np.array(labels)[Y]
    model = PolyfuseClassifier(**QUICK).fit(FRAME, y)
    assert model.classes_.dtype == y.dtype and model.classes_.tolist() == sorted(labels)
    assert model.predict(FRAME).dtype == y.dtype and model.score(FRAME, y) > 0.8
    proba = model.predict_proba(FRAME)
    assert proba.shape == (80, 3) and np.allclose(proba.sum(1), 1)
    assert (model.classes_[proba.argmax(1)] == model.predict(FRAME)).all()


def test_labels_of_two_kinds_are_binary_and_booleans_stay_booleans():
    model = PolyfuseClassifier(**QUICK).fit(FRAME, Y > 0)
    assert model.classes_.tolist() == [False, True] and model.predict(FRAME).dtype == bool
    assert model.bundle_.recipe["parts"]["target"]["task"] == "binary"
    words = pd.Series(np.where(Y > 0, "yes", "no"), index=range(100, 180))
    named = PolyfuseClassifier(**QUICK).fit(FRAME, words)
    assert named.classes_.tolist() == ["no", "yes"] and named.score(FRAME, words) == model.score(FRAME, Y > 0)


@pytest.mark.parametrize(
    "y, message",
    [
        (np.zeros(80), "one class only, '0.0'"),
        (Y[:40], "inconsistent numbers of samples"),
        (np.linspace(0, 1, 80), "Unknown label type"),
        (np.where(Y > 0, "a", None), "not supported between|NaN|Unknown label type"),
        (None, "requires y"),
    ],
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PolyfuseClassifier(**QUICK).fit(FRAME, y)


def test_a_regressor_predicts_in_the_unit_of_y_and_several_at_once():
    y = np.stack([100 + 5 * X[:, 0], X[:, 1] - X[:, 2]], 1)
    one = PolyfuseRegressor(**QUICK).fit(X, y[:, 0])
    both = PolyfuseRegressor(**QUICK).fit(X, y)
    assert one.predict(X).shape == (60,) and both.predict(X).shape == (60, 2)
    assert one.score(X, y[:, 0]) > 0.99 and both.score(X, y) > 0.99
    assert abs(both.predict(X)[:, 0].mean() - 100) < 2


def test_the_same_random_state_gives_the_same_model_and_none_another_each_time():
    for kind in (QUICK, NETWORK):
        first, second = (PolyfuseClassifier(**kind).fit(FRAME, Y).predict_proba(FRAME) for _ in range(2))
        assert np.array_equal(first, second)
    seeds = {PolyfuseClassifier(time=0.01).fit(FRAME, Y).bundle_.recipe["seed"] for _ in range(2)}
    assert len(seeds) == 2
    state = {PolyfuseClassifier(time=0.01, random_state=np.random.RandomState(3)).fit(FRAME, Y).bundle_.recipe["seed"] for _ in range(2)}
    assert len(state) == 1


def test_fit_says_nothing_unless_told_to(capfd):
    PolyfuseClassifier(**QUICK).fit(FRAME, Y).predict(FRAME)
    PolyfuseTransformer().fit(FRAME)
    assert capfd.readouterr() == ("", "")
    PolyfuseClassifier(**QUICK, verbose=True).fit(FRAME, Y)
    out, err = capfd.readouterr()
    assert out == "" and "learn linear on" in err


def test_unfitted_estimators_say_so():
    for call in (PolyfuseClassifier().predict, PolyfuseRegressor().predict, PolyfuseTransformer().transform):
        with pytest.raises(NotFittedError):
            call(X)
    with pytest.raises(NotFittedError):
        PolyfuseTransformer().get_feature_names_out()


# -- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pl.from_pandas, pa.Table.from_pandas, lambda f: f.set_index("note", drop=False)])
def test_the_kind_of_frame_does_not_matter(kind):
    model, other = PolyfuseClassifier(**QUICK).fit(FRAME, Y), PolyfuseClassifier(**QUICK).fit(kind(FRAME), Y)
    assert other.feature_names_in_.tolist() == ["note", "amount", "colour"] and other.n_features_in_ == 3
    assert np.array_equal(model.predict_proba(FRAME), other.predict_proba(FRAME))
    assert np.array_equal(model.predict_proba(FRAME), model.predict_proba(kind(FRAME)))


def test_columns_are_checked():
    model = PolyfuseClassifier(**QUICK).fit(FRAME, Y)
    with pytest.raises(ValueError, match="should match those that were passed during fit"):
        model.predict(FRAME[["amount", "note", "colour"]])
    with pytest.raises(ValueError, match="2 features, but PolyfuseClassifier is expecting 3|missing"):
        model.predict(FRAME[["note", "amount"]])
    with pytest.raises(ValueError, match="no rows"):
        model.predict(FRAME[:0])
    with pytest.raises(pf.RecipeError, match="column 'nota'.*did you mean 'note'"):
        PolyfuseClassifier(columns={"nota": "text"}).fit(FRAME, Y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert np.array_equal(model.predict(FRAME.to_numpy()), model.predict(FRAME))


def test_columns_of_an_array_are_numbers_where_they_are_numbers():
    columns = {c.name: (c.modality, c.role) for c in PolyfuseClassifier(**QUICK).fit(X.round(), X[:, 0] > 0).bundle_.schema.columns}
    assert columns == {"x0": ("number", "input"), "x1": ("number", "input"), "x2": ("number", "input"), "target": ("category", "target")}
    objects = FRAME.to_numpy()
    model = PolyfuseClassifier(**QUICK).fit(objects, Y)
    assert [c.modality for c in model.bundle_.schema.having("input")] == ["text", "number", "category"]
    assert model.score(objects, Y) > 0.8
    whole = PolyfuseClassifier(**QUICK, columns={"x1": "ignore", "x2": "category"}).fit(X.round(), X[:, 0] > 0)
    assert [(c.name, c.modality) for c in whole.bundle_.schema.having("input")] == [("x0", "number"), ("x2", "category")]


def test_a_column_may_be_called_target_or_weight():
    frame = pd.DataFrame({"target": X[:, 0], "weight": X[:, 1], "target_": X[:, 2]})
    model = PolyfuseRegressor(**QUICK).fit(frame, X[:, 0] * 2, sample_weight=np.ones(60))
    assert [c.name for c in model.bundle_.schema.having("input")] == ["target", "weight", "target_"]
    assert model.score(frame, X[:, 0] * 2) > 0.99


def test_constant_and_empty_columns_are_no_obstacle():
    odd = np.column_stack([X[:, 0], np.full(60, 7.0), np.full(60, np.nan)])
    assert PolyfuseRegressor(**QUICK).fit(odd, X[:, 0]).score(odd, X[:, 0]) > 0.99
    nothing = np.full((60, 2), np.nan)
    for made in (PolyfuseRegressor(**QUICK), PolyfuseTransformer()):
        with pytest.raises(pf.DataError, match="every cell is missing"):
            made.fit(nothing, X[:, 0])
    assert PolyfuseTransformer().fit_transform(odd).shape == (60, 2)


def test_sparse_infinite_and_flat_arrays_are_refused():
    for made in (PolyfuseClassifier(**QUICK), PolyfuseTransformer()):
        with pytest.raises(TypeError, match="[Ss]parse"):
            made.fit(sparse.csr_matrix(X), X[:, 0] > 0)
        with pytest.raises(ValueError, match="infinity"):
            made.fit(np.where(X > 2, np.inf, X), X[:, 0] > 0)
        with pytest.raises(ValueError, match="Reshape your data"):
            made.fit(X[:, 0], X[:, 0] > 0)


def test_weights_count_and_rows_without_weight_are_not_there():
    y = np.concatenate([X[:30, 0], -X[30:, 0]])
    first = np.repeat([1.0, 0.0], 30)
    weighted, alone = PolyfuseRegressor(**QUICK).fit(X, y, sample_weight=first), PolyfuseRegressor(**QUICK).fit(X[:30], y[:30])
    assert np.allclose(weighted.predict(X), alone.predict(X), atol=1e-5)
    assert PolyfuseRegressor(**QUICK).fit(X, y, sample_weight=np.repeat([1.0, 0.01], 30)).score(X[:30], y[:30]) > 0.9
    with pytest.raises(ValueError, match="Negative values"):
        PolyfuseRegressor(**QUICK).fit(X, y, sample_weight=first - 0.5)


def test_media_are_found_from_the_base_folder(mixed):
    frame = pd.read_csv(mixed(rows=40))
    label = frame.pop("label")
    model = PolyfuseClassifier(columns={"degrees": "ignore"}, base=mixed().parent, random_state=0, time=1).fit(frame, label)
    assert {"image", "audio"} <= {c.modality for c in model.bundle_.schema.having("input")}
    assert model.score(frame, label) > 0.8


# -- beside other estimators --------------------------------------------------------------------------------------


def test_cross_validation_search_and_pipelines():
    assert cross_val_score(PolyfuseClassifier(**QUICK), FRAME, Y, cv=3).mean() > 0.6
    grid = GridSearchCV(PolyfuseClassifier(**QUICK), {"columns": [None, {"note": "ignore", "amount": "ignore"}]}, cv=3).fit(FRAME, Y)
    assert grid.best_params_ == {"columns": None}
    assert grid.best_estimator_.bundle_.views.keys() == {"note", "table"}
    piped = make_pipeline(PolyfuseTransformer(), LogisticRegression(max_iter=500))
    assert cross_val_score(piped, FRAME, Y, cv=3).mean() > 0.6
    some = make_column_transformer((PolyfuseTransformer(), ["note", "colour"]), ("drop", ["amount"]))
    assert make_pipeline(some, Ridge()).fit(FRAME, Y).score(FRAME, Y) > 0.3


def test_fits_leave_nothing_behind_unless_a_store_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    cross_val_score(PolyfuseClassifier(**QUICK), FRAME, Y, cv=2)
    model = PolyfuseTransformer().fit(FRAME)
    pickle.dumps(model)
    assert not files_in(tmp_path)
    stored = PolyfuseClassifier(**QUICK, store=tmp_path / "store").fit(FRAME, Y)
    files = files_in(tmp_path / "store")
    assert files
    again = clone(stored).fit(FRAME, Y)
    assert files_in(tmp_path / "store") == files
    assert np.array_equal(stored.predict_proba(FRAME), again.predict_proba(FRAME))


@pytest.mark.parametrize("model", [PolyfuseClassifier(**QUICK), PolyfuseClassifier(**NETWORK), PolyfuseRegressor(**QUICK)])
def test_a_pickle_holds_the_bundles_files_and_answers_the_same(model):
    model.fit(FRAME, Y)
    state = model.__getstate__()["bundle_"]
    assert set(state) == {"card.json", "codecs.json", "encoders.json", "manifest.json", "recipe.json", "weights.safetensors"}
    assert all(isinstance(data, bytes) for data in state.values())
    packed = pickle.dumps(model)
    assert not [
        text for _, text, _ in pickletools.genops(packed) if isinstance(text, str) and text.startswith(("torch", "polyfuse.bundle"))
    ]
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    for other in (pickle.loads(packed), joblib.load(file)):
        assert np.array_equal(model.predict(FRAME), other.predict(FRAME))
        assert other.feature_names_in_.tolist() == ["note", "amount", "colour"]


def test_the_bundle_can_be_saved_and_used_without_scikit_learn(tmp_path):
    model = PolyfuseClassifier(**QUICK).fit(FRAME, Y)
    bundle = pf.Bundle.load(model.bundle_.save(tmp_path / "b"))
    assert [int(value) for value in bundle.predict(FRAME).values()] == model.predict(FRAME).tolist()


# -- the transformer ----------------------------------------------------------------------------------------------


def test_the_transformer_describes_every_column_without_y():
    model = PolyfuseTransformer().fit(FRAME)
    found, names = model.transform(FRAME), model.get_feature_names_out().tolist()
    assert found.dtype == np.float32 and found.shape == (80, len(names)) and len(set(names)) == len(names)
    by_name = dict(zip(names, found.T))
    amount = FRAME["amount"].to_numpy()
    there = np.isfinite(amount)
    expected = np.where(there, (amount - amount[there].mean()) / amount[there].std(), 0.0)
    assert np.allclose(by_name["amount_0"], expected, atol=1e-5)
    assert np.array_equal(by_name["amount_there"], there) and np.array_equal(by_name["colour_there"], FRAME["colour"].notna())
    assert np.array_equal(by_name["colour_blue"], FRAME["colour"] == "blue")
    assert np.array_equal(by_name["colour_green"], FRAME["colour"] == "green")
    rest = [n for n in names if not n.startswith(("amount_", "colour_"))]
    assert set(rest) == {f"note_{i}" for i in range(len(rest) - 1)} | {"note_there"}
    assert not np.stack([by_name[n] for n in rest])[:, ::9].any()  # no text, no numbers
    assert (found.std(0) > 0).all()
    assert np.array_equal(found, PolyfuseTransformer().fit(FRAME, Y).transform(FRAME))


def test_rare_and_unknown_values_share_a_column():
    colour = ["red"] * 20 + ["blue"] * 16 + ["tan"] * 2 + ["pink"] * 2
    frame = pd.DataFrame({"colour": colour, "x": np.arange(40.0)})
    model = PolyfuseTransformer().fit(frame)
    names = model.get_feature_names_out().tolist()
    assert names == ["x_0", "x_1", "colour_rare", "colour_blue", "colour_red"] or names[2:] == ["colour_blue", "colour_red", "colour_rare"]
    rare = names.index("colour_rare")
    assert model.transform(frame)[:, rare].tolist() == [0.0] * 36 + [1.0] * 4
    assert model.transform(pd.DataFrame({"colour": ["tan", "green"], "x": [0.5, 1.0]}))[:, rare].tolist() == [1.0, 1.0]


def test_a_category_of_many_values_keeps_the_most_frequent():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"city": [f"c{i}" for i in rng.integers(300, size=3000)], "x": rng.normal(size=3000)})
    kept = PolyfuseTransformer().fit(frame).get_feature_names_out()
    assert sum(n.startswith("city_") for n in kept) == 101 and "city_other" in kept
    few = PolyfuseTransformer(settings={"category.most": 5}).fit(frame).get_feature_names_out()
    assert sum(n.startswith("city_") for n in few) == 6


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output(kind):
    model = PolyfuseTransformer().set_output(transform=kind).fit(FRAME)
    found = model.transform(FRAME)
    assert isinstance(found, {"pandas": pd.DataFrame, "polars": pl.DataFrame}[kind])
    assert list(found.columns) == model.get_feature_names_out().tolist()


def test_gaps_in_a_vector_are_flagged_one_by_one():
    vectors = [[1.0, None], [2.0, 3.0], None, [4.0, 5.0]] * 6
    frame = pa.table({"v": vectors, "x": list(range(24))})
    names = PolyfuseTransformer(columns={"v": "vector"}).fit(frame).get_feature_names_out().tolist()
    assert [n for n in names if n.startswith("v_")] == ["v_0", "v_1", "v_0_there", "v_1_there"]


@pytest.mark.parametrize("y, task", [(Y, "multiclass"), (Y + 0.5, "regression"), (np.stack([Y, Y]).T + 0.5, "regression")])
def test_with_a_fusion_the_transformer_gives_fused_vectors(y, task):
    model = PolyfuseTransformer(**NETWORK).fit(FRAME, y)
    assert model.bundle_.recipe["parts"]["target"]["task"] == task
    found = model.transform(FRAME)
    assert found.shape == (80, 64) and model.get_feature_names_out().tolist() == [f"fused_{i}" for i in range(64)]
    assert np.array_equal(found, model.bundle_.embed(FRAME))
    assert np.array_equal(found, pickle.loads(pickle.dumps(model)).transform(FRAME))
    with pytest.raises(ValueError, match="requires y"):
        PolyfuseTransformer(**NETWORK).fit(FRAME)


def test_a_pickled_transformer_gives_the_same_numbers():
    model = PolyfuseTransformer().fit(FRAME)
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(model.transform(FRAME), other.transform(FRAME))
    assert other.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()


def test_nothing_to_describe_is_said():
    with pytest.raises(pf.DataError, match="no column to describe"):
        PolyfuseTransformer().fit(pd.DataFrame({"a": ["same"] * 30}))
