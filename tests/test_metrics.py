"""Laws, references and bad input of metrics.py."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap
from sklearn import metrics as reference
from statsmodels.stats.proportion import proportion_confint

from textlora import metrics
from textlora.errors import DataError, GateError, UsageError

NAMES = ["World", "Sports", "Business", "Sci/Tech"]
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def sample(seed: int, n: int = 200, num_labels: int = 4, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and probabilities (n, C) of a middling classifier."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels, n)
    logits = rng.normal(size=(n, num_labels))
    logits[np.arange(n), labels] += strength
    return labels, softmax(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def names(count: int) -> list[str]:
    return [f"label {k}" for k in range(count)]


seeds = st.integers(0, 2**32 - 1)


# ---------------------------------------------------------------------------------------------------------- laws


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 60), num_labels=st.integers(2, 7))
def test_the_order_of_rows_does_not_matter(seed, n, num_labels):
    labels, p = sample(seed, n, num_labels)
    p = softmax(np.log(p).round(1))  # rounded: equal confidences occur
    order = np.random.default_rng(seed).permutation(n)
    straight = flat(metrics.score(labels, p, names(num_labels)).to_dict())
    assert flat(metrics.score(labels[order], p[order], names(num_labels)).to_dict()) == pytest.approx(straight, **CLOSE)


def flat(value, path: str = "") -> dict[str, float]:
    """Every number in nested lists and dicts under its path."""
    if isinstance(value, int | float):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: number for name, item in items for key, number in flat(item, f"{path}/{name}").items()}


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 40), num_labels=st.integers(2, 7))
def test_perfect_predictions_score_one_even_when_a_label_is_absent(seed, n, num_labels):
    labels = np.random.default_rng(seed).integers(0, num_labels, n)
    scores = metrics.score(labels, np.eye(num_labels)[labels], names(num_labels))
    ones = (scores.accuracy, scores.precision, scores.recall, scores.f1)
    assert (*ones, scores.precision_macro, scores.recall_macro, scores.f1_macro) == pytest.approx((1,) * 7, **CLOSE)
    assert (scores.loss, scores.ece, scores.accuracy_ci[1]) == pytest.approx((0, 0, 1), abs=1e-12)
    assert not any(row.top_confusions for row in scores.per_class)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 80), num_labels=st.integers(2, 9))
def test_the_parts_add_up(seed, n, num_labels):
    labels, p = sample(seed, n, num_labels, strength=0.3)
    scores = metrics.score(labels, p, names(num_labels))
    matrix = np.array(scores.confusion_matrix)
    assert matrix.sum() == scores.n == sum(row.total for row in scores.per_class) == n
    assert matrix.trace() == sum(row.correct for row in scores.per_class) == round(scores.accuracy * n)
    assert scores.accuracy_ci[0] <= scores.accuracy <= scores.accuracy_ci[1]
    assert scores.recall == pytest.approx(scores.accuracy, **CLOSE)  # recall weighted by rows is accuracy
    for k, row in enumerate(scores.per_class):
        counts = [found["count"] for found in row.top_confusions]
        assert counts == sorted(counts, reverse=True)
        assert len(counts) <= 3
        assert 0 < sum(counts) <= row.total - row.correct or not counts
        assert row.accuracy == row.recall
        assert all(found["count"] == matrix[k, names(num_labels).index(found["label"])] for found in row.top_confusions)


def test_scores_are_plain_json_with_the_contract_s_names():
    labels, p = sample(0)
    plain = metrics.score(labels, p, NAMES).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    sums = ["precision", "recall", "f1", "precision_macro", "recall_macro", "f1_macro", "f1_macro_ci"]
    rest = ["per_class", "confusion_matrix", "ece", "reliability", "risk_coverage"]
    assert list(plain) == ["n", "accuracy", "accuracy_ci", "loss", *sums, *rest]
    row = ["label", "accuracy", "correct", "total", "precision", "recall", "f1", "top_confusions"]
    assert [list(found) for found in plain["per_class"]] == [row] * 4


def test_summary_scores_are_the_full_scores():
    labels, p = sample(1)
    full = metrics.score(labels, p, NAMES).to_dict()
    quick = metrics.summary_scores(labels, np.log(p) + 7)  # logits: any constant may be added
    assert quick == pytest.approx(
        {key: full[key] for key in ("loss", "accuracy", "precision", "recall", "f1", "f1_macro")}, **CLOSE
    )


def test_ties_go_to_the_first_label():
    assert metrics.score([0, 1], [[0.5, 0.5]] * 2, ["a", "b"]).confusion_matrix == [[1, 0], [1, 0]]


# ---------------------------------------------------------------------------------------------------- references


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 80), num_labels=st.integers(2, 6), strength=st.floats(-1, 3))
def test_scores_are_those_of_scikit_learn(seed, n, num_labels, strength):
    labels, p = sample(seed, n, num_labels, strength)
    scores = metrics.score(labels, p, names(num_labels))
    predicted, every = p.argmax(1), list(range(num_labels))

    def expect(average, **which):
        return reference.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0, **which)

    assert (scores.precision, scores.recall, scores.f1) == pytest.approx(expect("weighted")[:3], **CLOSE)
    macro = (scores.precision_macro, scores.recall_macro, scores.f1_macro)
    assert macro == pytest.approx(expect("macro")[:3], **CLOSE)
    by_class = np.array([(row.precision, row.recall, row.f1, row.total) for row in scores.per_class]).T
    np.testing.assert_allclose(by_class, np.array(expect(None, labels=every)), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(scores.confusion_matrix, reference.confusion_matrix(labels, predicted, labels=every))
    assert scores.accuracy == pytest.approx(reference.accuracy_score(labels, predicted), **CLOSE)
    assert scores.loss == pytest.approx(reference.log_loss(labels, p, labels=every), **CLOSE)


@given(total=st.integers(1, 10**6), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=50, deadline=None)
def test_wilson_is_the_closed_formula(total, share, confidence):
    correct = round(share * total)
    z = math.sqrt(2) * inverse_erf(confidence)
    centre = (correct + z**2 / 2) / (total + z**2)
    reach = z / (total + z**2) * math.sqrt(correct * (total - correct) / total + z**2 / 4)
    expected = (max(0, centre - reach), min(1, centre + reach))
    assert metrics.wilson(correct, total, confidence) == pytest.approx(expected, abs=1e-9)


def inverse_erf(value: float) -> float:
    low, high = 0.0, 6.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < value else (low, middle)
    return low


def test_wilson_of_94_percent_of_7600_is_the_seeds_interval():
    assert [round(bound, 4) for bound in metrics.wilson(7144, 7600)] == [0.9344, 0.9451]


def test_a_certain_and_wrong_row_costs_a_finite_loss():
    assert metrics.score([0], [[0.0, 1.0]], ["a", "b"]).loss == pytest.approx(-math.log(2**-52))


# ---------------------------------------------------------------------------------------------------- calibration


def test_calibrated_probabilities_have_a_small_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.4] * 4, 20_000)
    labels = (rng.random((20_000, 1)) < p.cumsum(1)).argmax(1)  # each label as likely as p says
    assert metrics.expected_calibration_error(labels, p) < 0.015
    sure = softmax(3 * np.log(np.maximum(p, 1e-12)))
    assert metrics.expected_calibration_error(labels, sure) > 0.1


def test_calibration_error_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    # bins of two: |1/2 - 0.9| and |2/2 - 0.6|
    assert metrics.expected_calibration_error([0, 1, 0, 0], p, bins=2) == pytest.approx(0.4)
    assert metrics.expected_calibration_error([0, 1, 0, 0], p, bins=1) == pytest.approx(0)


def test_rows_of_equal_confidence_share_a_bin():
    p = np.tile([0.75, 0.25], (100, 1))
    assert metrics.expected_calibration_error([0] * 75 + [1] * 25, p) == pytest.approx(0, abs=1e-12)


# --------------------------------------------------------------------------------------------- bootstrap, coverage


@pytest.mark.parametrize(("n", "num_labels"), [(60, 3), (900, 4)])
def test_the_interval_of_macro_f1_is_scipys_bootstrap_of_rows(n, num_labels):
    labels, p = sample(7, n, num_labels)
    predicted = p.argmax(1)

    def macro(true, guessed):
        return reference.f1_score(true, guessed, average="macro", zero_division=0)

    drawn = bootstrap(
        (labels, predicted), macro, paired=True, vectorized=False, n_resamples=800, method="percentile", rng=0
    )
    found = metrics.f1_macro_interval(reference.confusion_matrix(labels, predicted))
    noise = 4 * drawn.standard_error / math.sqrt(800 * 0.025)  # of a quantile in the tail, roughly
    assert found == pytest.approx(tuple(drawn.confidence_interval), abs=noise)
    assert found[0] <= metrics.score(labels, p, names(num_labels)).f1_macro <= found[1]


def test_macro_f1_of_one_cell_has_the_point_as_its_interval():
    assert metrics.f1_macro_interval([[5, 0], [0, 0]]) == (1.0, 1.0)
    assert metrics.f1_macro_interval([[0, 5], [0, 0]]) == (0.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 90), num_labels=st.integers(2, 5))
def test_the_bins_hold_every_row_once_and_make_the_calibration_error(seed, n, num_labels):
    labels, p = sample(seed, n, num_labels)
    scores = metrics.score(labels, p, names(num_labels))
    assert sum(one["n"] for one in scores.reliability) == n
    sure = [one["confidence"] for one in scores.reliability]
    assert sure == sorted(sure)
    assert sum(one["n"] * one["accuracy"] for one in scores.reliability) == pytest.approx(n * scores.accuracy)
    gaps = [one["n"] * abs(one["accuracy"] - one["confidence"]) for one in scores.reliability]
    assert scores.ece == pytest.approx(sum(gaps) / n)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 300))
def test_abstaining_at_a_point_of_the_curve_leaves_that_point(seed, n):
    labels, p = sample(seed, n)
    curve = metrics.risk_coverage(labels, p)
    assert (curve[0]["n"], curve[0]["accuracy"]) == (n, pytest.approx((p.argmax(1) == labels).mean()))
    assert [point["n"] for point in curve] == [n - n * percent // 100 for percent in range(0, 100, 5)]
    for point in curve:
        left = metrics.abstaining(labels, p, point["threshold"])
        assert (left["n"], left["coverage"], left["accuracy"]) == pytest.approx(
            (point["n"], point["coverage"], point["accuracy"]), **CLOSE
        )


def test_the_coverage_of_rows_equally_sure_is_their_mean():
    p = np.tile([0.8, 0.2], (20, 1))
    assert {point["accuracy"] for point in metrics.risk_coverage([0] * 15 + [1] * 5, p)} == {0.75}
    nothing = metrics.abstaining([0, 1], [[0.8, 0.2]] * 2, 0.9)
    assert nothing == {"below": 0.9, "coverage": 0.0, "n": 0, "accuracy": None, "accuracy_ci": None}


@pytest.mark.parametrize("n", [200, 1000, 3600])
@pytest.mark.parametrize("p", [0.5, 0.8, 0.92])
def test_wilson_holds_the_true_share_in_94_to_96_of_100(n, p):
    """Exactly, by the binomial's own sums: no simulation."""
    correct = np.arange(n + 1)
    likely = binom.pmf(correct, n, p)
    held = np.array([low <= p <= high for low, high in (metrics.wilson(k, n) for k in correct[likely > 1e-12])])
    coverage = float(likely[likely > 1e-12][held].sum())
    print(f"n {n:,}, p {p}: {coverage:.4f}")
    assert 0.94 <= coverage <= 0.96


