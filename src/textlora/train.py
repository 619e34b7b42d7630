"""One run, end to end: `train(config) -> Run`.

Read `train` first; it calls, in order: read the data, plan and build (`prepare`), fit what has to be beaten, run the
Trainer (`_fit`), save, distrust, judge (`_finish`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from scipy.special import softmax
from transformers import EarlyStoppingCallback, PrinterCallback

from textlora import (
    baseline,
    bases,
    budget,
    card,
    checkpoint,
    data,
    device,
    engine,
    metrics,
    model,
    plots,
    predict,
    runs,
    trackers,
)
from textlora.baseline import Baseline
from textlora.blend import blend_bag
from textlora.budget import Plan
from textlora.callbacks import DropoutScheduler, Meter, MetricsTracker, Progress, StopOnInterrupt
from textlora.clean import check_steps, clean
from textlora.clock import Clock, clock_for
from textlora.config import Config
from textlora.data import Data, Split
from textlora.errors import GateError, UsageError
from textlora.evaluate import Report, judge, verdict
from textlora.fitting import COVERED, Facts, fitted
from textlora.longtext import TRUNCATE
from textlora.model import AdapterSettings
from textlora.repeats import train_seeds
from textlora.runs import Run
from textlora.schedule import by_steps
from textlora.tokens import Collator, Rows, Tokens, fit, frame, load_tokenizer, whole
from textlora.trainer import TextTrainer, arguments, batches_of, label_weights, step_loss

log = logging.getLogger("textlora")
CHECKED_TEXTS = 64  # on which a reloaded adapter must give the logits of the one in memory

Say = Callable[[str], None]


# --------------------------------------------------------------------------------------------------- what a run needs


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
    dtype: torch.dtype
    build_seconds: float

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id


def plan_for(config: Config, num_labels: int) -> Plan:
    """The exact count of `config` on its base, before any weight is loaded. Raises BudgetError when it doesn't fit."""
    base = bases.find(config.base, config.base_revision)
    return budget.plan(config, bases.shapes(base, config.base_weights), num_labels, base.hub_id)


def prepare(config: Config, say: Say, rows: Data | None = None) -> Prepared:
    """Data, plan, tokens and model: all that can be wrong with the input is found here, before the run starts.

    `rows`, if given, are taken in place of what the setting `data` names.
    """
    check_steps(config.cleaning)
    trackers.check(config.report_to)
    device.check_quantize(config.quantize)
    dtype = device.compute_dtype(config.precision)
    base = bases.find(config.base, config.base_revision)
    rows = rows or _load_data(config)
    base = bases.pinned(base, config.base_weights)
    tokenizer = load_tokenizer(model.find_tokenizer(base, config.base_weights, config.tokenizer))
    # From here on the run knows commits, not "the newest": its config.toml, and so a resumed run, reads these.
    config = replace(config, base_revision=base.revision, data_revision=rows.revision)
    if base.revision:
        say(f"base {base.hub_id}, commit {base.revision}")
    plan = plan_for(config, len(rows.label_names))
    _say_data(rows, say)
    say(_plan_line(plan))
    splits = (rows.train, rows.validation)
    ids = [_whole(config, tokenizer, split) for split in splits]
    longest = bases.shapes(base, config.base_weights).longest_text
    config, lines = fitted(_fitting_length(config, longest, say), _facts(rows, ids[0], longest, plan))
    weights = label_weights(rows.train.labels, len(rows.label_names), config.class_weights)
    train, validation = (fit(of, frame(tokenizer), config.max_length, config.long_text) for of in ids)
    for line in (*lines, *_weights_lines(rows.train, weights), *_cut_lines(train, validation)):
        say(line)
    began = time.monotonic()
    network, base_sha256 = model.build(config, plan, rows.label_names, dtype)
    return Prepared(
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
        dtype=dtype,
        build_seconds=time.monotonic() - began,
    )


def _fitting_length(config: Config, longest: int, say: Say) -> Config:
    if config.max_length <= longest or "max_length" in config.auto:
        return config
    say(f"max_length {config.max_length} is more than {config.base} has positions for: {longest} it is")
    return replace(config, max_length=longest)


def _load_data(config: Config) -> Data:
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


