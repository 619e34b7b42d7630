"""Frozen blocks below the lowest adapter: no way back there, and what they make of a text is computed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import corpus_rows
from tests.test_engine import COVERED, assert_same, batch, build, step
from textlora import data, engine, predict, prefix
from textlora.config import Config
from textlora.engine import block
from textlora.longtext import Cut
from textlora.tokens import Tokens
from textlora.train import train
from textlora.trial import FINISHED, Shared, run_trial

Tiny = Callable[..., Config]
UPPER = {"layers_to_transform": [1], "target_modules": ["all-linear"]}


def quiet(_: str) -> None: ...


@pytest.mark.parametrize("family", COVERED)
def test_below_the_lowest_adapter_nothing_is_kept_and_no_way_back_is_made(
    tiny_config: Tiny, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(tiny_config, family, **UPPER)
    assert engine.swap_in(network) == ""
    kept: list[bool] = []
    wanted: list[bool] = []
    run, run_back = block.run, block.run_back

    def forward(parts: Any, x: Any, where: Any, sizes: Any, keep: Any) -> Any:
        kept.append(keep is not parts.scratch)
        return run(parts, x, where, sizes, keep)

    def back(*given: Any) -> Any:
        wanted.append(given[-1])
        return run_back(*given)

    monkeypatch.setattr(block, "run", forward)
    monkeypatch.setattr(block, "run_back", back)
    step(network, batch(np.random.default_rng(0), [7, 30, 1], network.config.pad_token_id))
    assert kept == [False, True]
    assert wanted == [False]  # one block's, and none of it for what came into that block


def tokens_of(inputs: dict[str, torch.Tensor]) -> Tokens:
    rows = [ids[mask > 0].numpy().astype(np.int32) for ids, mask in zip(*inputs.values(), strict=True)]
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Tokens(np.concatenate(rows), ends, np.arange(len(rows)), Cut("truncate", 48))


def prepared_of(network: Any, inputs: dict[str, torch.Tensor], **config: Any) -> Any:
    """The part of a `Prepared` that is read here; validation is the first row once more."""
    tokens = tokens_of(inputs)
    given = {"max_steps": -1, "num_train_epochs": 3.0, "time_limit": "", "batch_tokens": 512, "seed": 0}
    given |= {"gradient_accumulation_steps": 1, "loss": "cross-entropy"}
    return SimpleNamespace(
        network=network,
        learned=SimpleNamespace(tokens=tokens),
        validation=tokens.take([0]),
        config=SimpleNamespace(**(given | config)),
        base_sha256="abc",
        dtype=next(p for p in network.parameters() if not p.requires_grad).dtype,
        pad_id=network.config.pad_token_id,
    )


@pytest.fixture
def lower(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which block ran, 0 the frozen one, by the order in which a forward calls them."""
    ran: list[int] = []
    run = block.run

    def counted(parts: Any, *given: Any) -> Any:
        ran.append(1 if parts.trained else 0)
        return run(parts, *given)

    monkeypatch.setattr(block, "run", counted)
    return ran


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", COVERED)
def test_logits_and_every_gradient_are_the_same(
    tiny_config: Tiny, tmp_path: Path, lower: list[int], family: str, pooling: str, dtype: torch.dtype
) -> None:
    network = build(tiny_config, family, dtype, pooling=pooling, **UPPER)
    assert engine.swap_in(network) == ""
    inputs = batch(np.random.default_rng(0), [7, 30, 1, 13, 13], network.config.pad_token_id)
    whole = step(network, inputs)
    with prefix.left_out(prepared_of(network, inputs), tmp_path / "kept", quiet):
        lower.clear()
        assert_same(whole, step(network, inputs), 1e-5 if dtype == torch.float32 else 2e-2)
        assert lower == [1]
        step(network, batch(np.random.default_rng(1), [7, 30], network.config.pad_token_id))
        assert lower == [1, 0, 1]  # rows that aren't known run whole
        network.get_base_model()(**inputs, output_hidden_states=True)
        assert lower == [1, 0, 1, 0, 1]  # so does a forward that shows its blocks
    assert not (tmp_path / "kept").exists()
    lower.clear()
    assert torch.equal(step(network, inputs)[0], whole[0])
    assert lower == [0, 1]


def test_what_is_read_is_the_row_s_own(tiny_config: Tiny, tmp_path: Path) -> None:
    """Swapped rows must show: this law could fail."""
    network = build(tiny_config, **UPPER)
    engine.swap_in(network)
    inputs = batch(np.random.default_rng(0), [9, 9], network.config.pad_token_id)
    prepared = prepared_of(network, inputs)
    found = engine.frozen_prefix(network)
    assert found is not None
    kept = prefix._kept(found, prepared, tmp_path, quiet, lambda: 9.0)
    assert kept is not None
    (one, start), (other, start_2) = kept.starts.items()
    whole = predict.logits(network, prepared.learned.tokens, 0)
    with found.left_out(prefix.Kept(kept.hidden_TD, {one: start_2, other: start})):
        swapped = predict.logits(network, prepared.learned.tokens, 0)
    np.testing.assert_allclose(swapped, whole[::-1], rtol=1e-5, atol=1e-6)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


