"""The scikit-learn estimator: its laws, the places it goes into, scikit-learn's own checks, and bad input."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import corpus_rows
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

import textlora
from textlora import data
from textlora import sklearn as ours
from textlora.errors import DataError, UsageError
from textlora.sklearn import TextLoraClassifier

ROWS = corpus_rows("train")[:120]
TEXTS = [row["text"] for row in ROWS]
LABELS = [row["label"] for row in ROWS]


@pytest.fixture(scope="module")
def tiny(tiny_config):
    """An estimator that fits in a second: `tiny(random_state=1)`."""
    config = tiny_config("bert").to_dict()
    names = ("base_weights", "lora_alpha", "batch_tokens", "max_steps", "logging_steps", "precision")

    def make(kind=TextLoraClassifier, **changes):
        more = {name: config[name] for name in names} | changes.pop("settings", {})
        given = {"base": "bert", "lora_r": 4, "max_length": 48, "learning_rate": 5e-3, "settings": more}
        return kind(**(given | changes))

    return make


@pytest.fixture(scope="module")
def fitted(tiny):
    return tiny().fit(TEXTS, LABELS)


# ---------------------------------------------------------------------------------------------------------------- laws


def test_predict_is_the_label_of_the_largest_probability(fitted):
    probabilities = fitted.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert list(fitted.classes_) == sorted(set(LABELS))
    np.testing.assert_array_equal(fitted.predict(TEXTS), fitted.classes_[probabilities.argmax(axis=1)])
    assert fitted.score(TEXTS, LABELS) == np.mean(fitted.predict(TEXTS) == np.array(LABELS))


@pytest.mark.slow
def test_a_clone_with_the_same_seed_gives_the_same_probabilities_and_another_seed_others(fitted):
    again = clone(fitted)
    assert not hasattr(again, "adapter_")
    np.testing.assert_array_equal(again.fit(TEXTS, LABELS).predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    other = clone(fitted).set_params(random_state=1).fit(TEXTS, LABELS)
    assert np.any(other.predict_proba(TEXTS) != fitted.predict_proba(TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (LABELS, np.str_),
        (np.array(LABELS, dtype=object), object),
        (pd.Series(LABELS), object),
        ([{"World": 7, "Sports": -1}.get(label, 40) for label in LABELS], np.int64),
        ([label == "World" for label in LABELS], np.bool_),
        (np.array([label == "World" for label in LABELS], dtype=np.int8), np.int8),
    ],
    ids=["strings", "objects", "series", "whole numbers", "booleans", "int8"],
)
def test_labels_keep_their_type(tiny, y, kind):
    model = tiny(settings={"max_steps": 1}).fit(TEXTS, y)
    assert model.classes_.dtype.type is (np.object_ if kind is object else kind)
    predicted = model.predict(TEXTS[:5])
    assert predicted.dtype == model.classes_.dtype
    assert set(predicted.tolist()) <= set(np.asarray(y).tolist())


@pytest.mark.parametrize("column", [np.array(LABELS)[:, None], pd.DataFrame({"label": LABELS})])
def test_a_column_of_labels_is_taken_with_scikit_learns_warning(column):
    with pytest.warns(DataConversionWarning, match="1d array was expected"):
        classes, ids = ours._encode(TEXTS, column)
    assert classes[ids].tolist() == LABELS


@pytest.mark.parametrize(
    "X",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pd.Series(TEXTS, index=range(7, 7 + len(TEXTS))),
        pd.DataFrame({"text": TEXTS}),
    ],
    ids=["tuple", "array", "one column", "series", "frame"],
)
def test_texts_come_as_any_one_column(fitted, X):
    np.testing.assert_array_equal(fitted.predict_proba(X), fitted.predict_proba(TEXTS))


def test_no_texts_have_no_labels(fitted):
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 4)


def test_a_pickle_predicts_the_same_and_holds_no_base(fitted):
    before = fitted.predict_proba(TEXTS)
    whole = pickle.dumps(fitted)
    again = pickle.loads(whole)  # noqa: S301 - our own
    np.testing.assert_array_equal(again.predict_proba(TEXTS), before)
    adapter = sum(map(len, fitted.adapter_.files.values()))
    assert len(whole) < adapter + 10_000


def test_the_estimator_trains_what_train_trains(tiny, fitted, tmp_path):
    """The same settings and rows by the function, and the run that `out` keeps."""
    kept = tiny(out=tmp_path / "run").fit(TEXTS, LABELS)
    assert kept.run_ == str(tmp_path / "run")
    np.testing.assert_array_equal(kept.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    model = textlora.load(kept.run_, base_weights=kept.settings["base_weights"], precision="fp32")
    np.testing.assert_array_equal(model.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert model.labels == tuple(fitted.classes_)
    assert kept.summary_["verdict"][-1].startswith(ours.NEXT)
    assert not any(line.startswith(ours.NEXT) for line in fitted.summary_["verdict"])  # its folder has gone
    with pytest.raises(UsageError, match="exists"):
        clone(kept).fit(TEXTS, LABELS)


@pytest.mark.slow
def test_nothing_is_left_in_the_temporary_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tiny(settings={"max_steps": 1}).fit(TEXTS, LABELS).predict(TEXTS[:2])
    assert list(tmp_path.iterdir()) == []


def test_settings_come_from_the_recipe_the_parameters_and_the_rest(tiny):
    config = tiny(budget=np.int64(500_000), random_state=np.random.RandomState(3))._config()
    assert (config.base, config.lora_r, config.budget, config.max_steps) == ("bert", 4, 500_000, 6)
    assert config.weight_decay == textlora.load_config().weight_decay
    assert config.seed == np.random.RandomState(3).randint(2**31 - 1)
    assert tiny(random_state=5)._config().seed == 5
    assert TextLoraClassifier()._config() == textlora.load_config()


def test_parameters_that_are_settings_have_settings_names():
    names = set(TextLoraClassifier().get_params()) - set(ours.NOT_SETTINGS)
    assert names <= set(textlora.config.setting_fields())
    assert set(ours.GIVEN_BY_FIT) <= set(textlora.config.setting_fields())


# -------------------------------------------------------------------------------------------------------------- places


@pytest.mark.slow
def test_it_goes_into_a_pipeline_a_cross_validation_and_a_search(tiny):
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipe = make_pipeline(lower, tiny(settings={"max_steps": 2}))
    scores = cross_val_score(pipe, TEXTS, LABELS, cv=2, error_score="raise")
    assert scores.shape == (2,)
    search = GridSearchCV(pipe, {"textloraclassifier__lora_r": [1, 2]}, cv=2, error_score="raise")
    search.fit(np.array(TEXTS), LABELS)
    assert search.best_params_["textloraclassifier__lora_r"] in (1, 2)
    assert set(search.predict(TEXTS[:9])) <= set(LABELS)


@pytest.mark.slow
def test_a_cross_validation_in_two_processes_scores_the_same(tiny):
    model = tiny(settings={"max_steps": 1})
    in_one, in_two = (cross_val_score(model, TEXTS, LABELS, cv=2, n_jobs=n, error_score="raise") for n in (1, 2))
    np.testing.assert_array_equal(in_one, in_two)


# ------------------------------------------------------------------------------------------------ scikit-learn's checks


class NumbersAsTexts(TextLoraClassifier):
    """What scikit-learn's checks feed are tables of numbers; here each row is written as a text."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        tags.classifier_tags.poor_score = True  # a random base, a few steps
        return tags

    def _texts(self, X, reset):
        table = validate_data(self, X, reset=reset, dtype="numeric")
        return [" ".join(f"{cell:.5g}" for cell in row) for row in table.tolist()]

    def fit(self, X, y):
        return super().fit(self._texts(X, reset=True), y)

    def predict_proba(self, X):
        ours.check_is_fitted(self)
        return super().predict_proba(self._texts(X, reset=False))


