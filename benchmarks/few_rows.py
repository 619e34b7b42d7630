"""At 8, 16 and 64 rows a class: the default recipe beside SetFit on the same base, and two plain references.

    python benchmarks/few_rows.py ag_news/train.csv --label-names World Sports Business Sci/Tech \\
        --setfit-python VENV/bin/python --keep few_rows.jsonl

Each side is trained on so many rows of each label, which the seed draws, and judged on 2,000 held-out rows of the same
file. Ours and SetFit come twice: knowing what the labels are called, and knowing their numbers only. Seconds are those
of training, of the wall and of the processor: of SetFit from the loaded base on, of ours the whole of `train`, which
loads it. How SetFit runs: setfit_worker.py, in the Python that `--setfit-python` names; without one it is left out.
`--keep` holds what each run got right, one line a run: an interrupted series goes on where it was. Prints one JSON
object; the table goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from small_data import HELD_OUT, Rows, read, stratified, take

from textlora import bases, data, device, model, predict
from textlora import config as configs
from textlora.baseline import tfidf_logreg
from textlora.paired import p_value, paired_gain
from textlora.tokens import load_tokenizer, tokenize
from textlora.train import train

BASE = "minilm"
OURS, UNTOLD = "textlora", "textlora, labels named 0, 1, ..."
SETFIT, TOLD = "SetFit", "SetFit, two texts more for each label's name"
TEMPLATE, EXAMPLES = "This sentence is {}", 2  # setfit.get_templated_dataset's own
WORKER = Path(__file__).with_name("setfit_worker.py")


class Job(NamedTuple):
    rows: Rows
    held: list[str]
    names: tuple[str, ...]
    seed: int


class Answer(NamedTuple):
    predicted: np.ndarray  # (HELD_OUT,) label ids
    wall: float  # seconds of training
    processor: float


Side = Callable[[Job], Answer]
Lines = dict[tuple[str, int, int], dict[str, Any]]  # of a side, rows of a label, a seed


def ours(job: Job, settings: Mapping[str, Any], told: bool = True) -> Answer:
    """The default recipe, from texts to a saved and judged adapter."""
    names = job.names if told else tuple(str(label) for label in range(len(job.names)))
    config = configs.load("minilm-fast", {"base": BASE, "seed": job.seed, "report_to": [], **settings})
    with tempfile.TemporaryDirectory() as folder:
        wall, processor = time.monotonic(), time.process_time()
        rows = data.from_texts(*job.rows, names)
        run = train(config, rows=rows, out=Path(folder, "run"), say=lambda line: None)
        wall, processor = time.monotonic() - wall, time.process_time() - processor
        return Answer(predict.load(run.folder).predict_proba(job.held).argmax(1), wall, processor)


def setfit(job: Job, python: str, told: bool = False) -> Answer:
    """As published; where it is `told` labels' names, with templated texts as its documentation has them."""
    texts, labels = list(job.rows[0]), job.rows[1].tolist()
    if told:
        texts += [TEMPLATE.format(name) for name in job.names] * EXAMPLES
        labels += [*range(len(job.names))] * EXAMPLES
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "job.json"), Path(folder, "answer.json")
        asked.write_text(
            json.dumps(
                {
                    "base": str(bases.files(bases.find(BASE), "")),
                    "texts": texts,
                    "labels": labels,
                    "held": job.held,
                    "seed": job.seed,
                }
            )
        )
        subprocess.run([python, str(WORKER), str(asked), str(answered)], check=True, stdout=sys.stderr)
        found = json.loads(answered.read_text())
    return Answer(np.array(found["predicted"]), found["wall"], found["processor"])


def probe(job: Job) -> Answer:
    """Logistic regression on the frozen base's mean-pooled tokens, each text's of length 1."""
    config = configs.load("minilm-fast", {"base": BASE})
    network = model.encoder(config, device.compute_dtype("auto"))
    tokenizer = load_tokenizer(model.find_tokenizer(bases.find(BASE), "", ""))

    def features(texts: list[str]) -> np.ndarray:
        pooled = predict.logits(network, tokenize(tokenizer, texts, config.max_length), predict.pad_id(tokenizer))  # type: ignore[arg-type]
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    wall, processor = time.monotonic(), time.process_time()
    fitted = LogisticRegression(max_iter=500).fit(features(job.rows[0]), job.rows[1])
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    return Answer(fitted.predict(features(job.held)), wall, processor)


def tfidf(job: Job) -> Answer:
    """The line of `textlora train` that says what is to beat; its seconds are those of both fitting and predicting."""
    wall, processor = time.monotonic(), time.process_time()
    found = tfidf_logreg(*job.rows, job.held, len(job.names)).probabilities.argmax(1)
    return Answer(found, time.monotonic() - wall, time.process_time() - processor)


