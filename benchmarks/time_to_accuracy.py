"""How long until the better seed's recipe is reached, from the shell to a saved adapter, beside the peers' pipeline.

    python benchmarks/time_to_accuracy.py ag_news --frontiers frontiers.jsonl

`--frontiers` is what `frontiers.py` kept: how accurate the first seed's recipe became on these rows, and after how many
texts it was at its best. Ours is timed: `textlora train` with a quarter of a pass, once a seed, as a command of its
own, judged on the test split. Theirs would take hours here and is extrapolated: its texts over the rate that `textlora
bench train --peers` measures for their ways to run Trainer, in the same run of this script. Prints one JSON object. Run
it on a machine that does nothing else; it takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from frontiers import SEED_1, SEED_1_QUICK

from textlora import data, predict

COMMAND = [sys.executable, "-m", "textlora"]
SHORT = ["--recipe", "minilm-fast", "--num-train-epochs", "0.25"]  # chosen on validation: docs/log.md, 2026-11-29
WAYS = {  # as the peers run it; the expert's way is another
    "hf_max512_fp32": "padded to 512 tokens, fp32",
    "hf_longest_fp32": "padded to a batch's longest text, fp32",
    "hf_longest_bf16": "padded to a batch's longest text, bf16",
}


def ours(folder: str, seed: int, test: data.Split) -> dict[str, float]:
    """Seconds from the shell until the command has ended, and its adapter's accuracy on the test split."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place, "run")
        began = time.monotonic()
        subprocess.run(
            [*COMMAND, "train", *SHORT, "--data", folder, "--seed", str(seed), "--out", str(run)],
            check=True,
            stdout=sys.stderr,
        )
        seconds = time.monotonic() - began
        found = predict.load(run).predict_proba(test.texts).argmax(1)
    one = {"seed": seed, "seconds": round(seconds, 1), "accuracy": float((found == test.labels).mean())}
    print(one, file=sys.stderr)  # so that a series that is cut short was not for nothing
    return one


def theirs(kept: Path) -> dict[str, Any]:
    """What the first seed's recipe reached, on average, and the texts it had been shown by then."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    for side in (SEED_1, SEED_1_QUICK):
        own = [line for line in lines if line["side"] == side and line.get("texts")]
        if own:
            accuracy, texts = (float(np.mean([line[key] for line in own])) for key in ("accuracy", "texts"))
            return {"side": side, "seeds": len(own), "accuracy": accuracy, "texts": round(texts)}
    raise SystemExit(f"{kept} has no line of {SEED_1!r} with its texts: run frontiers.py with this side first")


def rates(folder: str) -> dict[str, float]:
    """Texts a second of the peers' ways to train."""
    done = subprocess.run(
        [*COMMAND, "bench", "train", "--peers", "--data", folder, "--json"], check=True, stdout=subprocess.PIPE
    )
    peers = json.loads(done.stdout)["peers"]
    return {way: peers[way]["samples_per_second"] for way in WAYS if way in peers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with train and test files")
    parser.add_argument("--frontiers", type=Path, required=True, help="what frontiers.py kept")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    reference, test = theirs(args.frontiers), data.load(args.data).test
    if test is None:
        raise SystemExit("the data has no test split: give a folder with train and test files")
    runs = [ours(args.data, seed, test) for seed in range(args.seeds)]
    seconds = float(np.median([run["seconds"] for run in runs]))
    measured = rates(args.data)
    extrapolated = {way: reference["texts"] / rate for way, rate in measured.items()}
    found = {
        "their": reference,
        "ours": {"runs": runs, "seconds": seconds, "accuracy": float(np.mean([run["accuracy"] for run in runs]))},
        "their_texts_per_second": measured,
        "their_seconds_extrapolated": {way: round(value) for way, value in extrapolated.items()},
        "times_less": {way: round(value / seconds, 1) for way, value in extrapolated.items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
