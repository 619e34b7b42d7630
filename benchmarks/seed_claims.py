"""The seeds' claims, tested on MiniLM: the same rows, several seeds a side, a paired test for each claim.

    python benchmarks/seed_claims.py ag_news/train.csv --rows 5000 --keep claims.jsonl

Each claim sets two or more ways beside each other that differ in one thing, with (nearly) equal numbers of parameters.
A way is trained on `--rows` rows of the file, once for each of `--seeds` seeds (which also draw the rows), and scored
on 2,000 rows held out of the same file. `--keep` holds what each run got right, one line a run: an interrupted series
goes on where it was. Prints one JSON object; the table goes to stderr, and with `--page` a page of Markdown is written.

On MiniLM's six layers the second seed's layers 0, 5 and 10 of twelve become 0, 2 and 5.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from small_data import HELD_OUT, Rows, read, stratified, take

from textlora import config as configs
from textlora import data, predict
from textlora.paired import p_value, paired_gain
from textlora.train import train

Lines = dict[tuple[str, str, int], dict[str, Any]]  # of a claim, a way, a seed

# What both sides of a claim share: the first seed's adapters and rate, with our batches.
SHARED: dict[str, Any] = {
    "head": "full",
    "pooling": "cls",
    "target_modules": ["query", "value"],
    "lora_r": 10,
    "lora_alpha": 64,
    "learning_rate": 4e-4,
    "num_train_epochs": 3,
    "bag_of_tokens": False,
    "memory": 0,
    "report_to": [],
}
SELECTED = [f"encoder.layer.{place}" for place in ("0.attention.self.query", "0.attention.self.key")]
SELECTED += [f"encoder.layer.{place}.attention.self.query" for place in (2, 5)]
SCHEDULE = {"lora_dropout": 0.15, "lora_dropout_end": 0.05, "lora_dropout_curve": "linear"}

FASTER = {"learning_rate": 1.6e-3}

# claim -> way -> settings over SHARED; the first way is the one that the claim speaks for
CLAIMS: dict[str, dict[str, dict[str, Any]]] = {
    "four chosen matrices beat adapters everywhere, at equal parameters (110,592)": {
        "layers 0, 2, 5: r 36 on four": {"target_modules": SELECTED, "lora_r": 36, "lora_alpha": 32},
        "all layers: r 12 on twelve": {"lora_r": 12, "lora_alpha": 11},  # alpha / r as on the other side
    },
    "the same, both at four times the rate": {  # fewer matrices may want larger steps
        "layers 0, 2, 5 at 1.6e-3": {"target_modules": SELECTED, "lora_r": 36, "lora_alpha": 32, **FASTER},
        "all layers at 1.6e-3": {"lora_r": 12, "lora_alpha": 11, **FASTER},
    },
    "a dropout that falls beats a constant one": {
        "0.15 to 0.05": SCHEDULE,
        "0.05": {"lora_dropout": 0.05},
        "0.10": {"lora_dropout": 0.1},
        "0.15": {"lora_dropout": 0.15},
    },
    "alpha 64 beats 20 at r 10": {"alpha 64": {}, "alpha 20": {"lora_alpha": 20}},
    "a large head beats a small one at equal budget (389,000)": {
        "head 296,836, r 10": {"head": "low-rank", "head_rank": 384},
        "head 1,540, r 42": {"head": "linear", "lora_r": 42, "lora_alpha": 269},
    },
}


def run_once(settings: dict[str, Any], rows: Rows, held: Rows, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Train one way on `rows`; what it gets right of the held-out rows, as a string of 0 and 1."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = configs.load("minilm-fast", SHARED | settings | {"seed": seed})
        run = train(config, rows=data.from_texts(*rows, names), out=Path(folder, "run"), say=lambda line: None)
        found = predict.load(run.folder).predict_proba(held[0]).argmax(1) == held[1]
        parameters = run.summary()["trainable_parameters"]
    return {
        "accuracy": float(found.mean()),
        "parameters": parameters,
        "seconds": round(time.monotonic() - began, 1),
        "right": "".join("01"[r] for r in found.tolist()),
    }


def read_kept(keep: Path, rows: int) -> Lines:
    """What was kept of earlier runs on so many rows; nothing where the file isn't there yet."""
    lines = [json.loads(line) for line in keep.read_text().splitlines()] if keep.is_file() else []
    return {(line["claim"], line["way"], line["seed"]): line for line in lines if line["rows"] == rows}