def read_kept(keep: Path) -> Lines:
    """What was kept of earlier runs; nothing where the file isn't there yet."""
    lines = [json.loads(line) for line in keep.read_text().splitlines()] if keep.is_file() else []
    return {(line["side"], line["rows"], line["seed"]): line for line in lines}


def run_all(
    file: Path, names: Sequence[str], sides: Mapping[str, Side], sizes: list[int], seeds: range, keep: Path
) -> Lines:
    """Every side at every size with every seed, but for those that `keep` has already. `names` are the labels'."""
    rows, given = read(file)
    names = tuple(names) or given
    if len(names) != len(given):
        raise SystemExit(f"{file} has {len(given)} labels, --label-names gives {len(names)}")
    chosen = stratified(rows[1], [HELD_OUT // len(names)] * len(names), np.random.default_rng(0))
    held, pool = take(rows, chosen), take(rows, np.setdiff1d(np.arange(len(rows[0])), chosen))
    done = read_kept(keep)
    for size in sizes:
        for seed in seeds:
            own = take(pool, stratified(pool[1], [size] * len(names), np.random.default_rng([8, seed, size])))
            for name, side in sides.items():
                if (name, size, seed) in done:
                    continue
                found = side(Job(own, held[0], names, seed))
                line = _line(name, size, seed, found, held[1])
                done[name, size, seed] = line
                with keep.open("a") as out:
                    out.write(json.dumps(line) + "\n")
    return done


def _line(name: str, size: int, seed: int, found: Answer, labels: np.ndarray) -> dict[str, Any]:
    right = found.predicted == labels
    seconds = {"wall": round(found.wall, 2), "processor": round(found.processor, 2)}
    words = f"{right.mean():.4f}  {found.wall:6.1f} s, processor {found.processor:6.1f} s"
    print(f"{size:>3} rows a class, seed {seed}: {words}  {name}", file=sys.stderr, flush=True)
    written = "".join("01"[r] for r in right.tolist())
    return {"side": name, "rows": size, "seed": seed, "accuracy": float(right.mean()), **seconds, "right": written}


def table(done: Lines, size: int, seeds: range) -> list[dict[str, Any]]:
    """Each side's mean at one size, and by how much ours is ahead of it, on the seeds that both have."""
    lines = []
    for name in {side for side, rows, _ in done if rows == size}:
        own = {seed: done[name, size, seed] for seed in seeds if (name, size, seed) in done}
        both = [seed for seed in own if (OURS, size, seed) in done]
        line = {"side": name, "rows": size, "seeds": len(own)}
        line |= {key: float(np.mean([o[key] for o in own.values()])) for key in ("accuracy", "wall", "processor")}
        if both and name != OURS:
            theirs, right = (
                np.array([[c == "1" for c in done[side, size, seed]["right"]] for seed in both])
                for side in (name, OURS)
            )
            line |= {"ours_ahead": paired_gain(theirs, right)._asdict(), "p": p_value(theirs, right)}
        lines.append(line)
    return sorted(lines, key=lambda line: line["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[8, 16, 64], help="of each class")
    parser.add_argument("--sides", nargs="*", help="their names, as a run lists them; all, if left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="5: seeds to choose by, apart from those reported")
    parser.add_argument("--label-names", nargs="*", default=[], help="in the order of the file's labels")
    parser.add_argument("--setfit-python", default="", help="a Python that has setfit")
    parser.add_argument("--settings", default="{}", help="JSON of settings to try over the default recipe")
    parser.add_argument("--keep", type=Path, default=Path("few_rows.jsonl"))
    args = parser.parse_args()
    sides: dict[str, Side] = {
        "TF-IDF, logistic regression": tfidf,
        "frozen base, logistic regression": probe,
        OURS: partial(ours, settings=json.loads(args.settings)),
        UNTOLD: partial(ours, settings=json.loads(args.settings), told=False),
    }
    if args.setfit_python:
        sides[SETFIT] = partial(setfit, python=args.setfit_python)
        sides[TOLD] = partial(setfit, python=args.setfit_python, told=True)
    sides = {name: sides[name] for name in args.sides or sides}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    done = run_all(args.data, args.label_names, sides, args.rows, seeds, args.keep)
    lines = [line for size in args.rows for line in table(done, size, seeds)]
    for line in lines:
        gain = line.get("ours_ahead")
        ahead = (
            f"ours {100 * gain['gain']:+.2f} ({100 * gain['low']:+.2f} to {100 * gain['high']:+.2f})" if gain else ""
        )
        print(
            f"{line['rows']:>3} rows a class  {line['accuracy']:.4f}  {line['wall']:6.1f} s, "
            f"processor {line['processor']:6.1f} s  {line['side']} ({line['seeds']} seeds)  {ahead}",
            file=sys.stderr,
        )
    print(json.dumps({"held_out": HELD_OUT, "settings": json.loads(args.settings), "sides": lines}))


if __name__ == "__main__":
    main()
