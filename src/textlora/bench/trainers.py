"""The sides of `bench train`: ours as `textlora train` runs it, and Hugging Face's Trainer + PEFT as people do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from textlora import device, engine, model
from textlora.bench import memory
from textlora.bench.pace import Ask, Pace, probe
from textlora.bench.task import ALPHA, SEED, Task
from textlora.callbacks import Meter
from textlora.runs import Run
from textlora.tokens import Collator, Rows, TokenBatches, Tokens, load_tokenizer
from textlora.trainer import TextTrainer, arguments, batches_of, step_loss

Counts = list[tuple[int, int]]  # texts and real tokens of each batch, in the order in which they were made
WARM_UP = 3
PROBE_SECONDS = 2.0
BATCH_TOKENS = (2048, 4096, 8192)
BATCHES = (16, 32, 64)


class Paced(TrainerCallback):
    """Tells a Pace of each optimizer step. The loader makes batches ahead: their counts are taken in order."""

    def __init__(self, pace: Pace, counts: Counts) -> None:
        self.pace, self.counts = pace, counts

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.pace.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = not self.pace.done(*self.counts.pop(0))


def _counted(collate: Callable[[Any], Any], counts: Counts) -> Callable[[Any], Any]:
    def counting(rows: Any) -> Any:
        batch = collate(rows)
        counts.append((len(batch["labels"]), int(batch["attention_mask"].sum())))
        return batch

    return counting


def _touch(network: nn.Module) -> int:
    """Memory held with every weight in it: files that are mapped come in when they are read."""
    for parameter in network.parameters():
        parameter.detach().sum()
    memory.forget_peak()
    return memory.held()


# -------------------------------------------------------------------------------------------------------------- ours


def ours(ask: Ask, folder: str, batch_tokens: int, engine: str = "auto", epoch: bool = False) -> dict[str, Any]:
    """Rounds of `textlora train`'s own Trainer, batches and engine; each as long as a pass over the rows if `epoch`."""
    task = Task.read(folder)
    lengths = task.rows()[0].lengths
    least = len(TokenBatches(lengths, max(batch_tokens, task.max_length), SEED)) if epoch else 1
    return _ours(task, batch_tokens, Pace(ask, WARM_UP, least), engine)


def best_batch_tokens(ask: Ask, folder: str) -> dict[str, Any]:
    """Which `batch_tokens` is fastest, and the real tokens a second of each."""
    task, rates = Task.read(folder), {}
    for batch_tokens in BATCH_TOKENS:
        trial, found = probe(PROBE_SECONDS)
        _ours(task, batch_tokens, Pace(trial, WARM_UP, least=3))
        rates[batch_tokens] = round(found[0].tokens / found[0].seconds, 1)
    return {"best": max(rates, key=rates.__getitem__), "tokens_per_second": rates}


