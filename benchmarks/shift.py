"""Adapters scaled at prediction, judged on texts of another source than those trained on.

    python benchmarks/shift.py RUN [RUN ...] --data mini-news --split train validation --label-names A B C D
    python benchmarks/shift.py RUN [RUN ...] --data FILE.csv --last 2000

The runs are seeds of one recipe; `--label-names` are the data's names of their labels, in the runs' order. Each scale
is compared with 1 on the same rows, with the paired interval over rows and seeds (`textlora.paired`, which draws both
sides' seeds apart, so it is wide), and `each` run with itself, over rows alone. `gain_em` is that of allowing for other
shares of labels too (`textlora.shift`, `--label-shift`). Splits named test are refused: a scale is chosen here. Prints
one JSON object; the table, with scale, accuracy, loss, gain and gain_em, goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from textlora import data, metrics, paired, predict, runs, shift
from textlora.errors import UsageError

SCALES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25)


def rows_of(source: str, splits: list[str], last: int, names: list[str]) -> tuple[list[str], np.ndarray]:
    """Texts and label ids (N,): the last rows of all splits together, or all rows (`last` 0)."""
    found = [data.load_split(source, split, label_names=names) for split in splits]
    if any(split.name == "test" for split in found):
        raise UsageError("a scale is chosen here", "name other rows than those of a test split")
    texts = [text for split in found for text in split.texts]
    return texts[-last:], np.concatenate([split.labels for split in found])[-last:]


def measure(folders: list[str], texts: list[str], labels: np.ndarray) -> list[dict[str, Any]]:
    """A line for each scale: accuracy and loss, means over the runs, and the gain over scale 1."""
    right: dict[str, dict[float, np.ndarray]] = {"gain": {}, "gain_em": {}}  # (S, N) of each scale
    lines = []
    for scale in SCALES:
        found = [predict.load(run, adapter_scale=scale).predict_proba(texts) for run in folders]
        shifted = [shift.correct(p, runs.label_shares(run))[0] for p, run in zip(found, folders, strict=True)]
        for way, each in (("gain", found), ("gain_em", shifted)):
            right[way][scale] = np.stack([p.argmax(1) == labels for p in each])
        scores = [metrics.score(labels, p, [str(i) for i in range(p.shape[1])]) for p in found]
        lines.append(
            {
                "scale": scale,
                "accuracy": float(np.mean([one.accuracy for one in scores])),
                "accuracies": [one.accuracy for one in scores],
                "loss": float(np.mean([one.loss for one in scores])),
            }
        )
    for line in lines:
        usual, scaled = right["gain"][1.0], right["gain"][line["scale"]]
        line |= {way: paired.paired_gain(usual, each[line["scale"]]) for way, each in right.items()}
        line["each"] = [paired.paired_gain(a, b) for a, b in zip(usual, scaled, strict=True)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", nargs="+", default=[""])
    parser.add_argument("--last", type=int, default=0)
    parser.add_argument("--label-names", nargs="+", default=[])
    args = parser.parse_args()
    names = args.label_names or list(predict.load(args.runs[0]).labels)
    texts, labels = rows_of(args.data, args.split, args.last, names)
    lines = measure(args.runs, texts, labels)
    for line in lines:
        gains = "".join("{:>+10.4f} ({:+.4f} to {:+.4f})".format(*line[way]) for way in ("gain", "gain_em"))
        print(f"{line['scale']:<6g}{line['accuracy']:>8.4f}{line['loss']:>8.4f}{gains}", file=sys.stderr)
    print(json.dumps({"rows": len(texts), "runs": args.runs, "scales": lines}))


if __name__ == "__main__":
    main()
