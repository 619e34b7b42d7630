"""What parameters and seconds buy on MiniLM: our recipes at several ranks, both seeds' recipes, and references.

    OMP_NUM_THREADS=1 python benchmarks/frontiers.py ag_news --keep frontiers.jsonl

Each side is trained on the folder's train split, once for each of `--seeds` seeds, and judged on its test split: all
sides are fixed here beforehand, nothing is chosen by their figures. `--keep` holds what each run got right, one line a
run: an interrupted series goes on where it was, and `--sides` can be run on different days. Seconds are the
processor's, all threads together, so that other work on the machine counts little. Two sides need packages of their
own: `pip install fasttext-numpy2 pydantic protobuf`, and, since it asks for an older transformers than it runs with,
`pip install --no-deps model2vec skeletoken`. Prints one JSON object with each side's mean and the paired gains that the
project's targets name; the table goes to stderr, and frontier_page.py makes a page and a picture of what was kept. The
seeds' recipes keep their adapters, rates, batches, dropouts and length; on MiniLM's six layers the second's layers 0, 5
and 10 of twelve become 0, 2 and 5.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

from textlora import bases, data, device, model, predict
from textlora import config as configs
from textlora.data import Data
from textlora.paired import p_value, paired_gain
from textlora.schedule import learning_rate_factor, warmup_steps
from textlora.tokens import Collator, TokenBatches, Tokens, load_tokenizer, sorted_batches, tokenize
from textlora.train import train

BASE = "minilm"
LAYER = "encoder.layer"
MATRICES = [f"{LAYER}.0.attention.self.{name}" for name in ("query", "key")]
MATRICES += [f"{LAYER}.{place}.attention.self.query" for place in (2, 5)]
SEED_1 = "first seed's recipe"
SEED_1_QUICK = "first seed's recipe, no dropout in the base"  # so that it runs on the engine: hours become minutes
SEED_2 = "second seed's recipe"
FAST, BEST = "ours, minilm-fast", "ours, minilm-best"  # r 16, a bag of tokens and a memory; the second sharpness-aware
FAST_FORGETS, BEST_FORGETS = "ours, r 16", "ours, r 16, sharpness-aware"  # the same without the memory
SMALL, SMALL_SOON = "ours, minilm-small", "ours, r 2, sharpness-aware"  # the second's passes are minilm-best's
TINY = "ours, minilm-small, r 1 on value and feed-forward"
TINY_SOON = "ours, r 1 on value and feed-forward, sharpness-aware"
EXPERT = "Trainer and PEFT, all linear layers, r 16"
FULL = "full fine-tuning"
MIXED = [
    f"{LAYER}.{i}.{name}" for i in range(6) for name in ("attention.self.value", "intermediate.dense", "output.dense")
]
FULL_RATES, FULL_EPOCHS, FULL_TOKENS = (5e-5, 1e-4, 2e-4), 3, 2048


class Trained(NamedTuple):
    """What a side made of the training rows."""

    predicted: np.ndarray  # (M,) label ids of the test rows
    parameters: int  # trained ones; 0 where it isn't a network
    seconds: float  # of the processor, from loaded rows to something that can predict
    texts: int = 0  # that it had trained on when it was at its best on validation; 0: not known


Side = Callable[[Data, int], Trained]


# --------------------------------------------------------------------------------------------------------------- ours


def adapters(recipe: str = "minilm-fast", **settings: Any) -> Side:
    """A run of `textlora train`."""

    def side(rows: Data, seed: int) -> Trained:
        config = configs.load(recipe, {"base": BASE, "report_to": [], "seed": seed, **settings})
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            run = train(config, rows=rows, out=Path(folder, "run"), say=lambda line: None)
            seconds = time.process_time() - began
            found = predict.load(run.folder).predict_proba(_test(rows).texts).argmax(1)
            best = max((one for one in run.metrics() if one["split"] == "validation"), key=lambda one: one["f1_macro"])
            texts = round(best["epoch"] * len(rows.train.texts))
            return Trained(found, run.summary()["trainable_parameters"], seconds, texts)

    return side


def ours(rank: int, recipe: str = "minilm-fast", **settings: Any) -> Side:
    return adapters(recipe, lora_r=rank, lora_alpha=2 * rank, **{"memory": 0, **settings})


# --------------------------------------------------------------------------------------------------------- references


def svm(rows: Data, seed: int) -> Trained:
    """TF-IDF of words and word pairs with a linear SVM."""
    began = time.process_time()
    fitted = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2), LinearSVC(C=0.5, random_state=seed)
    ).fit(rows.train.texts, rows.train.labels)
    seconds = time.process_time() - began
    return Trained(fitted.predict(_test(rows).texts), 0, seconds)


def probe(rows: Data, seed: int) -> Trained:
    """Logistic regression on the frozen base's mean-pooled tokens."""
    began = time.process_time()
    features = _embedded(rows.train.texts)
    fitted = LogisticRegression(C=10, max_iter=500, random_state=seed).fit(features, rows.train.labels)
    seconds = time.process_time() - began
    return Trained(fitted.predict(_embedded(_test(rows).texts)), fitted.coef_.size + len(fitted.intercept_), seconds)