def _whole(config: Config, tokenizer: Any, split: Split) -> list[np.ndarray]:
    return whole(tokenizer, [clean(text, config.cleaning) for text in split.texts])


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


def _facts(rows: Data, train: list[np.ndarray], longest: int, plan: Plan) -> Facts:
    counts = np.bincount(rows.train.labels, minlength=len(rows.label_names))
    lengths = np.array([len(ids) for ids in train])
    return Facts(tuple(counts.tolist()), lengths, len(rows.validation), longest, plan.bag_of_tokens > 0)


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
    )


# ------------------------------------------------------------------------------------------------------------ training


def train(
    config: Config,
    *,
    rows: Data | None = None,
    out: str | Path = "",
    overwrite: bool = False,
    resume: bool = False,
    say: Say = log.info,
    began: float | None = None,
) -> Run:
    """Train, save, check and judge one adapter (of several seeds the best); returns its run folder.

    `rows` (of `data.from_texts`) stand in for the setting `data`, for texts that are in no file.
    `out` is the run folder (default runs/<date>-<base>-<data>); `resume` goes on from its newest good checkpoint with
    its own settings. `say` receives the lines a person reads. A time limit counts from `began` (time.monotonic()'s
    seconds; default now). Raises the errors of textlora.errors for what the user can fix, KeyboardInterrupt (a
    checkpoint saved) on Ctrl-C.
    """
    began = time.monotonic() if began is None else began
    out = out or _default_folder(config, rows)
    if not resume:
        runs.check_free(out, overwrite=overwrite)
    elif Run(Path(out)).finished:
        raise UsageError(f"{out} has finished: there is nothing to resume", "start a new run")
    prepared = prepare(config.checked(), say, rows)
    run = runs.open_run(out) if resume else runs.create(out, overwrite=overwrite)
    if resume:
        _check_same(run, prepared)
    else:
        _write_settings(run, prepared)
    if config.seeds > 1:
        return train_seeds(run, prepared.config, partial(_train_seed, prepared, say), began=began, say=say)
    return _train_one(run, prepared, resume, began, say)


def _train_one(run: Run, prepared: Prepared, resume: bool, began: float, say: Say) -> Run:
    """What comes after preparation, for one seed."""
    start = _resume_point(run, say) if resume else None
    beaten = _baselines(prepared, say)
    running = engine.use(prepared.network, prepared.config.engine, say)
    clock = clock_for(prepared.config.time_limit_seconds, began, start)
    with trackers.writing(prepared.config.report_to, run, say):
        meter, trained = _fit(run, prepared, start, clock, say)
    if prepared.plan.bag_of_tokens:
        say(_blend_bag(prepared, trained))
    _save_adapter(run, prepared, trained)
    _distrust(run, prepared, trained)
    _finish(run, prepared, trained, meter, beaten, running, began, say)
    return run


def _train_seed(prepared: Prepared, say: Say, config: Config, folder: Path, began: float) -> Run:
    """One of several seeds on what is prepared already, from where its folder is."""
    resume = Run(folder).config_file.is_file()
    config = Run(folder).config() if resume else config
    network, _ = model.build(config, prepared.plan, prepared.labels, prepared.dtype)
    own = replace(prepared, config=config, network=network)
    run = Run(folder) if resume else runs.create(folder, overwrite=True)  # of a start that was cut short
    if not resume:
        _write_settings(run, own)
    return _train_one(run, own, resume, began, say)


def _default_folder(config: Config, rows: Data | None) -> Path:
    source = rows.name if rows else Path(config.data.replace(":", "-")).stem
    return runs.default_folder(f"{config.base.split('/')[-1]}-{source}")


def _write_settings(run: Run, prepared: Prepared) -> None:
    run.write_config(prepared.config)
    run.write("plan.json", prepared.plan.to_dict())
    run.write("environment.json", _environment(prepared))


