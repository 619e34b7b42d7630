"""`textlora data suspects`: rows whose label looks wrong, by confident learning on out-of-fold probabilities.

No row is judged by a model that has seen it, or a near-duplicate of it: a wrong label that is there twice doesn't vouch
for itself. Two quick linear models give the probabilities: one on the frozen base's pooled tokens, one on TF-IDF.
N rows, C labels, D hidden.
"""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from textlora import bases, confident, data, device, engine, model, predict, runs, shares, voices
from textlora.baseline import tfidf_logreg
from textlora.clean import clean
from textlora.config import Config
from textlora.data import Split, duplicates
from textlora.errors import DataError, UsageError
from textlora.tokens import load_tokenizer, tokenize

log = logging.getLogger("textlora")
FOLDS = 5
# Inverse strength of the regularisation, on vectors of length 1. On 9,995 crowd labels of AG News, by cross-entropy on
# those labels: 1 gives 0.358, 3 0.362, 10 0.381; TF-IDF (baseline.py) 0.411; both pooled 0.332 (2026-11-22).
STRENGTH = 1.0
FLOOR = 1e-6  # of a probability, before its logarithm
COLUMNS = ("file", "row", "text", "given", "suggested", "score", "probability", "sure")


@dataclass(frozen=True)
class Suspect:
    """A row whose label looks wrong. `row` counts the file's data rows from 0, as read (a header is none)."""

    file: str
    row: int
    text: str
    given: str
    suggested: str
    score: float  # the given label's probability: the lower, the more suspect
    probability: float  # of the suggested label
    sure: bool  # confidently of the suggested label, as confident learning counts it; others are just likelier so


@dataclass(frozen=True)
class Suspects:
    """What was found; `pairs` are counts of sure suspects by given and suggested label."""

    source: str
    rows: int
    judged: int  # rows whose label is in their training folds
    folds: int
    cross_entropy: float  # of the given labels, out of fold, in nats
    agreement: float  # the share of given labels that are the most probable
    estimated: int  # wrong labels in all, by the counts scaled up to all rows
    pairs: list[
        dict[str, Any]
    ]  # most frequent first: given, suggested, suspects, estimated (rows), share (of the given label's rows)
    suspects: list[Suspect]  # the most suspect first

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find(
    source: str,
    config: Config,
    *,
    folds: int = FOLDS,
    out: str | Path = "",
    overwrite: bool = False,
    say: Any = log.info,
) -> Suspects:
    """The rows of `source` whose label looks wrong; written to `out` as CSV where that is named.

    Of `config` base, columns, cleaning, max_length and label_shares are heeded. Of several splits train is looked at,
    whole: nothing is carved or dropped. Raises UsageError for folds out of range or an `out` that exists, DataError
    for rows that can't be judged, and as `data.load` does.
    """
    if not 2 <= folds <= 50:
        raise UsageError(f"--folds must be from 2 to 50, got {folds}", "5 is usual")
    if out and Path(out).exists() and not overwrite:
        raise UsageError(f"{out} exists", "choose another --out, or replace it with --overwrite")
    rows = data.load_whole(
        source,
        text_column=config.text_column,
        label_column=config.label_column,
        label_names=config.label_names,
        revision=config.data_revision,
    )
    for note in rows.notes:
        say(note)
    held = fold_of(rows, folds)
    probabilities, judged = out_of_fold(rows, held, config, say)
    result = _result(source, rows, probabilities, judged, folds)
    if out:
        write(result.suspects, Path(out))
    return result


def fold_of(rows: Split, folds: int) -> np.ndarray:
    """In which fold each row is judged: (N,). Near-duplicates share one; labels are spread evenly."""
    cluster = duplicates.clusters([duplicates.normalise(text) for text in rows.texts])
    several = np.bincount(rows.labels) >= folds
    if len(np.unique(rows.labels)) < 2:
        raise DataError("there is one label only: none can be suspected", "give rows of two labels or more")
    if not several.any() or cluster.max() + 1 < folds:
        raise DataError(f"{len(rows)} rows are too few for {folds} folds", "give more rows, or fewer --folds")
    held = np.zeros(len(rows), np.int64)
    with warnings.catch_warnings():  # of a label with fewer rows than folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(cluster, rows.labels, cluster)
        for fold, (_, test) in enumerate(parts):
            held[test] = fold
    return held


