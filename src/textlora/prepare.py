"""All that a run is given, made from its settings: data, plan, tokens, model. Wrong input shows itself here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from textlora import bag, bases, budget, data, device, model, names, predict, shares, solved, trackers
from textlora.blend import Shares
from textlora.budget import Plan
from textlora.calibrate import enough
from textlora.clean import check_steps, clean
from textlora.config import Config
from textlora.data import Data, Split
from textlora.errors import UsageError
from textlora.fitting import COVERED, FEW_FOR_PAIRS, PAIRS, Facts, fitted, for_rows
from textlora.longtext import TRUNCATE
from textlora.tokens import Rows, Tokens, fit, frame, joined, load_tokenizer, tokenize, whole
from textlora.trainer import label_weights

Say = Callable[[str], None]  # takes a line for people
Tokenise = Callable[[Config, Any, Split], list[np.ndarray]]  # as `whole_texts`


@dataclass(frozen=True)
class Prepared:
    """Everything the Trainer is given, made from the config alone: a resumed run makes it again."""

    config: Config
    data: Data
    plan: Plan
    labels: tuple[str, ...]
    network: PeftModel
    base_sha256: str
    tokenizer: Any
    train: Tokens
    validation: Tokens
    label_weights: torch.Tensor | None  # (C,) in the loss
    label_shares: np.ndarray | None  # (C,) true ones, where they were told
    dtype: torch.dtype
    build_seconds: float
    names: Rows | None = None  # what the labels are called, as texts, where they are learned from too
    shares: Shares | None = None  # of head and bag of tokens, where validation has too few rows to tell

    @property
    def pad_id(self) -> int:
        return predict.pad_id(self.tokenizer)

    @property
    def class_weight(self) -> dict[int, float] | None:
        """What a row of each label weighs in the loss, as scikit-learn takes it."""
        return None if self.label_weights is None else dict(enumerate(self.label_weights.tolist()))

    @property
    def learned(self) -> Rows:
        """What a step draws from: the training rows, and what else there is."""
        tokens, labels = self.train, self.data.train.labels
        if self.names is None:
            return Rows(tokens, labels)
        return Rows(joined(tokens, self.names.tokens), np.concatenate([labels, self.names.labels]))


def plan_for(config: Config, num_labels: int) -> Plan:
    """The exact count of `config` on its base, before any weight is loaded. Raises BudgetError when it doesn't fit."""
    base = bases.find(config.base, config.base_revision)
    return budget.plan(config, bases.shapes(base, config.base_weights), num_labels, base.hub_id)


def prepare(config: Config, say: Say, rows: Data | None = None, tokenised: Tokenise | None = None) -> Prepared:
    """Data, plan, tokens and model: all that can be wrong with the input is found here, before the run starts.

    `rows`, if given, are taken in place of what the setting `data` names; `tokenised` in place of tokenising, by who
    prepares several runs on the same rows.
    """
    check_steps(config.cleaning)
    trackers.check(config.report_to)
    device.check_quantize(config.quantize)
    dtype = device.compute_dtype(config.precision)
    base = bases.find(config.base, config.base_revision)
    rows = rows or load_data(config)
    base = bases.pinned(base, config.base_weights)
    tokenizer = load_tokenizer(model.find_tokenizer(base, config.base_weights, config.tokenizer))
    # From here on the run knows commits, not "the newest": its config.toml, and so a resumed run, reads these.
    config = replace(config, base_revision=base.revision, data_revision=rows.revision)
    if base.revision:
        say(f"base {base.hub_id}, commit {base.revision}")
    if "memory" not in config.auto and config.memory > len(rows.train):
        what = f"a memory of {config.memory:,} texts is more than the {len(rows.train):,} training rows"
        raise UsageError(what, f"use --memory {len(rows.train)} or fewer")
    plan = plan_for(for_rows(config, len(rows.train)), len(rows.label_names))
    _say_data(rows, say)
    say(_plan_line(plan))
    splits = (rows.train, rows.validation)
    ids = [(tokenised or whole_texts)(config, tokenizer, split) for split in splits]
    longest = bases.shapes(base, config.base_weights).longest_text
    config, lines = fitted(_fitting_length(config, longest, say), _facts(rows, ids[0], longest, plan))
    weights = label_weights(rows.train.labels, len(rows.label_names), config.class_weights)
    train, validation = (fit(of, frame(tokenizer), config.max_length, config.long_text) for of in ids)
    for line in (*lines, *_weights_lines(rows.train, weights), *_cut_lines(train, validation)):
        say(line)
    began = time.monotonic()
    network, base_sha256 = model.build(config, plan, rows.label_names, dtype)
    told = _told_shares(config, rows, network)
    if config.calibrate and not plan.voices and model.last_linear(network) is None:
        say("no temperature is fitted: this base's own head doesn't end in a linear layer to put it into")
    prepared = Prepared(
        config=config,
        data=rows,
        plan=plan,
        labels=rows.label_names,
        network=network,
        base_sha256=base_sha256,
        tokenizer=tokenizer,
        train=train,
        validation=validation,
        label_weights=weights,
        label_shares=told,
        dtype=dtype,
        build_seconds=time.monotonic() - began,
    )
    return _told_by_few(prepared, say) if config.loss == PAIRS and train.texts < FEW_FOR_PAIRS else prepared