def _environment(prepared: Prepared) -> dict[str, Any]:
    rows = prepared.data
    splits = {split.name: split for split in (rows.train, rows.validation, rows.test) if split is not None}
    return {
        "versions": runs.versions(),
        "machine": runs.machine()
        | {"device": device.pick_device().type, "isa": torch.backends.cpu.get_cpu_capability()},
        "threads": torch.get_num_threads(),
        "precision": str(prepared.dtype).removeprefix("torch."),
        "seeds": {"seed": prepared.config.seed, "split_seed": prepared.config.split_seed},
        "base_sha256": prepared.base_sha256,
        "base_revision": prepared.config.base_revision or None,  # commits on the hub; None: the files came otherwise
        "data_revision": prepared.config.data_revision or None,
        "data": {
            "name": rows.name,
            "rows": {name: len(split) for name, split in splits.items()},
            "fingerprints": {name: split.fingerprint for name, split in splits.items()},
            "counts": rows.counts,
            "notes": list(rows.notes),
        },
    }


def _check_same(run: Run, prepared: Prepared) -> None:
    """Raises UsageError if what a resumed run would train on isn't what it began with."""
    before, now = runs.read_json(run.folder / "environment.json"), _environment(prepared)
    for what, key in (("data", "data"), ("base", "base_sha256"), ("precision", "precision")):
        was, is_now = (e[key]["fingerprints"] if key == "data" else e[key] for e in (before, now))
        if was != is_now:
            raise UsageError(f"the {what} isn't what {run.folder} began with", "bring that back, or start a new run")


def _resume_point(run: Run, say: Say) -> Path | None:
    """The newest good checkpoint; metrics.jsonl is taken back to its step."""
    start = checkpoint.newest_good(run.checkpoints)
    step = int(start.name.removeprefix(checkpoint.PREFIX)) if start else 0
    run.forget_after(step)
    say(f"resuming at step {step}" if start else "no checkpoint yet: starting again")
    return start


def _baselines(prepared: Prepared, say: Say) -> list[Baseline]:
    """Fit what has to be beaten on the same rows, cleaned alike."""
    steps, (train, validation) = prepared.config.cleaning, (prepared.data.train, prepared.data.validation)
    texts, held = ([clean(text, steps) for text in split.texts] for split in (train, validation))
    fitted = baseline.fit_baselines(texts, train.labels, held, validation.labels, len(prepared.labels))
    say("to beat: " + "; ".join(f"{b.name}, accuracy {b.accuracy:.4f}, macro-F1 {b.f1_macro:.4f}" for b in fitted))
    return fitted


