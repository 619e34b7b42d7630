"""One run, end to end: `train(config) -> Run`.

From top to bottom it goes as a run goes: settings come in and everything is prepared (`train`), what has to be beaten
is fitted (`_baselines`), the Trainer trains (`fit`), what was saved is distrusted, the run is judged (`_finish`).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from scipy.special import softmax
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from textlora import baseline, card, checkpoint, contrast, engine, model, plots, predict, prefix, refit, runs, trackers
from textlora.baseline import Baseline
from textlora.blend import Shares, blend
from textlora.calibrate import align, calibrate, enough, loss
from textlora.callbacks import DropoutScheduler, Meter, MetricsTracker, Progress, StopOnInterrupt, early_stopping
from textlora.clean import clean
from textlora.clock import Clock, clock_for
from textlora.config import Config
from textlora.data import Data
from textlora.errors import UsageError
from textlora.evaluate import Report, judge
from textlora.fitting import PAIRS
from textlora.measure import measuring
from textlora.prepare import Prepared, Say, prepare
from textlora.provenance import check_same, write_settings
from textlora.refit import Chosen
from textlora.repeats import train_seeds
from textlora.runs import Run
from textlora.saving import CHECKED_TEXTS, distrust, save_adapter
from textlora.schedule import by_steps
from textlora.tokens import Collator, Rows, frame
from textlora.trainer import TextTrainer, arguments, batches_of, step_loss
from textlora.verdict import verdict

log = logging.getLogger("textlora")


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
    `out` is the run folder (default runs/<date>-<base>-<data>); `resume` goes on from its newest good checkpoint, and
    refuses other settings than its own. `say` receives the lines a person reads. A time limit counts from `began`
    (time.monotonic()'s seconds; default now). Raises the errors of textlora.errors for what the user can fix,
    KeyboardInterrupt (a checkpoint saved) on Ctrl-C.
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
        check_same(run, prepared)
    else:
        write_settings(run, prepared)
    if config.seeds > 1:
        return train_seeds(run, prepared.config, partial(_train_seed, prepared, say), began=began, say=say)
    return _train_one(run, prepared, resume, began, say)


def _train_one(run: Run, prepared: Prepared, resume: bool, began: float, say: Say) -> Run:
    """What comes after preparation, for one seed."""
    start = _resume_point(run, say) if resume else None
    beaten = _baselines(prepared, say)
    running = engine.use(prepared.network, prepared.config.engine, say)
    clock = clock_for(prepared.config.time_limit_seconds, began, start)
    meter = Meter()
    hidden = prefix.left_out(prepared, run.folder / prefix.FOLDER, say)
    with trackers.writing(prepared.config.report_to, run, say), hidden:
        trained = fit(run, prepared, meter, start=start, clock=clock, say=say)
    temperature, chosen = _choose(prepared, trained, say)
    logits = predict.logits(trained, prepared.validation, prepared.pad_id)
    first, again = trained, Meter()
    if prepared.config.refit:
        before = loss(logits, prepared.data.validation.labels)
        trained = _refit(run, prepared, chosen, before, again, say) or first
    save_adapter(run, prepared, trained, temperature)
    distrust(run, prepared, trained)
    _finish(run, prepared, logits, temperature, meter, None if trained is first else again, beaten, running, began, say)
    return run


def _choose(prepared: Prepared, trained: PeftModel, say: Say) -> tuple[float | None, Chosen]:
    """Fit on the validation rows what is fitted when training is over, and put it into the model: the temperature, if
    it is one alone, and all of it."""
    temperature, held = None, prepared.data.validation.labels
    chosen = Chosen(blended(prepared, trained, say))  # voices' shares are a temperature too
    if _calibrates(prepared):
        temperature, line = calibrate(trained, prepared.validation, held, prepared.pad_id)
        chosen = Chosen(Shares(head=1 / temperature))
        say(line)
    if prepared.label_shares is not None:
        moved_C, line = align(trained, prepared.validation, held, prepared.pad_id, prepared.label_shares)
        chosen = replace(chosen, offsets_C=moved_C)
        say(line)
    return temperature, chosen


def _refit(run: Run, prepared: Prepared, chosen: Chosen, before: float, meter: Meter, say: Say) -> PeftModel | None:
    """A second training, on validation rows too; None where it went wrong: its loss on those must be below `before`,
    the first's, which hadn't seen them.

    An interrupted one begins again. Of its folder only the curve is kept.
    """
    shutil.rmtree(run.folder / refit.FOLDER, ignore_errors=True)
    whole, inner = refit.together(prepared), runs.create(run.folder / refit.FOLDER)
    say(f"once more, on the validation rows too: {whole.train.texts} rows")
    engine.use(whole.network, whole.config.engine, say)
    try:
        again = fit(inner, whole, meter, say=say)
    except KeyboardInterrupt as stop:  # its words name the folder to go on with
        raise KeyboardInterrupt(str(stop).replace(str(inner.folder), str(run.folder))) from None
    finally:
        for part in (inner.adapter, inner.checkpoints, inner.evaluation):
            shutil.rmtree(part, ignore_errors=True)
    chosen.put_into(again, whole)
    after = loss(predict.logits(again, prepared.validation, prepared.pad_id), prepared.data.validation.labels)
    if not after < before:  # nor if it isn't a number
        say(f"  its loss on those rows is {after:.4f}, where {before:.4f} was without them: the first adapter stays")
        return None
    return again


def _train_seed(prepared: Prepared, say: Say, config: Config, folder: Path, began: float) -> Run:
    """One of several seeds on what is prepared already, from where its folder is."""
    resume = Run(folder).config_file.is_file()
    config = Run(folder).config() if resume else config
    network, _ = model.build(config, prepared.plan, prepared.labels, prepared.dtype)
    own = replace(prepared, config=config, network=network)
    run = Run(folder) if resume else runs.create(folder, overwrite=True)  # of a start that was cut short
    if not resume:
        write_settings(run, own)
    return _train_one(run, own, resume, began, say)


def _default_folder(config: Config, rows: Data | None) -> Path:
    source = rows.name if rows else Path(config.data.replace(":", "-")).stem
    return runs.default_folder(f"{config.base.split('/')[-1]}-{source}")


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


def fit(
    run: Run,
    prepared: Prepared,
    meter: Meter,
    *,
    start: Path | None = None,
    clock: Clock | None = None,
    watching: Sequence[TrainerCallback] = (),
    say: Say = log.info,
) -> PeftModel:
    """Run the Trainer; the best weights by validation are in the model that it returns. `meter` counts the work.

    `start` is the checkpoint to go on from; `watching` are callbacks that come after all others.
    """
    config, network = prepared.config, prepared.network
    args = arguments(config, run, prepared.dtype)
    stopper = StopOnInterrupt()
    rows = prepared.learned
    batches, texts_per_step = batches_of(config, rows.tokens, args.world_size)
    pace = clock.place if clock else by_steps
    dropout = DropoutScheduler(network, config.lora_dropout, config.lora_dropout_end, config.lora_dropout_curve, pace)
    progress = Progress(say, lambda: clock.left) if clock else Progress(say)
    callbacks = [dropout, meter, MetricsTracker(run, meter, dropout), progress, *([clock] if clock else []), stopper]
    if config.early_stopping_patience:
        callbacks.append(early_stopping(config.early_stopping_patience, start))
    callbacks += watching
    kind, loss_func, measure = _objective(prepared, texts_per_step, measuring(prepared, clock))
    trainer = kind(
        config=config,
        batches=batches,
        meter=meter,
        measure=measure,
        pace=pace,
        model=network,
        args=args,
        train_dataset=rows,
        eval_dataset=Rows(prepared.validation, prepared.data.validation.labels),
        data_collator=Collator(prepared.pad_id),
        compute_loss_func=loss_func,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    # Under autocast PEFT would cast each adapter's input to fp32 and autocast cast it back: the same numbers, later.
    with disable_input_dtype_casting(network):
        if clock:
            clock.start(_rows_to_judge(prepared, clock), prepared.build_seconds)
        trainer.train_from(start)
    if stopper.interrupted:
        raise KeyboardInterrupt(
            f"stopped at step {trainer.state.global_step}; go on with: textlora train --resume --out {run.folder}"
        )
    trainer._load_best_model()  # once more: the Trainer leaves it out when a resumed run saved nothing new
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # type: ignore[return-value]


def _objective(
    prepared: Prepared, texts_per_step: float, measure: Callable[[], dict[str, float]]
) -> tuple[type[TextTrainer], Callable[..., Tensor], Callable[[], dict[str, float]]]:
    """The Trainer, its loss and its judge, as the setting `loss` has them: where the head is solved for, that is done
    before each judgement, so that every checkpoint has one that fits."""
    config, weights = prepared.config, prepared.label_weights
    if config.loss != PAIRS:
        return TextTrainer, step_loss(texts_per_step, config.label_smoothing_factor, weights), measure

    def solved() -> dict[str, float]:
        solve_head(prepared)
        return measure()

    return contrast.PairTrainer, contrast.step_loss(config.gradient_accumulation_steps), solved


def solve_head(prepared: Prepared) -> None:
    """Where the head isn't trained but solved for, fit it to what the adapters make of the training rows now."""
    if prepared.config.loss == PAIRS:
        contrast.solve_head(prepared.network, prepared.learned, prepared.pad_id, prepared.class_weight)