def fast_text(rows: Data, seed: int) -> Trained:
    """fastText of words and word pairs, punctuation apart, its own defaults but for 20 passes."""
    import fasttext  # optional: see the module's docstring

    def line(text: str) -> str:
        return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))

    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(
            f"__label__{label} {line(text)}\n"
            for text, label in zip(rows.train.texts, rows.train.labels.tolist(), strict=True)
        )
        file.flush()
        began = time.process_time()
        fitted = fasttext.train_supervised(file.name, epoch=20, wordNgrams=2, seed=seed, thread=1, verbose=0)
        seconds = time.process_time() - began
    found = [int(fitted.predict(line(text))[0][0].removeprefix("__label__")) for text in _test(rows).texts]
    return Trained(np.array(found), 0, seconds)


def static_embeddings(rows: Data, seed: int) -> Trained:
    """model2vec's static embeddings of the same base, and logistic regression on them."""
    from model2vec.distill import distill  # optional: see the module's docstring

    began = time.process_time()
    static = distill(model_name=str(bases.files(bases.find(BASE), "")))
    features = static.encode(rows.train.texts)
    fitted = LogisticRegression(C=10, max_iter=500, random_state=seed).fit(features, rows.train.labels)
    seconds = time.process_time() - began
    found = fitted.predict(static.encode(_test(rows).texts))
    return Trained(found, fitted.coef_.size + len(fitted.intercept_), seconds)


def _embedded(texts: list[str]) -> np.ndarray:
    config = configs.load("minilm-fast")
    network = model.encoder(config, device.compute_dtype("auto")).to(device.pick_device())  # type: ignore[arg-type]
    tokenizer = _tokenizer()
    return predict.logits(network, tokenize(tokenizer, texts, config.max_length), predict.pad_id(tokenizer))


def _tokenizer() -> Any:
    return load_tokenizer(model.find_tokenizer(bases.find(BASE), "", ""))


class FullFineTuning:
    """Every weight trained, in batches by length, in bf16 where the machine is fast at it.

    The first seed tries three rates, and the best on validation is the others' too.
    """

    rate: float | None = None

    def __call__(self, rows: Data, seed: int) -> Trained:
        tokenizer = _tokenizer()
        tokens = tokenize(tokenizer, rows.validation.texts, 128)
        best, kept, seconds = -1.0, None, 0.0
        for rate in (self.rate,) if self.rate else FULL_RATES:
            began = time.process_time()
            network = _full_run(tokenizer, rows, seed, rate)
            took = time.process_time() - began
            shown = float((_labels(network, tokens, tokenizer) == rows.validation.labels).mean())
            print(f"  rate {rate:g}: {shown:.4f} on validation", file=sys.stderr, flush=True)
            if shown > best:
                best, kept, seconds, self.rate = shown, network, took, rate
        found = _labels(kept, tokenize(tokenizer, _test(rows).texts, 128), tokenizer)
        return Trained(found, sum(p.numel() for p in kept.parameters()), seconds)  # type: ignore[union-attr]


