"""Checkpoints: what is written is read back to the bit, and only a complete, undamaged one is ever resumed from."""

from __future__ import annotations

import errno
import random
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from textlora import checkpoint, runs
from textlora.errors import DamagedError, ResourceError

PICKLED = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}

dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(lambda shape, dtype: (torch.rand(shape) * 100).to(dtype), shapes, dtypes)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
keys = st.integers() | st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["tensor", "dict", "list"])
values = st.recursive(
    plain | tensors, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def assert_same(one, other) -> None:
    """Equal in type, value and order, tensors to the bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def there_and_back(value, folder: Path):
    checkpoint.write_state(folder, "state", value)
    return checkpoint.read_state(folder, "state")


def make(checkpoints: Path, step: int) -> Path:
    """A complete checkpoint."""
    folder = checkpoints / f"{checkpoint.PREFIX}{step}"
    checkpoint.write_state(folder, "optimizer", {"step": step, "moment": torch.full((4,), float(step))})
    runs.write_json(folder / "trainer_state.json", {"global_step": step})
    checkpoint.seal(folder)
    return folder


# ----------------------------------------------------------------------------------------------------------------- laws


@given(values)
def test_a_state_is_read_as_it_was_written(tmp_path_factory, value):
    assert_same(there_and_back(value, tmp_path_factory.mktemp("state")), value)


def test_tuples_come_back_as_lists_and_special_floats_as_they_are(tmp_path):
    back = there_and_back({"t": (1, (2.5,)), "f": [inf, -inf, nan, 0.1 + 0.2]}, tmp_path)
    assert back["t"] == [1, [2.5]]
    assert back["f"][:2] == [inf, -inf]
    assert isnan(back["f"][2])
    assert back["f"][3] == 0.1 + 0.2


def test_tensors_that_share_memory_or_are_views_come_back_whole(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    back = there_and_back([whole, whole, whole.T, whole[1]], tmp_path)
    for one, other in zip(back, [whole, whole, whole.T, whole[1]], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.float32(1), [lambda: 0]])
def test_what_json_and_safetensors_cannot_hold_is_no_state(tmp_path, value):
    with pytest.raises(TypeError, match="a training state can't hold a"):
        checkpoint.write_state(tmp_path, "state", value)
    assert list(tmp_path.iterdir()) == []


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Dropout(0.3), torch.nn.Linear(7, 2))


def steps(model, optimizer, scheduler, count: int) -> torch.Tensor:
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(6, 5)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_goes_on_from_a_state_to_the_bit(tmp_path):
    """AdamW's moments, the scheduler and the generators of dropout and data, through the files and into fresh ones."""

    def parts():
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    model, optimizer, scheduler = parts()
    steps(model, optimizer, scheduler, 3)
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "rng": checkpoint.rng_state()}
    checkpoint.write_state(tmp_path, "state", state | {"model": dict(model.state_dict())})
    expected = steps(model, optimizer, scheduler, 4)

    torch.manual_seed(999)
    other, its_optimizer, its_scheduler = parts()
    back = checkpoint.read_state(tmp_path, "state")
    other.load_state_dict(back["model"])
    its_optimizer.load_state_dict(back["optimizer"])
    its_scheduler.load_state_dict(back["scheduler"])
    checkpoint.set_rng_state(back["rng"])
    assert torch.equal(steps(other, its_optimizer, its_scheduler, 4), expected)