def blended(prepared: Prepared, trained: PeftModel, say: Say) -> Shares:
    """Where the plan has a bag of tokens or a memory: fit them and blend them into the best weights, so that the
    adapter is whole. Returns what each weighs: as validation rows advise, or as training rows did before."""
    if not prepared.plan.voices:
        return Shares()
    if prepared.shares:
        Chosen(prepared.shares).put_into(trained, prepared)
        return prepared.shares
    shares, line = blend(
        trained,
        prepared.train,
        prepared.data.train.labels,
        prepared.validation,
        prepared.data.validation.labels,
        prepared.pad_id,
        class_weight=prepared.class_weight,
    )
    say(line)
    return shares


def _calibrates(prepared: Prepared) -> bool:
    """Whether a temperature is fitted when the last step is done."""
    wanted = prepared.config.calibrate and not prepared.plan.voices
    return wanted and enough(prepared.validation.texts) and model.last_linear(prepared.network) is not None


def _rows_to_judge(prepared: Prepared, clock: Clock) -> int:
    """Rows scored after the last step: its evaluation, distrust, and all of validation; twice if they choose a number
    more."""
    times = 2 if prepared.plan.voices or _calibrates(prepared) else 1
    times += prepared.label_shares is not None
    return 2 * clock.rows_within + 2 * CHECKED_TEXTS + times * prepared.validation.texts


