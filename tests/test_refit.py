"""A second training on all rows: what is saved has seen them, what is judged hadn't."""

from __future__ import annotations

import csv
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
from conftest import corpus_rows

from textlora import adapter, bag, data, model, refit, runs
from textlora.blend import Shares
from textlora.callbacks import Meter
from textlora.errors import UsageError
from textlora.evaluate import evaluate
from textlora.prepare import prepare
from textlora.refit import Chosen
from textlora.runs import Run
from textlora.train import train

FACTORS = ("lora_A", "lora_B")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 rows to train on and 60 to choose by."""
    folder = tmp_path_factory.mktemp("rows")
    rows = corpus_rows("train")
    for name, part in (("train", rows[:200]), ("validation", rows[200:260])):
        _write(folder / f"{name}.csv", part)
    return folder


def _write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def quiet(_: str) -> None:
    pass


def test_it_trains_as_a_run_on_all_those_rows_would_and_is_judged_as_the_run_without_them(
    folder, tiny_config, tmp_path
):
    config = tiny_config("bert", data=str(folder), batch_tokens=1024, max_steps=30)
    said: list[str] = []
    once = train(config, out=tmp_path / "once", say=quiet)
    both = train(replace(config, refit=True), out=tmp_path / "both", say=said.append)
    assert "once more, on the validation rows too: 260 rows" in said

    rows = data.load(str(folder))
    whole = replace(rows, train=refit._joined(rows.train, rows.validation))
    other = train(replace(config, eval_steps=10**9), rows=whole, out=tmp_path / "whole", say=quiet)
    mine, without, expected = (adapter.read_weights(run.adapter) for run in (both, once, other))
    factors = [name for name in mine if any(part in name for part in FACTORS)]
    assert factors
    for name in factors:
        assert (mine[name] == expected[name]).all(), name
    assert any((mine[name] != without[name]).any() for name in factors)

    figures = [runs.read_json(run.evaluation / "report.json")["splits"]["validation"] for run in (both, once)]
    assert figures[0]["accuracy"] == figures[1]["accuracy"]
    assert figures[0]["loss"] == figures[1]["loss"]
    assert both.summary()["refit_seconds"] > 0
    assert once.summary()["refit_seconds"] == 0
    runs.verify(both.folder)

    warned = evaluate(both.folder, str(folder), "validation", base_weights=config.base_weights, tokenizer="")
    assert warned.warnings == ("the run was chosen on, and trained on, these rows",)
    assert "trained once more" in (both.adapter / "README.md").read_text(encoding="utf-8")
    assert "trained once more" not in (once.adapter / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted((both.folder / "refit").iterdir())] == ["metrics.jsonl"]


def test_what_validation_chose_is_put_into_the_second_one(folder, tiny_config, monkeypatch):
    prepared = prepare(tiny_config("bert", data=str(folder), bag_of_tokens=True, auto=[]), quiet)
    whole, done = refit.together(prepared), {}
    assert (whole.train.texts, len(whole.data.train), whole.validation) == (260, 260, prepared.validation)
    for name in ("set_bag", "shift_head", "scale_head"):
        monkeypatch.setattr(refit.model, name, lambda network, given, name=name: done.update({name: given}))
    Chosen(Shares(0.7, 0.5), np.arange(4.0)).put_into(whole.network, whole)
    rows = bag.features(whole.train.ids, whole.train.offsets, whole.network.config.vocab_size)
    assert done["set_bag"] == pytest.approx(0.5 * bag.fit_tokens(rows, whole.data.train.labels, 4))
    assert done["scale_head"] == 0.7
    assert done["shift_head"].tolist() == [0, 1, 2, 3]


def test_the_second_one_remembers_as_many_texts_of_all_rows(folder, tiny_config):
    prepared = prepare(tiny_config("bert", data=str(folder), memory=150, auto=[]), quiet)
    whole = refit.together(prepared)
    Chosen(Shares(memory=0.4, sharpness=30.0)).put_into(whole.network, whole)
    memory = model.memory_of(whole.network)
    assert (len(memory.codes), int(memory.counts.sum())) == (150, 150)
    assert memory.weights.tolist() == pytest.approx([30, 0.4])


def test_one_that_went_wrong_is_not_saved(folder, tiny_config, tmp_path, monkeypatch):
    config = tiny_config("bert", data=str(folder))
    once = train(config, out=tmp_path / "once", say=quiet)

    def spoilt(prepared):
        whole = together(prepared)
        return replace(whole, config=replace(whole.config, learning_rate=1e4))

    together = refit.together
    monkeypatch.setattr(refit, "together", spoilt)
    said: list[str] = []
    both = train(replace(config, refit=True), out=tmp_path / "both", say=said.append)
    assert any("the first adapter stays" in line for line in said)
    assert both.summary()["refit_seconds"] == 0
    assert (both.adapter / adapter.WEIGHTS).read_bytes() == (once.adapter / adapter.WEIGHTS).read_bytes()
    assert Run(both.folder).summary()["verdict"][0] == once.summary()["verdict"][0]


def test_one_that_was_interrupted_begins_again(folder, tiny_config, tmp_path, monkeypatch):
    config = replace(tiny_config("bert", data=str(folder)), refit=True)
    undisturbed = train(config, out=tmp_path / "undisturbed", say=quiet)
    step = Meter.on_step_end

    def interrupted(self, args, state, control, **rest):
        step(self, args, state, control, **rest)
        if "refit" in args.output_dir and state.global_step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "on_step_end", interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"--out {re.escape(str(tmp_path / 'stopped'))}$"):
            train(config, out=tmp_path / "stopped", say=quiet)
    assert not Run(tmp_path / "stopped").finished
    resumed = train(config, out=tmp_path / "stopped", resume=True, say=quiet)
    weights = [(run.adapter / adapter.WEIGHTS).read_bytes() for run in (undisturbed, resumed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("other", [{"time_limit": "60s"}, {"early_stopping_patience": 2}])
def test_what_ends_a_training_early_does_not_go_with_it(tiny_config, other):
    with pytest.raises(UsageError, match="refit"):
        tiny_config("bert", refit=True, **other)