EXPECTED_FAILURES: dict[str, str] = {}  # check -> why it can't hold; none so far


def test_check_estimator_itself_has_nothing_to_feed_a_classifier_of_texts(tiny):
    """It says so and stops; what follows makes it feed texts."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_estimator(tiny())
    assert any("Can't test estimator TextLoraClassifier" in str(one.message) for one in said)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_scikit_learns_checks_pass_with_numbers_written_as_texts(tiny, monkeypatch):
    for picture in ("training_plots", "evaluation_plots"):  # 50 fits' pictures would take half of the time
        monkeypatch.setattr(f"textlora.plots.{picture}", lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            tiny(NumbersAsTexts, settings={"max_steps": 1}),
            expected_failed_checks=EXPECTED_FAILURES,
            on_skip=None,
            on_fail=None,
        )
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(EXPECTED_FAILURES)  # none without need
    assert sum(result["status"] == "passed" for result in results) >= 40


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (TEXTS, LABELS[:-1], "inconsistent numbers of samples"),
        (TEXTS, None, "y can't be used as labels"),
        (TEXTS, [[label, label] for label in LABELS], "1d array"),
        (TEXTS, np.linspace(0, 1, len(TEXTS)), "continuous"),
        (TEXTS, [*LABELS[:-1], None], "y can't be used as labels"),
        (TEXTS, [*LABELS[:-1], 1.0], "some are strings and some are not"),
        (TEXTS, ["World"] * len(TEXTS), "one class only"),
        (TEXTS, ["" if label == "World" else label for label in LABELS], "not blank"),
        ([*TEXTS[:-1], None], LABELS, r"X\[119\] is a NoneType"),
        ([*TEXTS[:-1], float("nan")], LABELS, r"X\[119\] is a float"),
        ([*TEXTS[:-1], b"bytes"], LABELS, r"X\[119\] is a bytes"),
        ([*TEXTS[:-1], " "], LABELS, "memory: row 120: the text is empty"),
        (TEXTS[0], LABELS, "expected texts in one dimension"),
        ((text for text in TEXTS), LABELS, "expected texts in one dimension"),
        (pd.DataFrame({"a": TEXTS, "b": TEXTS}), LABELS, r"DataFrame of shape \(120, 2\)"),
        ([], [], "no texts"),
        (TEXTS[:1] * 9, ["World", "Sports", "Business"] * 3, "leave none for validation"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_words(tiny, X, y, message):
    with pytest.raises((DataError, UsageError), match=message):
        tiny().fit(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"recipe": "minilm-fats"}, "did you mean minilm-fast"),
        ({"lora_r": "most"}, "max"),
        ({"settings": {"lora_r": 4}}, "lora_r is given twice"),
        ({"settings": {"sed": 4}}, "no setting 'sed'"),
        ({"settings": {"data": "mini-news"}}, "fit"),
        ({"random_state": 1, "settings": {"seed": 2}}, "seed is given twice"),
        ({"random_state": "x"}, "cannot be used to seed"),
    ],
)
def test_wrong_parameters_are_told_in_fit(params, message):
    with pytest.raises(ValueError, match=message):
        TextLoraClassifier(**({"lora_r": 8} | params)).fit(TEXTS, LABELS)


def test_a_weight_for_each_row_is_not_supported(tiny):
    with pytest.raises(TypeError, match="sample_weight"):
        tiny().fit(TEXTS, LABELS, sample_weight=np.ones(len(TEXTS)))


def test_an_unfitted_one_says_so(tiny):
    with pytest.raises(NotFittedError):
        tiny().predict(TEXTS)


# -------------------------------------------------------------------------------------------------- rows from memory


def test_rows_from_memory_are_those_of_a_file(tmp_path):
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "rows.csv", index=False)
    of_file = data.load(str(tmp_path / "rows.csv"))
    names, ids = np.unique(LABELS, return_inverse=True)
    of_memory = data.from_texts(TEXTS, ids, names.tolist())
    for name in ("train", "validation"):
        assert getattr(of_memory, name).fingerprint == getattr(of_file, name).fingerprint
    assert (of_memory.label_names, of_memory.counts) == (of_file.label_names, of_file.counts)