def draws() -> list[float]:
    """From each generator; `gauss` and `standard_normal` keep a second number in hand, which is state too."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal(), torch.rand(1).item()]


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_the_generators_go_on_where_they_were(tmp_path_factory, seed, before):
    saved = checkpoint.rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(before):
        draws()
    folder = tmp_path_factory.mktemp("rng")
    checkpoint.write_state(folder, "rng-0", checkpoint.rng_state())
    expected = [draws() for _ in range(3)]
    checkpoint.set_rng_state(checkpoint.read_state(folder, "rng-0"))
    assert [draws() for _ in range(3)] == expected
    checkpoint.set_rng_state(saved)


# -------------------------------------------------------------------------------------------------- the newest good one


def flip(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped byte": flip,
    "a missing file": lambda folder: (folder / "optimizer.json").unlink(),
    "no manifest: never finished": lambda folder: (folder / runs.MANIFEST).unlink(),
    "an empty manifest": lambda folder: (folder / runs.MANIFEST).write_text(""),
    "a manifest of another kind": lambda folder: (folder / runs.MANIFEST).write_text("[]"),
    "a cut manifest": lambda folder: (folder / runs.MANIFEST).write_text((folder / runs.MANIFEST).read_text()[:40]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    for step in (5, 9, 10):
        make(tmp_path, step)
    damage(tmp_path / "checkpoint-10")
    assert checkpoint.newest_good(tmp_path) == tmp_path / "checkpoint-9"
    damage(tmp_path / "checkpoint-9")
    assert checkpoint.newest_good(tmp_path) == tmp_path / "checkpoint-5"
    damage(tmp_path / "checkpoint-5")
    assert checkpoint.newest_good(tmp_path) is None


def test_the_newest_is_the_one_of_most_steps_not_of_the_last_name(tmp_path):
    for step in (9, 100, 20):
        make(tmp_path, step)
    assert checkpoint.newest_good(tmp_path) == tmp_path / "checkpoint-100"


def test_other_folders_are_no_checkpoints(tmp_path):
    assert checkpoint.newest_good(tmp_path / "nowhere") is None
    for name in ("checkpoint-best", "checkpoint-", "notes"):
        (tmp_path / name).mkdir()
        checkpoint.seal(tmp_path / name)
    assert checkpoint.newest_good(tmp_path) is None


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_state_of_which_half_is_missing_is_damaged(tmp_path, ending):
    checkpoint.write_state(tmp_path, "state", {"a": torch.ones(2)})
    (tmp_path / f"state.{ending}").unlink()
    with pytest.raises(DamagedError):
        checkpoint.read_state(tmp_path, "state")


@given(st.data())
def test_a_cut_file_is_damaged_and_never_half_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    checkpoint.write_state(folder, "state", {"a": torch.ones(2), "b": [1, 2]})
    path = folder / f"state.{data.draw(st.sampled_from(['json', 'safetensors']))}"
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content.rstrip()) - 1))])
    with pytest.raises(DamagedError):
        checkpoint.read_state(folder, "state")


@pytest.mark.parametrize(
    "content", ['{"tensor": "7"}', '{"other": 1}', '{"dict": [[1, 2, 3]]}', '{"dict": 3}', '{"list": 3}']
)
def test_a_state_that_does_not_fit_its_tensors_is_damaged(tmp_path, content):
    checkpoint.write_state(tmp_path, "state", {"a": torch.ones(2)})
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(DamagedError):
        checkpoint.read_state(tmp_path, "state")


@pytest.mark.parametrize(
    ("number", "phrase"),
    [(errno.ENOSPC, "the disk is full"), (errno.EFBIG, "the disk is full"), (errno.EIO, "can't write")],
)
def test_a_full_disk_is_a_resource_error_though_safetensors_says_it_in_words(tmp_path, monkeypatch, number, phrase):
    def refuse(*_, **__):
        raise SafetensorError(f"Error while serializing: I/O error: ... (os error {number})")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(ResourceError, match=phrase):
        checkpoint.write_state(tmp_path, "state", {"a": torch.ones(2)})


# ----------------------------------------------------------------------------------------------------------- a real run


def test_a_run_holds_no_pickle(trained):
    run = trained()
    files = [path for path in run.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in PICKLED] == []
    assert [
        path for path in files if path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    ] == []


def test_the_checkpoint_of_a_run_is_good_and_holds_all_that_resuming_needs(trained):
    newest = checkpoint.newest_good(trained() / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-6"
    state = checkpoint.read_state(newest, "optimizer")
    assert state["optimizer"]["state"][0]["exp_avg"].dtype == torch.float32
    assert state["scheduler"]["last_epoch"] == 6
    assert set(checkpoint.read_state(newest, "rng-0")) >= {"python", "numpy", "torch"}