@pytest.mark.parametrize("damage", ["cut", "a bit", "foreign"])
def test_a_file_is_used_again_and_one_that_isn_t_ours_is_made_anew(
    tiny_config: Tiny, tmp_path: Path, lower: list[int], damage: str
) -> None:
    network = build(tiny_config, **UPPER)
    engine.swap_in(network)
    inputs = batch(np.random.default_rng(0), [9, 30], network.config.pad_token_id)
    prepared = prepared_of(network, inputs)

    def begun() -> tuple[Path, bytes]:
        lower.clear()
        with prefix.left_out(prepared, tmp_path, quiet, shared=True):
            (path,) = tmp_path.iterdir()
            return path, path.read_bytes()

    path, good = begun()
    assert lower
    assert begun() == (path, good)
    assert not lower  # read, not computed
    bad = {"cut": good[:-8], "a bit": good[:-1] + bytes([good[-1] ^ 1]), "foreign": good.replace(b"abc", b"abd")}
    path.unlink()  # not over what is mapped
    path.write_bytes(bad[damage])
    assert begun() == (path, good)
    assert lower


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({}, {}),  # every block is adapted
        (UPPER, {"num_train_epochs": 1.0}),
        (UPPER, {"max_steps": 1}),
        (UPPER, {"time_limit": "9s"}),
        (UPPER | {"base_dropout": 0.1}, {}),
    ],
)
def test_where_it_is_no_gain_or_not_the_same_nothing_is_kept(
    tiny_config: Tiny, tmp_path: Path, settings: dict[str, Any], config: dict[str, Any]
) -> None:
    network = build(tiny_config, **settings)
    engine.swap_in(network)
    prepared = prepared_of(network, batch(np.random.default_rng(0), [9], 0), **config)
    said: list[str] = []
    with prefix.left_out(prepared, tmp_path / "kept", said.append):
        assert not (tmp_path / "kept").exists()
    assert not said


def test_dropped_embeddings_are_never_kept(tiny_config: Tiny) -> None:
    network = build(tiny_config, **UPPER)
    engine.swap_in(network)
    assert engine.frozen_prefix(network) is not None
    network.get_submodule("base_model.model.embeddings.dropout").p = 0.1  # type: ignore[assignment]
    assert engine.frozen_prefix(network) is None
    engine.restore(network)
    assert engine.frozen_prefix(network) is None


def test_a_full_disk_and_a_deadline_leave_nothing_behind(
    tiny_config: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(tiny_config, **UPPER)
    engine.swap_in(network)
    prepared = prepared_of(network, batch(np.random.default_rng(0), [9], 0))
    said: list[str] = []
    with prefix.left_out(prepared, tmp_path / "kept", said.append, left=lambda: 0.0, shared=True):
        assert not list((tmp_path / "kept").iterdir())
    assert len(said) == 1

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prefix, "_run", lambda *_: (full() for _ in range(1)))
        with prefix.left_out(prepared, tmp_path / "kept", said.append, shared=True):
            assert not list((tmp_path / "kept").iterdir())
    assert "No space left" in said[-1]
    monkeypatch.setattr(prefix.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with prefix.left_out(prepared, tmp_path / "none", said.append):
        assert not (tmp_path / "none").exists()
    assert "in every pass, since to keep it takes" in said[-1]


def some_rows() -> data.Data:
    rows = corpus_rows("train")[:160]
    names = sorted({row["label"] for row in rows})
    labels = np.array([names.index(row["label"]) for row in rows])
    return data.from_texts([row["text"] for row in rows], labels, names)


TWO_PASSES = UPPER | {"max_steps": -1, "num_train_epochs": 2.0, "batch_tokens": 2048}


def test_a_run_learns_the_same(tiny_config: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    once = train(tiny_config(**TWO_PASSES), rows=some_rows(), out=tmp_path / "once", say=said.append)
    assert sum("the lowest 1 of 2 blocks are frozen" in line for line in said) == 1
    monkeypatch.setattr(prefix, "PASSES", 99)
    always = train(tiny_config(**TWO_PASSES), rows=some_rows(), out=tmp_path / "always", say=quiet)

    def losses(folder: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]

    np.testing.assert_allclose(losses(once.folder), losses(always.folder), rtol=1e-4)
    names = [sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*")) for run in (once, always)]
    assert names[0] == names[1]


def test_trials_share_what_the_first_computed(
    tiny_config: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Shared(some_rows(), "accuracy", (), folder=tmp_path)
    made: list[int] = []
    run = prefix._run
    monkeypatch.setattr(prefix, "_run", lambda *given: made.append(1) or run(*given))
    for number, rate in enumerate((5e-3, 1e-3)):
        config = tiny_config(**TWO_PASSES, learning_rate=rate)
        outcome = run_trial(lambda own=config: own, shared, tmp_path / str(number), lambda *_: False, lambda: 1e3)
        assert outcome.ended == FINISHED
    assert len(made) == 1
    assert len(list((tmp_path / prefix.FOLDER).iterdir())) == 1