def _ours(task: Task, batch_tokens: int, pace: Pace, wanted: str = "auto") -> dict[str, Any]:
    config = task.config(batch_tokens=max(batch_tokens, task.max_length), engine=wanted)
    dtype = device.compute_dtype(config.precision)
    network, _ = model.build(config, task.plan(config), task.labels, dtype)
    loaded = _touch(network)
    running = engine.use(network, config.engine, lambda line: None)
    tokens, labels = task.rows()
    batches, texts_per_step = batches_of(config, tokens, world_size=1)
    pad_id: Any = load_tokenizer(task.tokenizer_folder).pad_token_id
    counts: Counts = []
    with tempfile.TemporaryDirectory() as out, disable_input_dtype_casting(network):
        trainer = TextTrainer(
            config=config,
            batches=batches,
            meter=Meter(),
            measure=dict,
            model=network,
            args=_without_judging(arguments(config, Run(Path(out)), dtype)),
            train_dataset=Rows(tokens, labels),
            data_collator=_counted(Collator(pad_id), counts),
            compute_loss_func=step_loss(texts_per_step),
            callbacks=[Paced(pace, counts)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return {
        "engine": running,
        "precision": str(dtype).removeprefix("torch."),
        "batch_tokens": config.batch_tokens,
        "isa": device.cpu_isa(),
        "threads": torch.get_num_threads(),
        **_memory(loaded),
    }


def _without_judging(args: TrainingArguments) -> TrainingArguments:
    """Steps alone: evaluating and saving are no part of a step's time on any side."""
    return replace(args, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)


def _memory(loaded: int) -> dict[str, int]:
    return {"peak_rss_bytes": memory.peak(), "training_rss_bytes": memory.peak() - loaded}


# -------------------------------------------------------------------------------------------------------------- peers


@dataclass(frozen=True)
class Peer:
    """A way to run Trainer + PEFT."""

    batch: int
    bf16: bool = False
    bf16_weights: bool = False  # the frozen ones loaded in bf16 as well
    max_length_padding: bool = False
    attention: str = ""  # eager or sdpa; "": transformers' choice
    dropout: bool = True  # the base's own, and 0.1 on adapters; else none
    by_length: bool = False  # group_by_length
    warm_up: int = WARM_UP
    least: int = 1  # steps in a round


def peer(ask: Ask, folder: str, how: dict[str, Any]) -> dict[str, Any]:
    """Rounds of Trainer + PEFT as `how`, a Peer's fields."""
    one = Peer(**how)
    return _peer(Task.read(folder), one, Pace(ask, one.warm_up, one.least))


def best_expert(ask: Ask, folder: str) -> dict[str, Any]:
    """The fastest that Trainer + PEFT can be asked for, and the real tokens a second of each that was tried.

    Attention and the type of frozen weights are chosen at the middle batch, then the batch. bf16 where the CPU has it.
    """
    task, tried = Task.read(folder), dict[Peer, float]()
    bf16 = device.compute_dtype("auto") == torch.bfloat16
    middle = Peer(batch=BATCHES[1], bf16=bf16, dropout=False, by_length=True, warm_up=1, least=3)
    ways = [
        (attention, weights) for attention in ("eager", "sdpa") for weights in ((False, True) if bf16 else (False,))
    ]
    for attention, weights in ways:
        _try(task, replace(middle, attention=attention, bf16_weights=weights), tried)
    best = max(tried, key=tried.__getitem__)
    for batch in BATCHES[::2]:
        _try(task, replace(best, batch=batch), tried)
    best = max(tried, key=tried.__getitem__)
    shown = ("batch", "attention", "bf16_weights")
    rates = [{key: getattr(one, key) for key in shown} | {"tokens_per_second": rate} for one, rate in tried.items()]
    return {"best": asdict(replace(best, warm_up=WARM_UP, least=1)), "tried": rates}


def _try(task: Task, one: Peer, tried: dict[Peer, float]) -> None:
    trial, found = probe(PROBE_SECONDS)
    _peer(task, one, Pace(trial, one.warm_up, one.least))
    tried[one] = round(found[0].tokens / found[0].seconds, 1)


def _peer(task: Task, one: Peer, pace: Pace) -> dict[str, Any]:
    network = _peer_model(task, one)
    loaded = _touch(network)
    tokenizer = load_tokenizer(task.tokenizer_folder)
    padding = {"padding": "max_length", "max_length": task.max_length} if one.max_length_padding else {}
    counts: Counts = []
    with tempfile.TemporaryDirectory() as out:
        trainer = (_Shuffled if one.by_length else Trainer)(
            network,
            TrainingArguments(
                out,
                per_device_train_batch_size=one.batch,
                max_steps=10**6,
                learning_rate=3.99e-4,  # the first seed's
                use_cpu=True,
                bf16=one.bf16,
                train_sampling_strategy="group_by_length" if one.by_length else "random",
                report_to=[],
                save_strategy="no",
                logging_steps=10**6,
                disable_tqdm=True,
                seed=SEED,
            ),
            train_dataset=_dataset(*task.rows()),
            data_collator=_counted(DataCollatorWithPadding(tokenizer, **padding), counts),  # type: ignore[arg-type]
            processing_class=tokenizer,
            callbacks=[Paced(pace, counts)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    how = {key: value for key, value in asdict(one).items() if key not in ("warm_up", "least")}
    attention = network.get_base_model().config._attn_implementation
    return how | {"attention": attention, **_memory(loaded)}


def _peer_model(task: Task, one: Peer) -> Any:
    """The base with its own head, PEFT's adapters on the modules that ours has them on."""
    config = AutoConfig.from_pretrained(task.base_folder, trust_remote_code=False, num_labels=len(task.labels))
    for name in model.DROPOUTS if not one.dropout else ():
        if hasattr(config, name):
            setattr(config, name, 0.0)
    network = AutoModelForSequenceClassification.from_pretrained(
        task.base_folder,
        config=config,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # a random base was saved with a head of two labels
        dtype=torch.bfloat16 if one.bf16_weights else torch.float32,
        **({"attn_implementation": one.attention} if one.attention else {}),
    )
    adapted = [m.name for m in task.plan(task.config()).modules]
    dropout = 0.1 if one.dropout else 0.0
    lora = LoraConfig(
        r=task.lora_r, lora_alpha=ALPHA, lora_dropout=dropout, target_modules=adapted, task_type="SEQ_CLS"
    )
    return get_peft_model(network, lora)


def _dataset(tokens: Tokens, labels: np.ndarray) -> Dataset:
    rows = [tokens[i].tolist() for i in range(len(tokens))]
    masks = [[1] * len(row) for row in rows]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": masks, "labels": labels.tolist()})


class _Shuffled(Trainer):
    """The Trainer with its own batches by length in random order.

    Its own order goes from long to short through each 50 batches: a round of seconds would see long texts only.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return _BatchOrder(super()._get_train_sampler(train_dataset), self.args.train_batch_size)


class _BatchOrder(Sampler[int]):
    def __init__(self, rows: Any, batch: int) -> None:
        self.rows, self.batch = rows, batch
        self.rng = np.random.default_rng(SEED)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        rows = list(self.rows)
        whole = len(rows) // self.batch * self.batch
        batches = [rows[start : start + self.batch] for start in range(0, whole, self.batch)]
        # the longest first, as the Trainer has it: that step asks for all the memory that later ones need
        for number in (0, *(1 + self.rng.permutation(len(batches) - 1))):
            yield from batches[number]
        yield from rows[whole:]