def out_of_fold(rows: Split, held: np.ndarray, config: Config, say: Callable[[str], None]) -> tuple[Any, Any]:
    """Probabilities (N, C) from models that saw neither the row nor one like it, and whether its label was there (N,).

    Both models' are multiplied, each to the power that makes the given labels most likely (two numbers for all rows),
    and moved to the labels' true shares where `config` tells them.
    """
    texts = [clean(text, config.cleaning) for text in rows.texts]
    say(f"{len(texts):,} texts through {config.base}")
    features = _features(texts, config)
    num_labels, judged = len(rows.label_names), np.zeros(len(texts), bool)
    both = np.zeros((2, len(texts), num_labels))
    for fold in np.unique(held):
        test, fit = np.flatnonzero(held == fold), np.flatnonzero(held != fold)
        there = np.unique(rows.labels[fit])
        judged[test] = np.isin(rows.labels[test], there)
        if len(there) < 2:
            raise DataError("a fold has one label only to learn from", "give more rows of each label, or other --folds")
        fitted, asked = ([texts[i] for i in some] for some in (fit, test))
        both[0, test] = _linear(features[fit], rows.labels[fit], features[test], num_labels)
        both[1, test] = tfidf_logreg(fitted, rows.labels[fit], asked, num_labels).probabilities
        say(f"fold {fold + 1} of {held.max() + 1}")
    if not judged.any():
        raise DataError("no label has rows in more than one fold", "give more rows of each label")
    logs = np.log(np.maximum(both, FLOOR))
    first, second = voices.shares([logs[0, judged], logs[1, judged]], rows.labels[judged])
    pooled = first * logs[0] + second * logs[1]
    if config.label_shares:
        pooled += shares.offsets(pooled[judged], shares.known(config.label_shares, rows.label_names))
    return predict.probabilities(pooled), judged


def _features(texts: Sequence[str], config: Config) -> np.ndarray:
    """The frozen base's tokens of each text, pooled, as vectors of length 1: (N, D)."""
    base = bases.pinned(bases.find(config.base, config.base_revision), config.base_weights)
    tokenizer = load_tokenizer(model.find_tokenizer(base, config.base_weights, config.tokenizer))
    network = model.encoder(config, device.compute_dtype(config.precision)).to(device.pick_device())  # type: ignore[arg-type]
    engine.use(network, config.engine, log.debug)
    tokens = tokenize(tokenizer, texts, config.max_length, config.long_text)
    found = predict.logits(network, tokens, predict.pad_id(tokenizer))
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _linear(features: np.ndarray, labels: np.ndarray, asked: np.ndarray, num_labels: int) -> np.ndarray:
    """Logistic regression's probabilities of `asked`; 0 for a label not trained on."""
    with warnings.catch_warnings():  # a hair short of converged is as good
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=STRENGTH, max_iter=300).fit(features, labels)
    probabilities = np.zeros((len(asked), num_labels))
    probabilities[:, fitted.classes_] = fitted.predict_proba(asked)
    return probabilities


# -------------------------------------------------------------------------------------------------------------- result


def _result(source: str, rows: Split, probabilities_NC: np.ndarray, judged: np.ndarray, folds: int) -> Suspects:
    places = np.flatnonzero(judged)
    labels, p = rows.labels[places], probabilities_NC[places]
    found = confident.find(labels, p)
    own = p[np.arange(len(p)), labels]
    off = found.estimate - np.diag(found.estimate.diagonal())
    return Suspects(
        source=source,
        rows=len(rows),
        judged=len(places),
        folds=folds,
        cross_entropy=float(-np.log(np.maximum(own, FLOOR)).mean()),
        agreement=float((p.argmax(1) == labels).mean()),
        estimated=round(float(off.sum())),
        pairs=_pairs(rows, labels, found, off),
        suspects=[
            _suspect(rows, int(places[i]), j, float(own[i]), float(p[i, j]), sure)
            for i, j, sure in zip(found.rows.tolist(), found.likely.tolist(), found.sure.tolist(), strict=True)
        ],
    )


def _pairs(rows: Split, labels: np.ndarray, found: confident.Found, off: np.ndarray) -> list[dict[str, Any]]:
    counts = np.zeros(off.shape, np.int64)
    np.add.at(counts, (labels[found.rows[found.sure]], found.likely[found.sure]), 1)
    given = np.bincount(labels, minlength=len(off))
    names = rows.label_names
    return [
        {
            "given": names[i],
            "suggested": names[j],
            "suspects": int(counts[i, j]),
            "estimated": round(float(off[i, j]), 1),
            "share": round(float(off[i, j] / given[i]), 4),
        }
        for i, j in sorted(np.argwhere(counts > 0).tolist(), key=lambda pair: -counts[pair[0], pair[1]])
    ]


def _suspect(rows: Split, place: int, likely: int, own: float, other: float, sure: bool) -> Suspect:
    file, _, number = rows.row_ids[place].rpartition(":")
    names = rows.label_names
    given = names[int(rows.labels[place])]
    return Suspect(file, int(number) - 1, rows.texts[place], given, names[likely], own, other, sure)


def write(suspects: Sequence[Suspect], path: Path) -> None:
    """The suspects as CSV, whole or not at all."""
    with runs.replacing(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(one, name) for name in COLUMNS] for one in suspects)
