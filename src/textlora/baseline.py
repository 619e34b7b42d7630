"""What a transformer has to beat, in seconds: the most frequent label, and TF-IDF with logistic regression.

Both are fitted on the run's training rows and judged on its validation rows, as the run itself is.
N training rows, M rows to predict, C labels.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from textlora import metrics
from textlora.errors import DataError

# A word; in Chinese and Japanese, written without blanks, a character (the bigrams then stand for words).
TOKEN = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"
FEW = 2_000  # training rows below which every term counts and the solver is the exact one
MAX_TERMS = 200_000
C = 10.0  # 3 to 30 lie within 0.4 points on AG's carved validation, 10 is the middle; 0.899 of 2,000 rows


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline's probabilities (M, C), its seconds, its accuracy and macro-F1 on those rows (NaN until `scored`)."""

    name: str  # majority or tfidf-logreg
    probabilities: NDArray[np.float64]
    seconds: float
    accuracy: float = math.nan
    f1_macro: float = math.nan

    def scored(self, labels: ArrayLike) -> Baseline:
        """The same with its figures against labels (M,)."""
        names = [str(number) for number in range(self.probabilities.shape[1])]
        scores = metrics.score(labels, self.probabilities, names)
        return replace(self, accuracy=scores.accuracy, f1_macro=scores.f1_macro)


def fit_baselines(
    train_texts: Sequence[str], train_labels: ArrayLike, texts: Sequence[str], labels: ArrayLike, num_labels: int
) -> list[Baseline]:
    """Both baselines, fitted on the training rows and scored on `texts` and `labels`; the majority class first.

    Raises DataError when there is no row to fit on or to judge, or a label is outside 0..C-1.
    """
    _require_pairs(texts, _checked(labels, num_labels))
    found = majority(train_labels, len(texts), num_labels), tfidf_logreg(train_texts, train_labels, texts, num_labels)
    return [baseline.scored(labels) for baseline in found]


def majority(train_labels: ArrayLike, n_rows: int, num_labels: int) -> Baseline:
    """The training labels' shares for each of `n_rows` rows: predicts the most frequent, the first of equals."""
    start = time.perf_counter()
    probabilities = np.tile(_shares(_checked(train_labels, num_labels), num_labels), (n_rows, 1))
    return Baseline("majority", probabilities, time.perf_counter() - start)


def tfidf_logreg(
    train_texts: Sequence[str], train_labels: ArrayLike, texts: Sequence[str], num_labels: int, *, seed: int = 0
) -> Baseline:
    """Logistic regression on TF-IDF of words and word pairs; a column for every label, 0 for one not trained on.

    With one label only, or no word in any training text, there is nothing to fit and it answers as `majority`.
    """
    start = time.perf_counter()
    y = _checked(train_labels, num_labels)
    _require_pairs(train_texts, y)
    probabilities = np.tile(_shares(y, num_labels), (len(texts), 1))
    features = _features(train_texts, texts) if len(np.unique(y)) > 1 and len(texts) else None
    if features:
        model = _fit(features[0], y, seed)
        probabilities = np.zeros((len(texts), num_labels))
        probabilities[:, model.classes_] = model.predict_proba(features[1])
    return Baseline("tfidf-logreg", probabilities, time.perf_counter() - start)


def _features(train_texts: Sequence[str], texts: Sequence[str]) -> tuple[csr_matrix, csr_matrix] | None:
    """Sparse TF-IDF of the training texts and of `texts`; None when the training texts hold no usable word."""
    tfidf = TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        min_df=1 if len(train_texts) < FEW else 2,
        max_features=MAX_TERMS,
        strip_accents="unicode",
        token_pattern=TOKEN,
        dtype=np.float32,  # pyright: ignore[reportArgumentType]  (the stub reads the default's type; float32 is documented)
    )
    try:
        fitted = csr_matrix(tfidf.fit_transform(train_texts))
    except ValueError as error:  # scikit-learn has no class of its own for these two
        if "empty vocabulary" in str(error) or "no terms remain" in str(error):
            return None
        raise
    return fitted, csr_matrix(tfidf.transform(texts))


def _fit(features: csr_matrix, y: NDArray[np.int64], seed: int) -> LogisticRegression:
    # Measured on one core: saga fits 18,000 AG rows in 0.6 s, lbfgs in 5 to 20 s, accuracy and loss alike. But an
    # epoch of saga draws rows with replacement: of three rows it can draw an empty one thrice, and call that converged.
    solver = "newton-cg" if len(y) < FEW else "saga"
    model = LogisticRegression(C=C, solver=solver, tol=1e-3, max_iter=100, random_state=seed)
    with warnings.catch_warnings():  # a hair short of converged is good enough for a bar to beat
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, y)


def _shares(y: NDArray[np.int64], num_labels: int) -> NDArray[np.float64]:
    return np.bincount(y, minlength=num_labels) / len(y)


def _require_pairs(texts: Sequence[str], y: NDArray[np.int64]) -> None:
    if len(texts) != len(y):
        raise DataError(f"expected a label for each text, got {len(texts)} texts and {len(y)} labels", "pass both")


def _checked(labels: ArrayLike, num_labels: int) -> NDArray[np.int64]:
    y = np.asarray(labels)
    if not y.size:
        raise DataError("there is no labelled row for the baselines", "give at least one to train and one to judge on")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= num_labels:
        raise DataError(f"expected labels 0 to {num_labels - 1}, got {np.unique(y)[:8].tolist()}", "pass label ids")
    return y.astype(np.int64)