@given(total=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_statsmodels(total, share, confidence):
    correct = round(share * total)
    expected = proportion_confint(correct, total, alpha=1 - confidence, method="wilson")
    # statsmodels leaves -1e-18 where nothing is right; we give 0
    assert metrics.wilson(correct, total, confidence) == pytest.approx(expected, abs=1e-9)


# ----------------------------------------------------------------------------------------------- mistakes, counts


def test_confident_mistakes_are_the_surest_wrong_rows():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.05, 0.95], [0.3, 0.7]])
    found = metrics.confident_mistakes([1, 0, 0, 0, 0], p, list("abcde"), ["x", "y"], limit=3)
    assert found == [
        {"text": "d", "label": "x", "predicted": "y", "probability": 0.95, "row": 3},
        {"text": "a", "label": "y", "predicted": "x", "probability": 0.9, "row": 0},
        {"text": "b", "label": "x", "predicted": "y", "probability": 0.8, "row": 1},
    ]
    assert metrics.confident_mistakes([0], [[1.0, 0.0]], ["a"], ["x", "y"]) == []
    assert json.dumps(found)


def test_prediction_distribution_counts_every_label():
    labels, p = sample(3)
    counts = metrics.prediction_distribution(p, NAMES)
    assert list(counts) == NAMES
    assert list(counts.values()) == np.array(metrics.score(labels, p, NAMES).confusion_matrix).sum(0).tolist()
    assert metrics.prediction_distribution(p.argmax(1), NAMES) == counts
    assert metrics.prediction_distribution([2], NAMES) == {"World": 0, "Sports": 0, "Business": 1, "Sci/Tech": 0}


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("labels", "probabilities", "error", "words"),
    [
        ([0, 1], [[0.5, 0.5], [math.nan, 0.5]], GateError, "first is row 1"),
        ([0], [[math.inf, 0.0]], GateError, "finite"),
        ([0], [[0.7, 0.2]], GateError, "sum 0.9"),
        ([0], [[1.5, -0.5]], GateError, "0 or more"),
        ([0, 1], [[3.0, -1.0], [0.1, 2.0]], GateError, "not logits"),
        ([], np.zeros((0, 2)), DataError, "nothing to score"),
        ([0, 1], [[0.5, 0.5]], DataError, "same rows"),
        ([0], [0.5], DataError, "same rows"),
        ([2], [[0.5, 0.5]], DataError, "labels 0 to 1, got 2"),
        ([-1], [[0.5, 0.5]], DataError, "got -1"),
        ([0.0], [[0.5, 0.5]], DataError, "whole numbers"),
        (["x"], [[0.5, 0.5]], DataError, "whole numbers"),
        ([0], [[1 / 3] * 3], DataError, "3 different label names"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(labels, probabilities, error, words):
    with pytest.raises(error, match=words) as caught:
        metrics.score(labels, probabilities, ["x", "y"])
    assert isinstance(caught.value, ValueError)
    assert caught.value.fix


def test_half_precision_probabilities_are_accepted():
    labels, p = sample(4)
    assert metrics.score(labels, p.astype(np.float16), NAMES).n == 200


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: metrics.score([0], [[0.5, 0.5]], ["x", "x"]), DataError),
        (lambda: metrics.summary_scores([0], [[math.nan, 0.0]]), GateError),
        (lambda: metrics.summary_scores([2], [[1.0, 0.0]]), DataError),
        (lambda: metrics.wilson(1, 0), DataError),
        (lambda: metrics.wilson(3, 2), DataError),
        (lambda: metrics.wilson(1, 2, confidence=1.5), UsageError),
        (lambda: metrics.f1_macro_interval([[1]], confidence=0), UsageError),
        (lambda: metrics.abstaining([0], [[0.5, 0.5]], 1.5), UsageError),
        (lambda: metrics.abstaining([0], [[0.5, 0.5]], math.nan), UsageError),
        (lambda: metrics.expected_calibration_error([0], [[0.5, 0.5]], bins=0), UsageError),
        (lambda: metrics.confident_mistakes([0], [[0.5, 0.5]], [], ["x", "y"]), DataError),
        (lambda: metrics.prediction_distribution([5], ["x", "y"]), DataError),
        (lambda: metrics.prediction_distribution([[0.2, 0.3, 0.5]], ["x", "y"]), DataError),
    ],
)
def test_every_figure_refuses_what_it_cannot_read(call, error):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, ValueError)


def test_nothing_warns_about_a_label_never_predicted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = metrics.score([0, 1], [[1.0, 0.0], [1.0, 0.0]], ["x", "y"]).per_class[1]
    assert (row.precision, row.recall, row.f1, row.top_confusions) == (0, 0, 0, [{"label": "x", "count": 1}])