def _fit(run: Run, prepared: Prepared, start: Path | None, clock: Clock | None, say: Say) -> tuple[Meter, PeftModel]:
    """Run the Trainer; the best weights by validation are in the model when it returns."""
    config, network = prepared.config, prepared.network
    args = arguments(config, run, prepared.dtype)
    meter, stopper = Meter(), StopOnInterrupt()
    batches, texts_per_step = batches_of(config, prepared.train, args.world_size)
    pace = clock.place if clock else by_steps
    dropout = DropoutScheduler(network, config.lora_dropout, config.lora_dropout_end, config.lora_dropout_curve, pace)
    progress = Progress(say, lambda: clock.left) if clock else Progress(say)
    callbacks = [dropout, meter, MetricsTracker(run, meter, dropout), progress, *([clock] if clock else []), stopper]
    if config.early_stopping_patience:
        callbacks.append(_early_stopping(config.early_stopping_patience, start))
    trainer = TextTrainer(
        config=config,
        batches=batches,
        meter=meter,
        measure=_measure(prepared, clock),
        pace=pace,
        model=network,
        args=args,
        train_dataset=Rows(prepared.train, prepared.data.train.labels),
        eval_dataset=Rows(prepared.validation, prepared.data.validation.labels),
        data_collator=Collator(prepared.pad_id),
        compute_loss_func=step_loss(texts_per_step, config.label_smoothing_factor, prepared.label_weights),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    # Under autocast PEFT would cast each adapter's input to fp32 and autocast cast it back: the same numbers, later.
    with disable_input_dtype_casting(network):
        if clock:
            clock.start(_rows_to_judge(prepared, clock), prepared.build_seconds)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    if stopper.interrupted:
        raise KeyboardInterrupt(
            f"stopped at step {trainer.state.global_step}; go on with: textlora train --resume --out {run.folder}"
        )
    trainer._load_best_model()  # once more: the Trainer leaves it out when a resumed run saved nothing new
    return meter, trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # type: ignore[return-value]


def _blend_bag(prepared: Prepared, trained: PeftModel) -> str:
    """Fit a bag of tokens and blend it into the best weights: the adapter is whole before it is saved."""
    weights_C = prepared.label_weights
    return blend_bag(
        trained,
        prepared.train,
        prepared.data.train.labels,
        prepared.validation,
        prepared.data.validation.labels,
        prepared.pad_id,
        class_weight=None if weights_C is None else dict(enumerate(weights_C.tolist())),
    )


def _early_stopping(patience: int, start: Path | None) -> EarlyStoppingCallback:
    """Patience counts evaluations; a resumed run goes on counting where its checkpoint was."""
    callback = EarlyStoppingCallback(patience)
    if start:
        saved = runs.read_json(start / "trainer_state.json")["stateful_callbacks"]["EarlyStoppingCallback"]
        callback.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
    return callback


def _measure(prepared: Prepared, clock: Clock | None) -> Callable[[], dict[str, float]]:
    """A function that scores validation (all, or a fixed sample) and a fixed sample of the training rows with the
    model as it is."""
    config, labels, held = prepared.config, prepared.data.train.labels, prepared.data.validation.labels
    most = _rows_within(prepared, clock) if clock else len(labels) + len(held)
    rng = np.random.default_rng(config.split_seed)
    rows = np.sort(rng.permutation(len(labels))[: min(most, max(1, config.train_sample_size))])
    judged = np.sort(rng.permutation(len(held))[: min(most, config.max_eval_samples or len(held))])
    sets = {
        "eval": (prepared.validation.take(judged), held[judged]),
        "eval_train_sample": (prepared.train.take(rows), labels[rows]),
    }

    def measure() -> dict[str, float]:
        figures, began = {}, time.monotonic()
        for prefix, (tokens, truth) in sets.items():
            scores = metrics.summary_scores(truth, predict.logits(prepared.network, tokens, prepared.pad_id))
            figures |= {f"{prefix}_{key}": value for key, value in {"n": len(truth), **scores}.items()}
        if clock:
            clock.measured(len(rows) + len(judged), time.monotonic() - began)
        return figures

    return measure


def _rows_within(prepared: Prepared, clock: Clock) -> int:
    """How many rows an evaluation may score, from the seconds that a few take; first time they are slow, so again.

    Texts of middling length, which make a batch with as little padding as those of a whole split do.
    """
    held = prepared.validation
    by_length = np.argsort(np.bincount(held.text_of, held.lengths), kind="stable")
    middle = max(0, held.texts - CHECKED_TEXTS) // 2
    sample = held.take(by_length[middle : middle + CHECKED_TEXTS])
    for _ in range(2):
        began = time.monotonic()
        predict.logits(prepared.network, sample, prepared.pad_id)
        clock.measured(sample.texts, time.monotonic() - began)
    return clock.rows_within


def _rows_to_judge(prepared: Prepared, clock: Clock) -> int:
    """Rows scored after the last step: its evaluation, distrust, and all of validation; for a bag of tokens twice."""
    times = 2 if prepared.plan.bag_of_tokens else 1
    return 2 * clock.rows_within + 2 * CHECKED_TEXTS + times * prepared.validation.texts


# ----------------------------------------------------------------------------------------------- save, distrust, judge


def _save_adapter(run: Run, prepared: Prepared, trained: PeftModel) -> None:
    config = prepared.config
    settings = AdapterSettings(
        form="stock" if config.head == "full" else "textlora",
        base=bases.find(config.base).hub_id,
        base_sha256=prepared.base_sha256,
        base_revision=config.base_revision,
        base_weights=config.base_weights if config.base_weights.startswith("random:") else "",
        labels=prepared.labels,
        head=config.head,
        head_rank=prepared.plan.head_rank,
        bag_of_tokens=prepared.plan.bag_of_tokens > 0,
        pooling=prepared.plan.pooling,
        cleaning=config.cleaning,
        max_length=config.max_length,
        long_text=config.long_text,
        text_columns=prepared.data.text_columns,
        label_column=prepared.data.label_column,
        budget=config.budget,
        trainable_parameters=prepared.plan.trainable,
    )
    model.save_weights(trained, run.adapter)
    settings.write(run.adapter)
    with runs.storing(run.adapter):
        prepared.tokenizer.save_pretrained(run.adapter)


def _distrust(run: Run, prepared: Prepared, trained: PeftModel) -> None:
    """Load what was saved into a fresh model: it must give the same logits and hold the planned number of parameters.

    Raises GateError. A head that was not saved is a fault often reported of LoRA classifiers (peft issues 310, 577).
    """
    loaded = model.load(
        run.adapter,
        base_weights=prepared.config.base_weights,
        tokenizer=prepared.config.tokenizer,
        dtype=prepared.dtype,
        quantize=prepared.config.quantize,
    )
    if engine.swapped_in(trained):
        engine.swap_in(loaded.model)
    sample = prepared.validation.take(range(min(CHECKED_TEXTS, prepared.validation.texts)))
    before, after = (predict.logits(network, sample, prepared.pad_id) for network in (trained, loaded.model))
    difference = float(np.abs(before - after).max())
    allowed = 0.0 if device.pick_device().type == "cpu" else 1e-3  # a GPU may pick another kernel
    if not difference <= allowed:
        raise GateError(f"the saved adapter gives other logits after loading, by up to {difference:.3g}", "report this")
    saved = sum(tensor.numel() for tensor in model.read_weights(run.adapter).values())
    if saved != prepared.plan.trainable:
        raise GateError(f"planned {prepared.plan.trainable:,} parameters, the file holds {saved:,}", "report this")


def _finish(
    run: Run,
    prepared: Prepared,
    trained: PeftModel,
    meter: Meter,
    beaten: list[Baseline],
    running: str,
    began: float,
    say: Say,
) -> None:
    """Judge on validation, write summary, card and pictures, seal the run, say the verdict."""
    rows = prepared.data.validation
    logits = predict.logits(trained, prepared.validation, prepared.pad_id)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    report = judge(
        rows,
        prepared.config.data or prepared.data.name,
        probabilities,
        prepared.labels,
        run,
        trainable_parameters=prepared.plan.trainable,
        cut=prepared.validation.cut,
    )
    lines = verdict(report, rows.labels, probabilities, beaten, _next_command(run, prepared))
    summary = {
        "train_samples_per_second": round(meter.texts / max(meter.seconds, 1e-9), 2),
        "train_tokens_per_second": round(meter.tokens / max(meter.seconds, 1e-9), 1),
        "train_seconds": round(meter.seconds, 2),
        "steps": meter.steps,
        "planned_steps": meter.planned_steps,
        "total_seconds": round(time.monotonic() - began, 2),
        "peak_rss_bytes": runs.peak_rss_bytes(),
        "engine": running,
        "best_validation_accuracy": report.scores.accuracy,
        "best_validation_f1_macro": report.scores.f1_macro,
        "best_validation_loss": report.scores.loss,
        "validation_accuracy_ci": list(report.scores.accuracy_ci),
        "trainable_parameters": prepared.plan.trainable,
        "baselines": {b.name: b.accuracy for b in beaten},
        "baselines_f1_macro": {b.name: b.f1_macro for b in beaten},
        "verdict": lines,
    }
    run.write("summary.json", summary)
    runs.write_text(run.adapter / "README.md", _card(prepared, report))
    plots.training_plots(run.metrics(), run.evaluation)
    run.seal()
    if prepared.config.time_limit:
        say(f"time limit {prepared.config.time_limit}: {meter.steps} of {meter.planned_steps} planned steps")
    rate = summary["train_samples_per_second"]
    say(f"trained {meter.texts:,.0f} texts in {meter.seconds:.0f} s ({rate:.0f} a second)")
    for line in lines:
        say(line)


def _next_command(run: Run, prepared: Prepared) -> str:
    if prepared.data.test is not None:
        return f"textlora evaluate {run.folder} --data {prepared.config.data} --split test"
    return f'textlora classify {run.folder} "your text"'


def _card(prepared: Prepared, report: Report) -> str:
    hidden_size = prepared.network.config.hidden_size  # type: ignore[union-attr]
    around = frame(prepared.tokenizer)
    return card.model_card(prepared.config, prepared.plan, prepared.labels, int(hidden_size), around, report.to_dict())
