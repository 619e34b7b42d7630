"""Label shift: what allowing for other shares of labels gains on skewed test sets, and costs on the natural one.

    python benchmarks/label_shift.py RUN ag_news

Scores the test split once, then draws test sets from its rows: 20 for each of several mixes of labels. Beside the
classifier as it is: EM (`textlora.shift`), the confusion matrix of the validation rows inverted (BBSE: Lipton, Wang &
Smola 2018, arXiv 1802.03916), and the mix as it truly is, which nothing can beat but by chance. `recovered` is the part
of the possible gain that is had. Prints one JSON object; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
from scipy.optimize import nnls

from textlora import data, predict, runs, shift

DRAWS, ROWS = 20, 800
MAIN = (0.4, 0.7, 0.9)  # of one label, the others alike
NATURAL_ROUNDS = 200
WAYS = ("as it is", "em", "bbse", "known mix")


def scored(run: str, source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and labels (N,) of a split."""
    predictor = predict.load(run)
    settings = predictor.settings
    rows = data.load_split(
        source, split, label_names=settings.labels, usual=(settings.text_columns, settings.label_column)
    )
    return predictor.predict_proba(rows.texts), np.asarray(rows.labels)


def bbse(p: np.ndarray, held_p: np.ndarray, held: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Shares under which the held-out rows' confusions give the labels that were predicted here; none negative."""
    num_labels = p.shape[1]
    joint = np.zeros((num_labels, num_labels))
    np.add.at(joint, (held_p.argmax(1), held), 1 / len(held))
    weights, _ = nnls(joint, np.bincount(p.argmax(1), minlength=num_labels) / len(p))
    shares = np.maximum(weights * trained, 1e-6)
    return shares / shares.sum()


def mixes(num_labels: int) -> list[np.ndarray]:
    """One label in the majority, each in turn."""
    return [
        np.where(np.arange(num_labels) == main, share, (1 - share) / (num_labels - 1))
        for share in MAIN
        for main in range(num_labels)
    ]


def draw(labels: np.ndarray, mix: np.ndarray, seed: int) -> np.ndarray:
    """Row numbers of a test set of that mix, each row at most once."""
    rng = np.random.default_rng(seed)
    rows = min(ROWS, int(min(np.bincount(labels) / mix)))
    return np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == c), max(1, round(rows * part)), replace=False)
            for c, part in enumerate(mix)
        ]
    )


def measure(p: np.ndarray, y: np.ndarray, held_p: np.ndarray, held: np.ndarray) -> dict[str, Any]:
    trained = np.bincount(held, minlength=p.shape[1]) / len(held)  # validation is carved to training's shares
    lines = []
    for mix in mixes(p.shape[1]):
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in range(DRAWS):
            rows = draw(y, mix, seed)
            q, truth = p[rows], y[rows]
            ways = {
                "as it is": q,
                "em": shift.correct(q, trained)[0],
                "bbse": shift.reweighted(q, bbse(q, held_p, held, trained) / trained),
                "known mix": shift.reweighted(q, mix / trained),
            }
            for name, way in ways.items():
                found[name].append(float((way.argmax(1) == truth).mean()))
        lines.append({"mix": mix.round(3).tolist()} | {name: float(np.mean(v)) for name, v in found.items()})
    natural, told = shift.correct(p, trained)
    resampled = [_natural(p, y, trained, seed) for seed in range(NATURAL_ROUNDS)]
    mean = {name: float(np.mean([line[name] for line in lines])) for name in WAYS}
    return {
        "rows": len(y),
        "mixes": lines,
        "mean": mean,
        "recovered": {
            name: (mean[name] - mean["as it is"]) / (mean["known mix"] - mean["as it is"]) for name in ("em", "bbse")
        },
        "natural": {
            "accuracy": float((p.argmax(1) == y).mean()),
            "em": float((natural.argmax(1) == y).mean()),
            **told.to_dict(),
            "bootstrap": {
                "applied": float(np.mean([a for a, _ in resampled])),
                "mean_change": float(np.mean([c for _, c in resampled])),
            },
        },
    }


def _natural(p: np.ndarray, y: np.ndarray, trained: np.ndarray, seed: int) -> tuple[bool, float]:
    """Whether EM changes a resampled natural test set, and by how much its accuracy moves."""
    rows = np.random.default_rng(seed).integers(0, len(y), len(y))
    corrected, told = shift.correct(p[rows], trained)
    return told.applied, float((corrected.argmax(1) == y[rows]).mean() - (p[rows].argmax(1) == y[rows]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    args = parser.parse_args()
    runs.open_run(args.run)
    result = measure(*scored(args.run, args.data, "test"), *scored(args.run, args.data, "validation"))
    print(f"{'mix':<30}" + "".join(f"{way:>12}" for way in WAYS), file=sys.stderr)
    for line in result["mixes"]:
        print(f"{line['mix']!s:<30}" + "".join(f"{line[way]:>12.4f}" for way in WAYS), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
