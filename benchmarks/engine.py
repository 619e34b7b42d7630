"""How fast the engine trains beside the plain model and beside the limit, in one run:

    python benchmarks/engine.py [--base minilm|roberta] [--targets query,value] [--rank 10] [--rounds 3]

Both sides take the same steps (forward, loss, way back, clipping, AdamW) on the same batches of mini-news, tokenised
before, after three steps to warm up, in interleaved rounds. The limit is the frozen products that neither can leave
out: forward, and gradients of activations but for the lowest block's query, key and value; true shapes, in the order of
the layers, so that weights are as cold as in a step. Adapters, attention and all else count as nothing there. Other
bases than minilm have random weights here: right for speed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting

from textlora import bases, budget, config, data, device, engine, model, runs
from textlora.tokens import Collator, TokenBatches, load_tokenizer, tokenize

WARM_UP = 3


def batches(tokenizer: Any, batch_tokens: int, most: int) -> list[dict[str, torch.Tensor]]:
    rows = data.load("mini-news").train
    tokens = tokenize(tokenizer, rows.texts, 512)
    collate = Collator(tokenizer.pad_token_id)
    found = []
    for batch in TokenBatches(tokens.lengths, batch_tokens, seed=0):
        found.append(collate([{"input_ids": tokens[i], "labels": int(rows.labels[i])} for i in batch]))
    return found[:most]


def step_of(network: Any) -> Callable[[dict[str, torch.Tensor]], None]:
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(batch: dict[str, torch.Tensor]) -> None:
        with device.autocast(network):
            logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.nn.functional.cross_entropy(logits.float(), batch["labels"]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def limit_of(network: Any, dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
    """The frozen products of a step, each in the layout that is fastest for it."""
    c = network.get_base_model().config
    D, F = c.hidden_size, c.intermediate_size
    layers = [
        [torch.randn(k, n).to(dtype) if n >= k else torch.randn(n, k).to(dtype).t() for k, n in shapes]
        for shapes in [((D, 3 * D), (D, D), (D, F), (F, D))] * c.num_hidden_layers
    ]

    def products(batch: dict[str, torch.Tensor]) -> None:
        tokens = batch["input_ids"].numel()
        held = {n: torch.zeros(tokens, n, dtype=dtype) for n in (D, 3 * D, F)}
        for layer in layers:
            for weight in layer:
                torch.mm(held[weight.shape[0]], weight, out=torch.empty_like(held[weight.shape[1]]))
        for i, layer in reversed(list(enumerate(layers))):
            for weight in reversed(layer[i == 0 :]):
                torch.mm(held[weight.shape[1]], weight.t(), out=torch.empty_like(held[weight.shape[0]]))

    return products


def timed(step: Callable[[dict[str, torch.Tensor]], None], of: list[dict[str, torch.Tensor]]) -> float:
    """Texts a second."""
    began = time.perf_counter()
    for batch in of:
        step(batch)
    return sum(len(batch["labels"]) for batch in of) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--targets", default="query,value")
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    weights = "" if a.base == "minilm" else "random:0"
    settings = config.load(
        "minilm-fast",
        {
            "base": a.base,
            "base_weights": weights,
            "target_modules": a.targets.split(","),
            "lora_r": a.rank,
            "lora_alpha": 64,
            "budget": 10**8,
            "bag_of_tokens": False,
        },
    )
    base = bases.find(a.base)
    dtype = device.compute_dtype("auto")
    plan = budget.plan(settings, bases.shapes(base, weights), 4, base.hub_id)
    network, _ = model.build(settings, plan, tuple("abcd"), dtype)
    network.train()
    # texts are cut by MiniLM's tokenizer for every base: the lengths are what matters, and every id is in range
    of = batches(load_tokenizer(model.find_tokenizer(bases.find("minilm"), "", "")), a.batch_tokens, a.batches)
    for batch in of:
        batch["input_ids"] %= 30000
    step, products = step_of(network), limit_of(network, dtype)
    found: dict[str, list[float]] = {"plain": [], "fast": [], "limit": []}
    with ExitStack() as stack:
        stack.enter_context(disable_input_dtype_casting(network))
        for round_ in range(a.rounds + 1):
            for side in found:
                if side == "fast":
                    reason = engine.swap_in(network)
                    if reason:
                        raise SystemExit(f"the engine doesn't cover this: {reason}")
                rate = timed(products if side == "limit" else step, of if round_ else of[:WARM_UP])
                engine.restore(network)
                if round_:
                    found[side].append(rate)
    rates = {side: round(median(values), 1) for side, values in found.items()}
    print(
        json.dumps(
            {
                "base": a.base,
                "targets": a.targets,
                "rank": a.rank,
                "trained": plan.trainable,
                "precision": str(dtype).removeprefix("torch."),
                "isa": device.cpu_isa(),
                "threads": torch.get_num_threads(),
                "texts_per_second": rates,
                "spread": {side: [round(min(v), 1), round(max(v), 1)] for side, v in found.items()},
                "fast_over_plain": round(median(f / p for f, p in zip(found["fast"], found["plain"], strict=True)), 2),
                "limit_share": round(median(f / m for f, m in zip(found["fast"], found["limit"], strict=True)), 3),
                "versions": runs.versions(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
