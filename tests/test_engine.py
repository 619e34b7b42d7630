"""The engine's laws: whatever the model, the fast path gives the plain one's logits and gradients, and can be undone.

fp32 is compared closely, bf16 within its rounding: relative to plain bf16's own distance from fp32 where that matters.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from textlora import adapter, bases, budget, device, engine, predict
from textlora import model as models
from textlora.engine import kernels
from textlora.engine.attention import ByProducts, InTiles, Sizes, Where
from textlora.engine.buffers import HUGE, VIEWS, Buffers, zeros
from textlora.engine.reference import FINENESS, Norm, Reference, slope_type
from textlora.engine.short import Short, offered

COVERED = ("bert", "roberta", "distilbert", "electra", "mpnet")
NAMES = {
    "distilbert": ("q_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "mpnet": ("q", "v", "o", "dense"),
}
Tiny = Callable[..., Any]


def build(tiny_config: Tiny, family: str = "bert", dtype: torch.dtype = torch.float32, **changes: Any) -> PeftModel:
    """A tiny model whose adapters say something: B isn't zero."""
    config = tiny_config(family, **({"budget": 10**6, "lora_dropout": 0.0} | changes))
    base = bases.find(config.base)
    plan = budget.plan(config, bases.shapes(base, config.base_weights), 4, base.hub_id)
    network, _ = models.build(config, plan, tuple("abcd"), dtype)
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return network.train()


