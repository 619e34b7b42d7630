"""Training laws: a run repeats bit for bit, survives being killed, equals the plain Trainer, and distrusts itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CORPUS
from plain_trainer import assert_first_losses_equal_the_plain_trainers

from textlora import adapter, runs
from textlora import config as configs
from textlora.errors import BudgetError, GateError, UsageError
from textlora.runs import Run
from textlora.train import train
from textlora.trainer import label_weights, step_loss

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")


def quiet(_: str) -> None:
    pass


def weights(run: Path) -> bytes:
    return (run / "adapter" / adapter.WEIGHTS).read_bytes()


def test_a_run_leaves_the_documented_files_and_nothing_pickled(trained):
    run = trained("bert")
    for name in ("config.toml", "plan.json", "environment.json", "metrics.jsonl", "summary.json", "manifest.json"):
        assert (run / name).is_file(), name
    for name in (adapter.WEIGHTS, adapter.PEFT_CONFIG, runs.ADAPTER_SETTINGS, "tokenizer.json", "README.md"):
        assert (run / "adapter" / name).is_file(), name
    for name in ("report.json", "loss.png", "accuracy.png", "precision_recall_f1.png", "learning_rate_dropout.png"):
        assert (run / "evaluation" / name).is_file(), name
    assert not [p for p in run.rglob("*") if p.suffix in {".pt", ".pth", ".bin", ".pkl"}]
    runs.verify(run)


def test_the_adapter_names_its_base_by_hub_id_never_by_a_path(trained):
    run = trained("bert")
    peft = json.loads((run / "adapter" / adapter.PEFT_CONFIG).read_text())
    assert peft["base_model_name_or_path"] == "google-bert/bert-base-uncased"
    assert str(run.parent) not in (run / "adapter" / adapter.PEFT_CONFIG).read_text()
    assert len(peft["target_modules"]) == 12  # in full: an ending could match a pooler elsewhere


def test_summary_holds_the_contracts_keys(trained):
    summary = Run(trained("bert")).summary()
    expected = {"train_samples_per_second", "train_tokens_per_second", "train_seconds", "peak_rss_bytes", "engine"}
    expected |= {"best_validation_accuracy", "trainable_parameters", "baselines"}
    assert expected <= set(summary)
    assert len(summary["verdict"]) <= 4
    assert set(summary["baselines"]) == {"majority", "tfidf-logreg"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"lora_dropout": 0.2}, {"per_device_train_batch_size": 8, "lora_dropout": 0.1}]
)
def test_two_runs_of_one_seed_are_bit_identical(changes, tiny_config, tmp_path):
    config = tiny_config("bert", **changes)
    one, other = (train(config, out=tmp_path / name, say=quiet).folder for name in ("one", "other"))
    assert weights(one) == weights(other)


def test_another_seed_gives_another_adapter_on_the_same_validation_rows(trained):
    one, other = trained("bert"), trained("bert", seed=1)
    assert weights(one) != weights(other)
    data = [json.loads((run / "environment.json").read_text())["data"]["fingerprints"] for run in (one, other)]
    assert data[0] == data[1]


KILL = """
import os, signal, sys
from textlora import config as configs
from textlora.callbacks import Meter
from textlora.train import train
steps = 0
def die(self, *args, **kwargs):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), int(sys.argv[3]))
original = Meter.on_step_end
Meter.on_step_end = lambda self, *a, **k: (original(self, *a, **k), die(self))[0]
import tomllib
config = configs.from_dict(tomllib.loads(open(sys.argv[4]).read()))
train(config, out=sys.argv[1], say=lambda line: None)
"""


def killed(config, out: Path, at_step: int, sig: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    toml = tmp_path / "config.toml"
    toml.write_text(configs.to_toml(config), encoding="utf-8")
    command = [sys.executable, "-c", KILL, str(out), str(at_step), str(sig), str(toml)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@needs_kill
@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_step", "changes"),
    [
        (9, {"lora_dropout": 0.2, "lora_dropout_end": 0.05, "lora_dropout_curve": "linear"}),  # inside an epoch
        (6, {"optim": "muon", "use_dora": True, "head": "low-rank"}),
        (6, {"optim": "loraplus", "use_rslora": True}),
        (6, {"optim": "adafactor"}),
        (6, {"optim": "sgd"}),
        (13, {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "lora_dropout": 0.1}),
    ],
)
def test_a_run_killed_once_and_resumed_ends_bit_identical(at_step, changes, tiny_config, tmp_path):
    config = tiny_config("bert", max_steps=16, eval_steps=4, **changes)
    whole = train(config, out=tmp_path / "whole", say=quiet)
    done = killed(config, tmp_path / "killed", at_step, signal.SIGKILL, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = train(config, out=tmp_path / "killed", resume=True, say=quiet)
    assert weights(whole.folder) == weights(resumed.folder)
    assert [r["step"] for r in whole.metrics()] == [r["step"] for r in resumed.metrics()]
    losses = [[r["loss"] for r in run.metrics()] for run in (whole, resumed)]
    assert losses[0] == losses[1]


@needs_kill
@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tiny_config, tmp_path):
    config = tiny_config("bert", max_steps=12, eval_steps=4, learning_rate=1e-4)
    whole = train(config, out=tmp_path / "whole", say=quiet)
    killed(config, tmp_path / "cut", 10, signal.SIGKILL, tmp_path)
    newest = tmp_path / "cut" / "checkpoints" / "checkpoint-8" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x00\x01")
    said: list[str] = []
    resumed = train(config, out=tmp_path / "cut", resume=True, say=said.append)
    assert "resuming at step 4" in said
    assert weights(whole.folder) == weights(resumed.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_step", "changes"),
    [
        (3, {"max_steps": 12, "eval_steps": 6}),
        (6, {"max_steps": 12, "eval_steps": 3}),  # when an evaluation is due
        (4, {"max_steps": 4, "loss": "contrastive"}),  # after the last step, before the head is solved for
    ],
)
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(at_step, changes, tiny_config, tmp_path):
    config = tiny_config("bert", **changes)
    whole = train(config, out=tmp_path / "whole", say=quiet)
    done = killed(config, tmp_path / "stopped", at_step, signal.SIGINT, tmp_path)
    assert f"KeyboardInterrupt: stopped at step {at_step}; go on with" in done.stderr
    assert (tmp_path / "stopped" / "checkpoints" / f"checkpoint-{at_step}" / "manifest.json").is_file()
    resumed = train(config, out=tmp_path / "stopped", resume=True, say=quiet)
    assert weights(whole.folder) == weights(resumed.folder)
    assert [r["step"] for r in whole.metrics()] == [r["step"] for r in resumed.metrics()]


@needs_kill
@pytest.mark.slow
def test_patience_goes_on_counting_after_a_resume_and_the_run_may_have_moved(tiny_config, tmp_path):
    config = tiny_config("bert", max_steps=30, eval_steps=2, early_stopping_patience=3, learning_rate=1e-9)
    whole = train(config, out=tmp_path / "whole", say=quiet)
    killed(config, tmp_path / "cut", 5, signal.SIGKILL, tmp_path)
    moved = (tmp_path / "cut").rename(tmp_path / "moved")
    resumed = train(config, out=moved, resume=True, say=quiet)
    assert [r["step"] for r in whole.metrics()] == [r["step"] for r in resumed.metrics()]
    assert weights(whole.folder) == weights(resumed.folder)


def test_a_finished_run_is_not_resumed(trained, tiny_config):
    with pytest.raises(UsageError, match="has finished"):
        train(tiny_config("bert"), out=trained("bert"), resume=True, say=quiet)


def test_a_run_is_not_resumed_on_other_data(trained, tiny_config, tmp_path):
    shutil.copytree(trained("bert"), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # a resume from here would begin again, at no line of metrics
    with pytest.raises(UsageError, match="the data isn't what"):
        train(tiny_config("bert", data=str(CORPUS / "test.csv")), out=tmp_path / "run", resume=True, say=quiet)
    assert Run(tmp_path / "run").metrics() == Run(trained("bert")).metrics()  # refused, and nothing lost


def test_a_run_is_not_resumed_with_other_settings(trained, tiny_config, tmp_path):
    shutil.copytree(trained("bert"), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(UsageError, match=r"learning_rate is 0\.5, where .* began with 0\.\d+"):
        train(tiny_config("bert", learning_rate=0.5), out=tmp_path / "run", resume=True, say=quiet)
    assert Run(tmp_path / "run").metrics() == Run(trained("bert")).metrics()


def test_over_budget_stops_before_anything_is_written(tiny_config, tmp_path):
    with pytest.raises(BudgetError, match="largest rank that fits"):
        train(tiny_config("bert", budget=2_000), out=tmp_path / "run", say=quiet)
    assert not (tmp_path / "run").exists()


def test_training_refuses_to_start_without_data(tiny_config, tmp_path):
    with pytest.raises(UsageError, match="no data"):
        train(replace(tiny_config("bert"), data=""), out=tmp_path / "run", say=quiet)


def test_a_save_that_loses_something_is_noticed(tiny_config, tmp_path, monkeypatch):
    save = adapter.save_weights

    def lossy(network, folder):
        with torch.no_grad():
            tensors = adapter.adapter_tensors(network)
            first = next(iter(tensors.values()))
            kept = first.clone()
            first.add_(1e-3)
            save(network, folder)
            first.copy_(kept)

    monkeypatch.setattr(adapter, "save_weights", lossy)
    with pytest.raises(GateError, match="other logits after loading"):
        train(tiny_config("bert", max_steps=2), out=tmp_path / "run", say=quiet)


# ---------------------------------------------------------------------------------------------------------- the loss


def test_the_step_loss_is_the_mean_for_full_batches_and_counts_every_text_alike():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    whole = step_loss(6)(SimpleNamespace(logits=logits), labels)
    assert whole.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-6)
    parts = [step_loss(6)(SimpleNamespace(logits=logits[s]), labels[s]) for s in (slice(0, 1), slice(1, 6))]
    assert sum(p.item() for p in parts) == pytest.approx(whole.item(), abs=1e-6)  # however the step is cut up


def test_smoothing_and_class_weights_are_torchs_own():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 3, 1, 2])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    w = torch.tensor([1.0, 2.0, 0.5, 4.0])
    loss = step_loss(5, 0.1, w)(SimpleNamespace(logits=logits), labels)
    assert loss.item() == pytest.approx((w[labels] * each).mean().item(), abs=1e-6)


def test_label_weights_have_mean_one_and_balanced_ones_equal_mass():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    balanced, root = (label_weights(labels, 3, kind).double().numpy() for kind in ("balanced", "sqrt"))
    for w in (balanced, root):
        assert w[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(labels) * balanced, 100 / 3, rtol=1e-6)
    np.testing.assert_allclose(root[1:] / root[:-1], np.sqrt(balanced[1:] / balanced[:-1]), rtol=1e-6)
    assert label_weights(labels, 3, "none") is None


# ------------------------------------------------------------------------------------------------ the plain Trainer


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine_with_restarts"])
def test_twenty_losses_equal_the_plain_trainers(schedule, tiny_config, tmp_path):
    config = tiny_config(
        "roberta",
        head="full",
        pooling="cls",
        target_modules=["query", "value"],
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=20,
        lr_scheduler_type=schedule,
        warmup_ratio=0.1,
        weight_decay=0.01,
    )
    assert_first_losses_equal_the_plain_trainers(config, tmp_path)


def test_the_dropout_schedule_is_seen_in_the_metrics(trained):
    run = Run(trained("bert", lora_dropout=0.15, lora_dropout_end=0.05, lora_dropout_curve="linear"))
    seen = [r["dropout"] for r in run.metrics() if r["split"] == "train"]
    np.testing.assert_allclose(seen, np.linspace(0.15, 0.05, 6), atol=1e-12)


def test_figures_of_validation_and_train_sample_carry_their_name(trained):
    records = Run(trained("bert")).metrics()
    splits = [r["split"] for r in records if "accuracy" in r]
    assert splits == ["validation", "train_sample"]
    assert {r["split"] for r in records if "learning_rate" in r} == {"train"}


def test_early_stopping_counts_evaluations(tiny_config, tmp_path):
    config = tiny_config("bert", max_steps=30, eval_steps=2, early_stopping_patience=2, learning_rate=1e-9)
    run = train(config, out=tmp_path / "run", say=quiet)
    evaluations = [r for r in run.metrics() if r["split"] == "validation"]
    assert len(evaluations) == 3  # the first sets the best, two more don't beat it


def test_the_best_weights_are_kept_not_the_last(tiny_config, tmp_path):
    config = tiny_config("bert", max_steps=24, eval_steps=4, learning_rate=0.05, warmup_ratio=0.0)
    run = train(config, out=tmp_path / "run", say=quiet)
    best = max(r["accuracy"] for r in run.metrics() if r["split"] == "validation")
    assert run.summary()["best_validation_accuracy"] == pytest.approx(best)