def _told_by_few(prepared: Prepared, say: Say) -> Prepared:
    """What few rows that learn from pairs choose themselves, each left out once, by the base's untrained vectors:
    whether labels' names are learned from too, and, where validation rows are few too, what a bag of tokens weighs."""
    vectors_ND = predict.pooled(prepared.network, prepared.train, prepared.pad_id)
    found = _names(prepared, vectors_ND, say)
    validation_tells = enough(prepared.validation.texts)
    if not prepared.plan.bag_of_tokens or prepared.plan.memory or validation_tells:
        return replace(prepared, names=found)
    rows_NV = bag.features(prepared.train.ids, prepared.train.offsets, prepared.network.config.vocab_size)
    given = prepared.data.train.labels, len(prepared.labels), prepared.class_weight
    head, share = solved.shares(vectors_ND, rows_NV, *given)
    say(f"  the bag of tokens has {share / head:.2f} of the head's weight, found on training rows left out in turn")
    return replace(prepared, names=found, shares=Shares(head=head, bag=share))


def _names(prepared: Prepared, vectors_ND: np.ndarray, say: Say) -> Rows | None:
    """The names of labels that have rows, as texts, if they help to tell rows left out."""
    config, labels, called = prepared.config, prepared.data.train.labels, prepared.labels
    present = np.unique(labels)
    texts = [clean(text, config.cleaning) for text in names.sentences([called[i] for i in present])]
    found = Rows(tokenize(prepared.tokenizer, texts, config.max_length), present)
    names_CD = predict.pooled(prepared.network, found.tokens, prepared.pad_id)
    surer = names.standard_errors(vectors_ND, labels, names_CD, present)
    if surer > names.SURE:
        say(f"  label names are learned from too: {texts[0]!r} and so on help to tell rows left out")
        return found
    if not np.isnan(surer):
        say(f"  label names ({', '.join(called[:3])} ...) don't help here: telling ones would, --label-names")
    return None


def _told_shares(config: Config, rows: Data, network: PeftModel) -> np.ndarray | None:
    """The labels' true shares, if the config tells them. Raises before training what would be raised after it."""
    if not config.label_shares:
        return None
    told = shares.known(config.label_shares, rows.label_names)
    shares.check_enough(len(rows.validation))
    last = model.last_linear(network)
    if last is None or last.bias is None:
        raise UsageError("label shares go into the head's bias, and this head has none", "train with --head linear")
    return told


def _fitting_length(config: Config, longest: int, say: Say) -> Config:
    if config.max_length <= longest or "max_length" in config.auto:
        return config
    say(f"max_length {config.max_length} is more than {config.base} has positions for: {longest} it is")
    return replace(config, max_length=longest)


def load_data(config: Config) -> Data:
    """The rows that the settings name. Raises UsageError if they name none, and as `data.load` does."""
    if not config.data:
        raise UsageError("there is no data to train on", "name it with --data: mini-news, a folder or a file")
    return data.load(
        config.data,
        text_column=config.text_column,
        label_column=config.label_column,
        label_names=config.label_names,
        split_seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        revision=config.data_revision,
    )


def whole_texts(config: Config, tokenizer: Any, split: Split) -> list[np.ndarray]:
    """Token ids of a split's texts, cleaned, whatever their length."""
    return whole(tokenizer, [clean(text, config.cleaning) for text in split.texts])


def _facts(rows: Data, train: list[np.ndarray], longest: int, plan: Plan) -> Facts:
    counts = np.bincount(rows.train.labels, minlength=len(rows.label_names))
    lengths = np.array([len(ids) for ids in train])
    return Facts(
        tuple(counts.tolist()), lengths, len(rows.validation), longest, plan.bag_of_tokens > 0, plan.memory_rows
    )


# ----------------------------------------------------------------------------------------------------- lines for people


def _say_data(rows: Data, say: Say) -> None:
    say(
        f"data {rows.name}: {len(rows.train)} train, {len(rows.validation)} validation rows, "
        f"{len(rows.label_names)} labels"
    )
    for note in rows.notes:
        say(f"  {note}")


def _plan_line(plan: Plan) -> str:
    return (
        f"plan: {plan.trainable:,} of {plan.total:,} parameters trained ({plan.trainable_percent} %), budget "
        f"{plan.budget:,}: adapters {plan.adapters:,} (r {plan.r}), head {plan.head:,}"
        + (f", bag of tokens {plan.bag_of_tokens:,}" if plan.bag_of_tokens else "")
        + (f", memory {plan.memory:,} ({plan.memory_rows:,} texts)" if plan.memory else "")
    )


def _weights_lines(train: Split, weights_C: torch.Tensor | None) -> list[str]:
    """What a row of the rarest and one of the most frequent label weigh in the loss."""
    if weights_C is None:
        return []
    counts = np.bincount(train.labels, minlength=len(weights_C))
    rarest, most = int(np.where(counts, counts, counts.max() + 1).argmin()), int(counts.argmax())
    weigh = (f"one of {train.label_names[i]} {weights_C[i]:.2f} ({counts[i]:,} rows)" for i in (rarest, most))
    return [f"  rows are weighted by label: {', '.join(weigh)}"]


def _cut_lines(train: Tokens, validation: Tokens) -> list[str]:
    """How many texts are cut; where the base's limit cuts many of them, what reads more."""
    cuts = {"train": train.cut, "validation": validation.cut}
    lines = [f"  {cut.line(name)}" for name, cut in cuts.items()]
    if train.cut.mode == TRUNCATE and train.cut.longer > (1 - COVERED) * train.texts:
        lines.append("  the end of long texts isn't read: --long-text head-tail reads it, window-mean reads everything")
    return lines