def batch(rng: np.random.Generator, lengths: list[int], pad: int) -> dict[str, torch.Tensor]:
    ids = torch.full((len(lengths), max(lengths)), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.from_numpy(rng.integers(5, 390, length))
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def step(network: PeftModel, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and every gradient of a loss on them."""
    network.zero_grad()
    with device.autocast(network):
        logits = network(**inputs).logits.float()
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return logits.detach(), found


def assert_same(plain: Any, fast: Any, tolerance: float) -> None:
    """Logits to `tolerance` of the largest, each gradient to that of its norm.

    A gradient far smaller than the others is a difference of larger numbers, whose rounding it carries: a floor.
    """
    (logits, gradients), (fast_logits, fast_gradients) = plain, fast
    floor = 0.05 * max(float(gradient.norm()) for gradient in gradients.values())
    assert (logits - fast_logits).abs().max() <= tolerance * logits.abs().max()
    assert gradients.keys() == fast_gradients.keys()
    for name, gradient in gradients.items():
        off = (gradient - fast_gradients[name]).norm() / gradient.norm().clamp(min=floor)
        assert off <= tolerance, f"{name}: {off:.2g}"


# ---------------------------------------------------------------------------------------------------- the one law


@pytest.mark.parametrize("family", COVERED)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_logits_and_every_gradient_are_the_plain_model_s(tiny_config: Tiny, family: str, pooling: str) -> None:
    network = build(tiny_config, family, pooling=pooling)
    inputs = batch(np.random.default_rng(0), [7, 13, 13, 1, 30], network.config.pad_token_id)
    plain = step(network, inputs)
    assert engine.swap_in(network) == ""
    fast = step(network, inputs)
    assert_same(plain, fast, 1e-5)
    again = step(network, inputs)
    assert torch.equal(fast[0], again[0])
    assert all(torch.equal(fast[1][name], again[1][name]) for name in fast[1])
    engine.restore(network)
    assert not engine.swapped_in(network)
    assert_same(plain, step(network, inputs), 1e-6)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    r=st.integers(1, 9),
    targets=st.sampled_from(
        [("all-linear",), ("query", "value"), ("key",), ("intermediate.dense",), ("attention.output.dense",)]
    ),
    layers=st.sampled_from([None, (1,), (0,)]),
    seed=st.integers(0, 10),
)
def test_whatever_is_adapted_and_however_ragged_the_batch(
    tiny_config: Tiny, lengths: list[int], r: int, targets: tuple[str, ...], layers: tuple[int, ...] | None, seed: int
) -> None:
    if layers and targets != ("all-linear",):
        targets = tuple(
            f"encoder.layer.{layer}.{targets[0] if '.' in targets[0] else 'attention.self.' + targets[0]}"
            for layer in layers
        )
    network = build(tiny_config, lora_r=r, lora_alpha=2 * r, target_modules=list(targets))
    inputs = batch(np.random.default_rng(seed), lengths, 0)
    plain = step(network, inputs)
    assert engine.swap_in(network) == ""
    assert_same(plain, step(network, inputs), 2e-5)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 128])
def test_a_single_text_of_any_length(tiny_config: Tiny, length: int) -> None:
    network = build(tiny_config)
    inputs = batch(np.random.default_rng(length), [length], 0)
    plain = step(network, inputs)
    engine.swap_in(network)
    assert_same(plain, step(network, inputs), 2e-5)


@pytest.mark.parametrize("family", COVERED)
def test_bf16_is_as_near_to_fp32_as_the_plain_model_is(tiny_config: Tiny, family: str) -> None:
    inputs = batch(np.random.default_rng(0), [7, 33, 33, 48], 0 if family in ("bert", "distilbert", "electra") else 1)
    exact = step(build(tiny_config, family), inputs)
    network = build(tiny_config, family, torch.bfloat16)
    plain = step(network, inputs)
    assert engine.swap_in(network) == ""
    fast = step(network, inputs)

    def off(found: Any) -> float:
        return max(float((found[1][n] - g).norm() / g.norm().clamp(min=1e-6)) for n, g in exact[1].items())

    assert off(fast) <= 1.5 * off(plain) + 0.01
    assert (fast[0] - exact[0]).abs().max() <= 1.5 * (plain[0] - exact[0]).abs().max() + 0.01


def test_padding_changes_nothing(tiny_config: Tiny) -> None:
    network = build(tiny_config).eval()
    engine.swap_in(network)
    one = batch(np.random.default_rng(0), [9], 0)
    padded = {key: torch.cat([value, torch.zeros(1, 12, dtype=torch.long)], 1) for key, value in one.items()}
    with torch.inference_mode():
        a, b = (network(**inputs).logits for inputs in (one, padded))
    assert (a - b).abs().max() < 1e-5


def test_hidden_states_of_every_block_are_the_plain_model_s(tiny_config: Tiny) -> None:
    """A block writes where the next one reads: what was handed out must stay whole until the way back."""
    network = build(tiny_config, pooling="mean")
    inputs = batch(np.random.default_rng(0), [9, 4, 17], 0)
    encoder = network.get_base_model()
    caught: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda m, i, out: caught.append(out)) for block in encoder.encoder.layer]
    network(**inputs)
    plain, caught[:] = [out.detach().clone() for out in caught], []
    assert engine.swap_in(network) == ""
    network(**inputs)
    for hook in hooks:
        hook.remove()
    assert len(caught) == len(plain) == 2
    for one, other in zip(plain, caught, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("head", "pooling"), [("linear", "cls"), ("full", "cls"), ("linear", "mean")])
@pytest.mark.parametrize("family", COVERED)
def test_where_the_first_token_is_read_the_last_block_makes_no_more(
    tiny_config: Tiny, family: str, head: str, pooling: str
) -> None:
    """Exactly: the same logits and gradients, trained or not; all rows when hidden states are asked for."""
    network = build(tiny_config, family, head=head, pooling=pooling)
    inputs = batch(np.random.default_rng(0), [9, 4, 17], network.config.pad_token_id)
    plain = step(network, inputs)
    assert engine.swap_in(network) == ""
    rows: list[int] = []
    last = engine._blocks(network)[1][-1]
    last.register_forward_hook(lambda m, i, out: rows.append((out[0] if isinstance(out, tuple) else out).shape[1]))
    assert_same(plain, step(network, inputs), 1e-5)
    with torch.no_grad():
        assert (network(**inputs).logits - plain[0]).abs().max() <= 1e-5 * plain[0].abs().max()
    assert rows == ([1, 1] if pooling == "cls" else [17, 17])


def test_buffers_are_zeros_where_large_pages_begin() -> None:
    for size, dtype in (
        (10, torch.float32),
        (3 << 20, torch.uint8),
        (HUGE // 4, torch.bfloat16),
        (HUGE, torch.float32),
    ):
        found = zeros(size, dtype)
        assert (found.shape, found.dtype) == ((size,), dtype)
        assert not found.any()
        assert size * dtype.itemsize < HUGE // 2 or not hasattr(mmap, "MADV_HUGEPAGE") or found.data_ptr() % HUGE == 0
        found += 1  # every page can be written to
        assert found.float().mean() == 1


def test_buffers_hold_few_views_and_each_is_of_what_is_held() -> None:
    buffers = Buffers()
    for rows in range(1, 2 * VIEWS):
        view = buffers.take("x", (rows, 3), torch.float32, columns=2)
        assert view.shape == (rows, 2)
    assert len(buffers._views) <= VIEWS
    buffers.take("x", (5, 3), torch.float32).fill_(7)
    assert (buffers.take("x", (4, 3), torch.float32, columns=1) == 7).all()


@pytest.mark.slow
def test_two_thousand_steps_take_no_more_memory_than_a_hundred(tiny_config: Tiny) -> None:
    network = build(tiny_config, max_length=128)
    assert engine.swap_in(network) == ""
    rng, used = np.random.default_rng(0), []
    for i in range(2000):
        lengths = [60] * 6 if i < 3 else rng.integers(1, 60, rng.integers(1, 6)).tolist()  # the largest first
        step(network, batch(rng, lengths, 0))
        if i in (100, 1999):
            used.append(psutil.Process().memory_info().rss)
    assert used[1] - used[0] < 20 << 20, used


def test_two_forwards_before_one_backward(tiny_config: Tiny) -> None:
    """Buffers of the first aren't written over by the second: R-Drop and the like work."""
    network = build(tiny_config)
    rng = np.random.default_rng(0)
    one, other = batch(rng, [9, 9], 0), batch(rng, [30], 0)

    def both() -> dict[str, torch.Tensor]:
        network.zero_grad()
        (network(**one).logits.square().sum() + network(**other).logits.square().sum()).backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    plain = both()
    engine.swap_in(network)
    fast = both()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, fast[name], rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


@pytest.mark.parametrize("family", COVERED)
def test_what_peft_changes_is_followed(tiny_config: Tiny, family: str) -> None:
    """A context without adapters, another scaling, a merge: PEFT's way to say what a forward is."""
    network = build(tiny_config, family).eval()
    inputs = batch(np.random.default_rng(0), [9, 4], network.config.pad_token_id)

    def all_of() -> list[torch.Tensor]:
        with torch.no_grad():
            found = [network(**inputs).logits]
            with network.disable_adapter():
                found.append(network(**inputs).logits)
            layers = [m for m in network.modules() if hasattr(m, "lora_A")]
            for layer in layers:
                layer.scaling["default"] *= 0.5
            found.append(network(**inputs).logits)
            network.merge_adapter()
            found.append(network(**inputs).logits)
            network.unmerge_adapter()
            for layer in layers:
                layer.scaling["default"] *= 2
        return found

    plain = all_of()
    engine.swap_in(network)
    assert max(float((a - plain[0]).abs().max()) for a in plain[1:3]) > 1e-3
    for one, other in zip(plain, all_of(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


# --------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("targets", [["query", "value"], ["all-linear"]])
def test_adapter_dropout_drops_what_its_seed_says(
    tiny_config: Tiny, monkeypatch: pytest.MonkeyPatch, targets: list[str]
) -> None:
    """With the engine's own masks in place of PEFT's, the plain model gives the same logits and gradients."""
    network = build(tiny_config, lora_dropout=0.3, target_modules=targets)
    inputs = batch(np.random.default_rng(0), [20, 20, 11], 0)
    engine.swap_in(network)
    seeds: list[int] = []
    drawn = torch.randint

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        found = drawn(*args, **kwargs)
        seeds.extend(found.tolist())
        return found

    monkeypatch.setattr(torch, "randint", recorded)
    fast = step(network, inputs)
    monkeypatch.undo()
    engine.restore(network)
    assert len(seeds) == sum("lora_A" in name for name, _ in network.named_parameters())
    queue = iter(seeds)

    class Dropped(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ones = torch.ones(x.shape[0] * x.shape[1], x.shape[2])
            mask = torch.empty_like(ones)
            Reference().dropout(mask, ones, next(queue), 0.3, False)
            return x * mask.view_as(x)

    for module in network.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = Dropped()
    assert_same(step(network, inputs), fast, 1e-5)


def test_dropout_follows_its_schedule_and_ends_with_training(tiny_config: Tiny) -> None:
    network = build(tiny_config, lora_dropout=0.5)
    inputs = batch(np.random.default_rng(0), [20, 11], 0)
    engine.swap_in(network)
    first, second = step(network, inputs)[0], step(network, inputs)[0]
    assert not torch.equal(first, second)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert torch.equal(step(network, inputs)[0], step(network, inputs)[0])
    quiet = step(network, inputs)[0]
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    network.eval()
    assert torch.equal(step(network, inputs)[0], quiet)


def test_dropped_share_and_mean_are_right() -> None:
    ones, out = torch.ones(400, 384), torch.empty(400, 384)
    kernels.load().dropout(out, ones, 12345, 0.1, False)
    assert float((out == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    other = torch.empty_like(out)
    kernels.load().dropout(other, ones, 12346, 0.1, False)
    together = float(((out == 0) & (other == 0)).float().mean())
    assert together == pytest.approx(0.01, abs=0.002)  # neighbouring seeds draw as if by themselves


# --------------------------------------------------------------------------------------------------- what isn't covered


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("deberta-v2", {}, "no blocks for deberta-v2"),
        ("modernbert", {}, "no blocks for modernbert"),
        ("bert", {"use_dora": True}, "DoRA"),
        ("bert", {"bias": "all"}, "biases or norms are trained"),
        ("bert", {"base_dropout": 0.1}, "dropout in the frozen base"),
    ],
)
def test_what_is_not_covered_runs_plain_and_says_why(
    tiny_config: Tiny, family: str, changes: dict[str, Any], reason: str
) -> None:
    network = build(tiny_config, family, **changes)
    said: list[str] = []
    assert engine.use(network, "auto", said.append) == "plain"
    assert reason in said[0]
    assert not engine.swapped_in(network)
    with pytest.raises(engine.UsageError, match="--engine auto"):
        engine.use(network, "fast", said.append)
    assert engine.use(network, "plain", said.append) == "plain"
    assert len(said) == 1


def test_a_model_that_will_move_to_a_gpu_stays_plain(tiny_config: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks before the Trainer moves the model: its weights are still on the CPU."""
    network = build(tiny_config)
    monkeypatch.setattr(device, "pick_device", lambda: torch.device("cuda"))
    said: list[str] = []
    assert engine.use(network, "auto", said.append) == "plain"
    assert "on cuda" in said[0]
    assert not engine.swapped_in(network)


def test_several_threads_may_predict_with_one_model(tiny_config: Tiny) -> None:
    network = build(tiny_config).eval()
    engine.swap_in(network)
    rng = np.random.default_rng(0)
    batches = [batch(rng, [40 - i, 20 + i], 0) for i in range(8)]

    def logits(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return network(**inputs).logits.clone()

    alone = [logits(inputs) for inputs in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(logits, batches * 10))
    assert all(torch.equal(one, alone[i % 8]) for i, one in enumerate(together))


def test_names_and_parameters_stay_what_they_were(tiny_config: Tiny) -> None:
    network = build(tiny_config)
    before = {name: (id(p), p.detach().clone()) for name, p in network.named_parameters()}
    tensors = {name: t.clone() for name, t in adapter.adapter_tensors(network).items()}
    engine.swap_in(network)
    for name, parameter in network.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1]), name
    assert tensors.keys() == adapter.adapter_tensors(network).keys()


# ----------------------------------------------------------------------------------------- each kernel and its twin


def twins() -> list[tuple[str, Any]]:
    """The kernels for every kind of CPU up to this one's."""
    found = []
    for isa in kernels.ISA_FLAGS:
        try:
            found.append((isa, kernels.Native(kernels.compiled(isa))))
        except kernels.NotCompiled as error:
            print(f"not compiled for {isa}: {error}")
        if isa == device.cpu_isa():
            break
    return found


@pytest.fixture(scope="module")
def natives() -> list[tuple[str, Any]]:
    found = twins()
    if not found:
        pytest.skip("no kernel can be compiled here: their torch twins run")
    return found


def _numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul_(2).to(dtype)


@given(T=st.integers(1, 9), D=st.integers(1, 70), bf16=st.booleans(), seed=st.integers(0, 99))
def test_elementwise_kernels_are_their_twins(
    natives: list[tuple[str, Any]], T: int, D: int, bf16: bool, seed: int
) -> None:
    dtype = torch.bfloat16 if bf16 else torch.float32
    close = {"rtol": 1e-2, "atol": 1e-2} if bf16 else {"rtol": 2e-5, "atol": 2e-6}
    bias, norm = _numbers(seed, D), Norm(_numbers(seed + 1, D), _numbers(seed + 2, D), 1e-5)

    def all_of(k: Any) -> list[torch.Tensor]:
        z, out = _numbers(seed + 3, T, D, dtype=dtype), torch.empty(T, D, dtype=dtype)
        found, slope = torch.empty(T, D, dtype=slope_type(dtype)), _numbers(seed + 7, T, D)
        k.gelu_forward(out, found, z, bias)
        slope = slope.mul_(50).abs_().to(torch.uint8) if bf16 else slope
        product = _numbers(seed + 4, T, D, dtype=dtype)
        k.multiply(product, slope)
        h, y = _numbers(seed + 5, T, D, dtype=dtype), torch.empty(T, D, dtype=dtype)
        mean, rstd, dh = torch.empty(T), torch.empty(T), torch.empty(T, D, dtype=dtype)
        k.norm_forward(y, h, z, bias, norm, mean, rstd)
        k.norm_backward(dh, product, out, h, norm, mean, rstd)
        dropped = _numbers(seed + 6, T, D, dtype=dtype)  # below: a norm of 2 numbers is a sign
        k.dropout(dropped, h, seed * 7919, 0.25, True)
        return [out, found / FINENESS, product, h, y, mean, rstd, dropped] + ([dh] if D > 4 else [])

    expected = all_of(Reference())
    for isa, k in natives:
        for i, (a, b) in enumerate(zip(all_of(k), expected, strict=True)):
            assert torch.allclose(a.float(), b.float(), **close), (isa, i, (a.float() - b.float()).abs().max())


@given(S=st.integers(1, 40), H=st.integers(1, 3), K=st.sampled_from([4, 8, 19, 32]), bf16=st.booleans())
def test_softmax_and_heads_are_their_twins(natives: list[tuple[str, Any]], S: int, H: int, K: int, bf16: bool) -> None:
    dtype, B = (torch.bfloat16 if bf16 else torch.float32), 2
    mask = torch.zeros(B, S)
    mask[1, S // 2 + 1 :] = torch.finfo(torch.bfloat16).min

    def all_of(k: Any) -> list[torch.Tensor]:
        p, dp = (_numbers(i, B, H, S, S, dtype=dtype) for i in (1, 2))
        k.softmax_forward(p, mask, _numbers(3, H, S, S), 0.3)
        k.softmax_backward(dp, p, 0.3)
        heads, rows = torch.empty(3, B, H, S, K, dtype=dtype), torch.empty(B * S, 3 * H * K, dtype=dtype)
        k.split_heads(heads, _numbers(4, B * S, 3 * H * K, dtype=dtype), _numbers(5, 3 * H * K))
        k.join_heads(rows, heads)
        return [p, dp, heads, rows]

    expected = all_of(Reference())
    for isa, k in natives:
        for i, (a, b) in enumerate(zip(all_of(k), expected, strict=True)):
            assert torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-3 if bf16 else 1e-6), (isa, i)


def _attended(
    attention: Any, sizes: Sizes, dtype: torch.dtype, position: bool, seed: int, dead: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and gradient of an attention whose first text has masked keys; `dead`: which hold huge numbers."""
    B, H, S, K, Q = sizes
    T, D = B * S, H * K
    mask = torch.zeros(B, S)
    mask[0, S // 2 + 1 :] = torch.finfo(torch.bfloat16).min
    where = Where(mask, _numbers(seed + 1, H, S, S) if position else None)
    qkv, bias = _numbers(seed, T, 3 * D).mul_(0.5), _numbers(seed + 2, 3 * D).mul_(0.1)
    if dead:
        qkv[S // 2 + 1 : S, D:] = 1e4
    dout = _numbers(seed + 3, B, S, D)[:, :Q].reshape(B * Q, D)
    out, dqkv = torch.full((B * Q, D), 9.0, dtype=dtype), torch.full((T, 3 * D), 9.0, dtype=dtype)
    keep, scratch = Buffers(), Buffers()
    kept = attention.forward(out, qkv.to(dtype), bias, where, sizes, keep, scratch)
    attention.backward(dqkv, dout.to(dtype), kept, sizes, scratch)
    return out.float(), dqkv.float()


def _in_tiles() -> InTiles:
    found = kernels.load()
    if not found.tiles:
        pytest.skip("this CPU has no AMX units")
    return InTiles(found)


@given(
    S=st.one_of(st.integers(1, 130), st.sampled_from([300, 511, 512])),
    B=st.integers(1, 3),
    H=st.integers(1, 3),
    K=st.sampled_from([32, 64, 96]),
    queries=st.sampled_from([None, 1, 16, 17, 40]),
    position=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_in_tiles_is_attention_by_products(
    S: int, B: int, H: int, K: int, queries: int | None, position: bool, seed: int
) -> None:
    sizes = Sizes(B, H, S, K, min(queries or S, S))
    exact = _attended(ByProducts(Reference()), sizes, torch.float32, position, seed)
    fast = _attended(_in_tiles(), sizes, torch.bfloat16, position, seed)
    again = _attended(_in_tiles(), sizes, torch.bfloat16, position, seed)
    for one, other, twice in zip(exact, fast, again, strict=True):
        assert (one - other).norm() <= 0.02 * one.norm() + 1e-3
        assert torch.equal(other, twice)


@given(S=st.integers(1, 100), queries=st.integers(1, 40), position=st.booleans(), tiles=st.booleans())
def test_attention_of_the_first_queries_is_the_first_of_all(S: int, queries: int, position: bool, tiles: bool) -> None:
    B, H, K, Q = 2, 2, 32, min(queries, S)
    attention = _in_tiles() if tiles else ByProducts(Reference())
    dtype = torch.bfloat16 if tiles else torch.float32
    out, dqkv = _attended(attention, Sizes(B, H, S, K, S), dtype, position, S)
    first, dfirst = _attended(attention, Sizes(B, H, S, K, Q), dtype, position, S)
    torch.testing.assert_close(out.view(B, S, -1)[:, :Q], first.view(B, Q, -1), rtol=1e-6, atol=1e-6)
    dq, dq_first = (d.view(B, S, 3, -1)[:, :, 0] for d in (dqkv, dfirst))
    torch.testing.assert_close(dq[:, :Q], dq_first[:, :Q], rtol=1e-6, atol=1e-6)
    assert not dq_first[:, Q:].any()


@pytest.mark.parametrize("S", [5, 32, 33, 70])
def test_masked_keys_have_exactly_no_share(S: int) -> None:
    """Whatever they hold: outputs and the other keys' gradients are the same to the last bit, and theirs are zeros."""
    sizes = Sizes(2, 2, S, 32, S)
    (out, dqkv), (dead, ddead) = (
        _attended(_in_tiles(), sizes, torch.bfloat16, False, 0, dead=dead) for dead in (False, True)
    )
    assert torch.equal(out, dead)
    assert torch.equal(dqkv, ddead)
    assert not dqkv[S // 2 + 1 : S, 2 * 32 :].any()
    assert dqkv[: S // 2 + 1].any(1).all()


def test_attention_keeps_nans_in_their_text_and_the_way_the_threads_count() -> None:
    """Kernels take denormals for zeros, but only while they run."""
    attention, sizes = _in_tiles(), Sizes(2, 1, 20, 32, 20)
    qkv, mask = _numbers(0, 40, 96, dtype=torch.bfloat16), torch.zeros(2, 20)
    qkv[3, 5] = float("nan")  # of a query
    qkv[20:] *= 60  # scores so far apart that shares would be denormals
    out, dqkv = torch.zeros(40, 32, dtype=torch.bfloat16), torch.zeros(40, 96, dtype=torch.bfloat16)
    keep = Buffers()
    kept = attention.forward(out, qkv, torch.zeros(96), Where(mask, None), sizes, keep, keep)
    attention.backward(dqkv, _numbers(1, 40, 32, dtype=torch.bfloat16), kept, sizes, keep)
    assert out[3].isnan().all()
    assert out[[*range(3), *range(4, 40)]].isfinite().all()
    assert dqkv[:20, 32:].isnan().all()  # keys and values: that query's gradient is in all of them
    assert dqkv[20:].isfinite().all()
    for found in (out[20:], dqkv[20:]):
        assert (found[found != 0].abs() >= torch.finfo(torch.bfloat16).tiny).all()
    tiny = torch.full((100_000,), 1e-40)
    assert (tiny * 0.5 != 0).all()


def test_a_nan_stays_one(natives: list[tuple[str, Any]]) -> None:
    """A loss that isn't a number must be seen, not rounded or compared away."""
    for _, k in [*natives, ("torch", Reference())]:
        for dtype in (torch.float32, torch.bfloat16):
            z = torch.full((1, 20), float("nan"), dtype=dtype)
            out = torch.zeros(1, 20, dtype=dtype)
            k.gelu_forward(out, torch.empty(1, 20, dtype=slope_type(dtype)), z, torch.zeros(20))
            assert out.isnan().all()
            p = torch.zeros(1, 1, 3, 3, dtype=dtype)
            p[0, 0, 1, 1] = float("nan")
            k.softmax_forward(p, torch.zeros(1, 3), None, 1.0)
            assert p[0, 0, 1].isnan().all()
            assert not p[0, 0, 0].isnan().any()


# ------------------------------------------------------------------------------------ with and without a compiler


def test_without_a_compiler_auto_is_plain_and_says_why_and_fast_runs_the_twins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, tiny_config: Tiny
) -> None:
    monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    kernels.load.cache_clear()
    try:
        network = build(tiny_config)
        inputs = batch(np.random.default_rng(0), [7, 13], 0)
        plain = step(network, inputs)
        said: list[str] = []
        assert engine.use(network, "auto", said.append) == "plain"
        assert "no C++ compiler; install g++" in said[0]
        assert not engine.swapped_in(network)
        assert engine.use(network, "fast", said.append) == "fast"
        assert_same(plain, step(network, inputs), 1e-5)
    finally:
        kernels.load.cache_clear()


def test_a_compiler_that_fails_is_said_not_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'unknown flag -mamx' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("TEXTLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(broken))
    kernels.load.cache_clear()
    try:
        assert "unknown flag -mamx" in kernels.load().why
        assert not list((tmp_path / "cache").glob("*.so"))
    finally:
        kernels.load.cache_clear()


# -------------------------------------------------------------------------------------------------------- a whole run


def test_a_run_says_which_engine_trained_it_and_both_learn_alike(trained: Callable[..., Any]) -> None:
    import json

    runs = {name: trained("bert", engine=name, max_steps=12) for name in ("fast", "plain")}
    summaries = {name: json.loads((run / "summary.json").read_text()) for name, run in runs.items()}
    assert {name: summary["engine"] for name, summary in summaries.items()} == {"fast": "fast", "plain": "plain"}
    losses = {
        name: [
            row["loss"]
            for line in (run / "metrics.jsonl").read_text().splitlines()
            if "grad_norm" in (row := json.loads(line))
        ]
        for name, run in runs.items()
    }
    assert len(losses["fast"]) == 12
    np.testing.assert_allclose(losses["fast"], losses["plain"], rtol=2e-4)


def test_predictions_are_the_plain_model_s(trained: Callable[..., Any], tiny_base: Callable[..., Any]) -> None:
    texts = ["A short one.", "Shares of the airline fell sharply after the strike was announced on Monday."] * 5
    if isinstance(kernels.load(), Reference):
        pytest.skip(f"predictions run plain here: {kernels.load().why}")
    predictor = predict.load(trained("bert"), base_weights=str(tiny_base("bert")))
    assert engine.swapped_in(predictor.model)
    fast = predictor.predict_logits(texts)
    engine.restore(predictor.model)
    np.testing.assert_allclose(fast, predictor.predict_logits(texts), atol=2e-2)


# --------------------------------------------------------------------------------------------------- few tokens


def frozen(tiny_config: Tiny, family: str, dtype: torch.dtype) -> torch.nn.Module:
    network = models.merged(build(tiny_config, family, target_modules=["all-linear"]), dtype)
    engine.swap_in(network)
    return network


def shorts(network: torch.nn.Module) -> list[Short]:
    cells = [cell for m in network.modules() for cell in getattr(m.forward, "__closure__", None) or ()]
    return [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, Short)]


@pytest.mark.skipif(not offered(), reason="oneDNN has no bf16 here")
@pytest.mark.parametrize("family", COVERED)
@pytest.mark.parametrize("lengths", [[1], [13], [7, 33, 5]])
def test_few_tokens_take_a_shorter_way_to_the_same_logits(
    tiny_config: Tiny, monkeypatch: pytest.MonkeyPatch, family: str, lengths: list[int]
) -> None:
    inputs = batch(np.random.default_rng(0), lengths, 1 if family in ("roberta", "mpnet") else 0)
    network = frozen(tiny_config, family, torch.bfloat16)
    with torch.inference_mode(), device.autocast(network):
        exact = frozen(tiny_config, family, torch.float32)(**inputs).logits
        few = network(**inputs).logits
        assert all(short.packed for short in shorts(network))
        assert len(shorts(network)) == 2
        monkeypatch.setattr(engine, "FEW", 0)
        many = network(**inputs).logits
    assert not torch.equal(few, many)
    assert (few - exact).abs().max() <= 2 * (many - exact).abs().max() + 0.01 * exact.abs().max()


def test_only_what_is_frozen_and_bf16_takes_it(tiny_config: Tiny) -> None:
    assert not shorts(frozen(tiny_config, "bert", torch.float32))
    adapted = build(tiny_config, dtype=torch.bfloat16)
    engine.swap_in(adapted)
    assert not shorts(adapted)


@pytest.mark.skipif(not offered(), reason="oneDNN has no bf16 here")
def test_several_threads_may_ask_first_at_once(tiny_config: Tiny) -> None:
    network = frozen(tiny_config, "bert", torch.bfloat16)
    one = batch(np.random.default_rng(0), [9], 0)

    def ask(_: int) -> torch.Tensor:
        with torch.inference_mode(), device.autocast(network):
            return network(**one).logits

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(8)))
    assert all(torch.equal(found[0], each) for each in found)