# ----------------------------------------------------------------------------------------------- save, distrust, judge


def _finish(
    run: Run,
    prepared: Prepared,
    logits: np.ndarray,
    temperature: float | None,
    meter: Meter,
    again: Meter | None,
    beaten: list[Baseline],
    running: str,
    began: float,
    say: Say,
) -> None:
    """Judge by the `logits` of validation, write summary, card and pictures, seal the run, say the verdict.

    `meter` counts the training that is judged, `again` the one on all rows that the saved adapter is of, if it is.
    """
    rows = prepared.data.validation
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
    next_command = _next_command(run, prepared)
    lines = verdict(report.split, report.scores, rows.labels, probabilities, beaten, next_command)
    if prepared.label_shares is not None:
        lines[0] += " The labels' shares were told: by the given labels, which lean, this may read too low."
    summary = _summary(prepared, report, meter, beaten, running, began)
    if again:
        lines[0] += " The adapter was then trained on these rows too: what is judged is how it did without them."
    summary |= {
        "temperature": temperature,
        "refit_seconds": round(again.seconds, 2) if again else 0.0,
        "verdict": lines,
    }
    run.write("summary.json", summary)
    runs.write_text(run.adapter / "README.md", _card(prepared, report, again is not None))
    plots.training_plots(run.metrics(), run.evaluation)
    run.seal()
    if prepared.config.time_limit:
        say(f"time limit {prepared.config.time_limit}: {meter.steps} of {meter.planned_steps} planned steps")
    rate = summary["train_samples_per_second"]
    say(f"trained {meter.texts:,.0f} texts in {meter.seconds:.0f} s ({rate:.0f} a second)")
    for line in lines:
        say(line)


def _summary(
    prepared: Prepared, report: Report, meter: Meter, beaten: list[Baseline], running: str, began: float
) -> dict[str, Any]:
    """The run in figures, but for its verdict."""
    return {
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
    }


def _next_command(run: Run, prepared: Prepared) -> str:
    if prepared.data.test is not None:
        return f"textlora evaluate {run.folder} --data {prepared.config.data} --split test"
    return f'textlora classify {run.folder} "your text"'


def _card(prepared: Prepared, report: Report, refitted: bool) -> str:
    hidden_size = prepared.network.config.hidden_size  # type: ignore[union-attr]
    around = frame(prepared.tokenizer)
    return card.model_card(
        prepared.config, prepared.plan, prepared.labels, int(hidden_size), around, report.to_dict(), refitted
    )