def _full_run(tokenizer: Any, rows: Data, seed: int, rate: float) -> Any:
    """Three passes: AdamW, a linear schedule, warm-up over 6 % of the steps."""
    torch.manual_seed(seed)
    folder = bases.files(bases.find(BASE), "")
    network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(rows.train.label_names))
    tokens = tokenize(tokenizer, rows.train.texts, 128)
    batches = TokenBatches(tokens.lengths, FULL_TOKENS, seed)
    steps = FULL_EPOCHS * len(batches)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, fused=True)
    warmup = warmup_steps(steps, 0.06, 0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, warmup, "linear", 1)
    )
    collate = Collator(tokenizer.pad_token_id)
    network.train()
    for epoch in range(FULL_EPOCHS):
        batches.set_epoch(epoch)
        for batch in batches:
            inputs = collate.pad([tokens[int(i)] for i in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=device.compute_dtype("auto") == torch.bfloat16):
                logits = network(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), torch.as_tensor(rows.train.labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network


def expert(rows: Data, seed: int) -> Trained:
    """Trainer and PEFT as who knows them well would run them: every linear layer, no dropout, bf16, by length."""
    tokenizer = _tokenizer()
    inputs = Dataset.from_dict(tokenizer(rows.train.texts, truncation=True, max_length=128))
    torch.manual_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(
        bases.files(bases.find(BASE), ""), num_labels=len(rows.train.label_names)
    )
    lora = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules="all-linear")
    network: Any = get_peft_model(base, lora)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=32,
            learning_rate=5e-4,
            warmup_steps=0.06,
            use_cpu=device.pick_device().type == "cpu",
            bf16=device.compute_dtype("auto") == torch.bfloat16,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
        )
        trainer = Trainer(
            model=network,
            args=args,
            train_dataset=inputs.add_column("labels", rows.train.labels.tolist()),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        began = time.process_time()
        trainer.train()
        seconds = time.process_time() - began
    found = _labels(network, tokenize(tokenizer, _test(rows).texts, 128), tokenizer)
    return Trained(found, network.num_parameters(only_trainable=True), seconds, 3 * len(rows.train.texts))


def _labels(network: Any, tokens: Tokens, tokenizer: Any) -> np.ndarray:
    network.eval()
    found = np.zeros(len(tokens), np.int64)
    with torch.inference_mode():
        for batch in sorted_batches(tokens.lengths, 4096):
            logits = network(**Collator(tokenizer.pad_token_id).pad([tokens[int(i)] for i in batch])).logits
            found[batch] = logits.argmax(1).numpy()
    return found


def _test(rows: Data) -> data.Split:
    if rows.test is None:
        raise SystemExit("the data has no test split: give a folder with train and test files")
    return rows.test


# ---------------------------------------------------------------------------------------------------------- the sides

SIDES: dict[str, Side] = {
    "TF-IDF and linear SVM": svm,
    "fastText": fast_text,
    "model2vec of the base, logistic regression": static_embeddings,
    "frozen base, logistic regression": probe,
    SEED_1: adapters("roberta-qv-r10"),
    SEED_1_QUICK: adapters("roberta-qv-r10", base_dropout=0.0),
    SEED_2: adapters("roberta-selective-r36", target_modules=MATRICES),
    "ours, r 1 on value and feed-forward": ours(1, target_modules=MIXED, bag_of_tokens=False),
    TINY_SOON: ours(1, "minilm-best", target_modules=MIXED, bag_of_tokens=False),
    TINY: ours(1, "minilm-small", target_modules=MIXED),
    "ours, r 1": ours(1, bag_of_tokens=False),
    "ours, r 2": ours(2, bag_of_tokens=False),
    SMALL_SOON: ours(2, "minilm-best", bag_of_tokens=False),
    SMALL: adapters("minilm-small"),
    "ours, r 4": ours(4, bag_of_tokens=False),
    "ours, r 8": ours(8),
    FAST_FORGETS: ours(16),
    BEST_FORGETS: ours(16, "minilm-best"),
    FAST: adapters("minilm-fast"),
    BEST: adapters("minilm-best"),
    "ours, r 16, one pass": ours(16, num_train_epochs=1),
    "ours, r 21": ours(21),
    EXPERT: expert,
    FULL: FullFineTuning(),
}
# what the targets name: the side that should be ahead, the one behind it
PAIRS = [(ahead, behind) for ahead in (BEST, SMALL, TINY) for behind in (SEED_1, SEED_1_QUICK, SEED_2)]
PAIRS += [(BEST, EXPERT), (BEST, FULL), (BEST, FAST), (BEST, BEST_FORGETS), (FAST, FAST_FORGETS)]
PAIRS += [(SMALL, SMALL_SOON), (TINY, TINY_SOON)]


Lines = dict[tuple[str, int], dict[str, Any]]  # of a side and a seed


def read(keep: Path) -> Lines:
    """What was kept of earlier runs; nothing where the file isn't there yet."""
    lines = [json.loads(line) for line in keep.read_text().splitlines()] if keep.is_file() else []
    return {(line["side"], line["seed"]): line for line in lines}


def run_all(rows: Data, names: list[str], seeds: int, keep: Path) -> Lines:
    """Every run that `keep` hasn't, appended to it."""
    done = read(keep)
    for seed in range(seeds):
        for name in names:
            if (name, seed) in done:
                continue
            found = SIDES[name](rows, seed)
            right = found.predicted == _test(rows).labels
            line = {
                "side": name,
                "seed": seed,
                "accuracy": float(right.mean()),
                "parameters": found.parameters,
                "seconds": round(found.seconds, 1),
                "texts": found.texts,
                "right": "".join("01"[r] for r in right.tolist()),
            }
            done[name, seed] = line
            with keep.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(_words(line), file=sys.stderr, flush=True)
    return done


def _words(line: Mapping[str, Any]) -> str:
    return (
        f"{line['accuracy']:.4f}  {line['parameters']:>10,} parameters  {line['seconds']:>6.0f} s  "
        f"seed {line['seed']}  {line['side']}"
    )


def summary(done: Lines) -> dict[str, Any]:
    """Means over seeds, and the paired gains of PAIRS where both sides are there, on the seeds that both have."""
    rights: dict[str, dict[int, np.ndarray]] = {name: {} for name in SIDES}
    for (name, seed), line in done.items():
        rights[name][seed] = np.array([c == "1" for c in line["right"]])
    sides = []
    for name, right in rights.items():
        if not right:
            continue
        right_SN = np.array(list(right.values()))
        lines = [line for (side, _), line in done.items() if side == name]
        sides.append(
            {
                "side": name,
                "seeds": len(lines),
                "accuracy": float(right_SN.mean()),
                "accuracies": [line["accuracy"] for line in lines],
                "interval": paired_gain(np.zeros_like(right_SN), right_SN)[1:],
                "parameters": lines[0]["parameters"],
                "seconds": float(np.median([line["seconds"] for line in lines])),
                "texts": [line.get("texts", 0) for line in lines],
            }
        )
    pairs = []
    for ahead, behind in PAIRS:
        both = sorted(rights[ahead].keys() & rights[behind].keys())
        if both:
            less, more = (np.array([rights[side][seed] for seed in both]) for side in (behind, ahead))
            gain, p = paired_gain(less, more)._asdict(), p_value(less, more)
            pairs.append({"ahead": ahead, "behind": behind, "seeds": len(both), **gain, "p": p})
    return {"sides": sides, "gains": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with train and test files")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES), metavar="SIDE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=Path("frontiers.jsonl"))
    args = parser.parse_args()
    found = summary(run_all(data.load(args.data), args.sides, args.seeds, args.keep))
    for side in found["sides"]:
        print(
            f"{side['accuracy']:.4f}  {side['parameters']:>10,}  {side['seconds']:>6.0f} s  {side['side']}",
            file=sys.stderr,
        )
    for pair in found["gains"]:
        points = f"{100 * pair['gain']:+.2f} ({100 * pair['low']:+.2f} to {100 * pair['high']:+.2f})"
        print(f"{pair['ahead']} over {pair['behind']}: {points}, p {pair['p']:.4f}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