def run_all(file: Path, rows: int, seeds: int, keep: Path) -> Lines:
    """Every way of every claim with every seed, but for those that `keep` has already."""
    (texts, labels), names = read(file)
    chosen = stratified(labels, [HELD_OUT // len(names)] * len(names), np.random.default_rng(0))
    held, pool = take((texts, labels), chosen), take((texts, labels), np.setdiff1d(np.arange(len(texts)), chosen))
    done = read_kept(keep, rows)
    for seed in range(seeds):  # seed by seed: an interrupted series has as many of each
        own = take(pool, stratified(pool[1], [rows // len(names)] * len(names), np.random.default_rng([7, seed])))
        for claim, ways in CLAIMS.items():
            for way, settings in ways.items():
                if (claim, way, seed) in done:
                    continue
                found = run_once(settings, own, held, names, seed)
                line = {"claim": claim, "way": way, "seed": seed, "rows": rows, **found}
                done[claim, way, seed] = line
                with keep.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                print(
                    f"seed {seed}  {found['accuracy']:.4f}  {found['parameters']:>9,}  {way}",
                    file=sys.stderr,
                    flush=True,
                )
    return done


def verdicts(done: Lines, seeds: int) -> list[dict[str, Any]]:
    """That of each claim, from what its ways got right with each seed."""
    return [
        verdict(
            claim,
            {way: np.array([[c == "1" for c in done[claim, way, s]["right"]] for s in range(seeds)]) for way in ways},
        )
        for claim, ways in CLAIMS.items()
    ]


def verdict(claim: str, ways: dict[str, np.ndarray]) -> dict[str, Any]:
    """The claimed way beside each other one: gain in accuracy with its interval, and what becomes of the claim."""
    first, *others = ways
    lines = []
    for other in others:
        gain = paired_gain(ways[other], ways[first])
        word = "holds" if gain.low > 0 else "reversed" if gain.high < 0 else "no difference seen"
        lines.append({"against": other, **gain._asdict(), "p": p_value(ways[other], ways[first]), "verdict": word})
    means = {name: float(right.mean()) for name, right in ways.items()}
    return {"claim": claim, "way": first, "accuracy": means, "beside": lines}


PAGE = """# What became of the seeds' claims

Both seeds (docs/seeds.md) say what helped them, from one run or a few on RoBERTa. Here each claim is a pair of ways
that differ in one thing, with (nearly) equal numbers of parameters, trained on MiniLM with {rows:,} AG News rows,
{seeds} seeds a way (a seed draws the rows too), judged on {held_out:,} rows held out of the training file. A gain is
the first way's accuracy less the other's, in points, with a 95 % interval of the paired bootstrap over seeds and rows:
"holds" and "reversed" mean that it leaves out zero.

MiniLM isn't RoBERTa, and {rows:,} rows aren't 120,000: **what holds there is not measured here.** {epochs:g} passes at
{rate:g} unless said otherwise, our batches by length, no bag of tokens.

Made by `python benchmarks/seed_claims.py train.csv --rows {rows} --seeds {seeds} --keep
benchmarks/kept/seed_claims.jsonl --page docs/seed-findings.md`, which goes on from what was kept.
"""


def page(found: list[dict[str, Any]], rows: int, seeds: int) -> str:
    """The findings as Markdown."""
    facts = {"epochs": SHARED["num_train_epochs"], "rate": SHARED["learning_rate"], "held_out": HELD_OUT}
    lines = [PAGE.format(rows=rows, seeds=seeds, **facts)]
    for one in found:
        first = one["way"]
        lines += [f'## "{one["claim"][0].upper()}{one["claim"][1:]}"', ""]
        lines += ["| way | accuracy | the claimed way's gain | p | verdict |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {first} | {one['accuracy'][first]:.4f} | | | |"]
        for line in one["beside"]:
            points = f"{100 * line['gain']:+.2f} ({100 * line['low']:+.2f} to {100 * line['high']:+.2f})"
            lines += [
                f"| {line['against']} | {one['accuracy'][line['against']]:.4f} | {points} | {_p(line['p'])} | "
                f"**{line['verdict']}** |"
            ]
        lines += [""]
    return "\n".join(lines)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=Path, default=Path("seed_claims.jsonl"))
    parser.add_argument("--page", type=Path, help="a Markdown file to write")
    args = parser.parse_args()
    done = run_all(args.data, args.rows, args.seeds, args.keep)
    found = verdicts(done, args.seeds)
    for one in found:
        print(f"\n{one['claim']}", file=sys.stderr)
        for line in one["beside"]:
            points = " to ".join(f"{100 * line[key]:+.2f}" for key in ("low", "high"))
            print(
                f"  {one['way']} against {line['against']}: {100 * line['gain']:+.2f} ({points}), "
                f"p {line['p']:.3f}: {line['verdict']}",
                file=sys.stderr,
            )
    if args.page:
        args.page.write_text(page(found, args.rows, args.seeds), encoding="utf-8")
    print(json.dumps({"rows": args.rows, "seeds": args.seeds, "held_out": HELD_OUT, "claims": found}))


if __name__ == "__main__":
    main()
