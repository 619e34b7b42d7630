"""The fast path: an encoder's blocks with forward and way back written out, in place of Hugging Face's.

`swap_in(model)` gives each block of a model another `forward`; modules, Parameters and their names stay what they
were, so checkpoints, callbacks and saving don't notice, and `restore(model)` takes it back. It is an optimisation and
never a semantics: what it doesn't cover stays plain, for a stated reason.

    families.py   where a family keeps a block's parts      block.py       a block's forward and way back
    product.py    a frozen matrix with its adapters         attention.py   softmax(q k^T) v, two ways
    short.py      a block on a few tokens                   prefix.py      the frozen blocks below all adapters
    kernels.py    the C++ kernels of csrc/                  reference.py   the same in torch
"""

from __future__ import annotations

import types
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from textlora import device
from textlora.engine import kernels
from textlora.engine.attention import Where, pick
from textlora.engine.block import Parts, apply
from textlora.engine.buffers import Buffers
from textlora.engine.families import BERT, FAMILIES, Family
from textlora.engine.prefix import Prefix, is_fixed
from textlora.engine.product import Adapter, Kernels, Product
from textlora.engine.reference import Norm, Reference
from textlora.engine.short import FEW, Short, offered
from textlora.errors import UsageError

ADAPTER = "default"  # PEFT's name of the one adapter that textlora's models have


class NotCovered(Exception):
    """Why a model runs plain."""


def use(model: nn.Module, wanted: str, say: Callable[[str], None]) -> str:
    """Run `model` as the setting `engine` wants it: auto, fast or plain. Returns which of the last two it is.

    Raises UsageError if `fast` is wanted and the model isn't covered.
    """
    if wanted == "plain":
        return "plain"
    compiled = kernels.load()
    if isinstance(compiled, Reference) and wanted == "auto":
        reason = f"its C++ kernels can't be used: {compiled.why}"  # their twins are slower than Hugging Face's modules
    else:
        reason = swap_in(model)
    if reason and wanted == "fast":
        raise UsageError(f"the fast engine can't run this model: {reason}", "use --engine auto")
    if reason:
        say(f"engine: plain, {reason}")
    return "plain" if reason else "fast"


def swap_in(model: nn.Module) -> str:
    """Give `model` the fast path. Returns "" if it has it now, else the reason why it runs plain."""
    scratch, compiled = Buffers(), kernels.load()
    try:
        family, blocks = _blocks(model)
        parts = [_parts(block, family, model, compiled, scratch) for block in blocks]
    except NotCovered as reason:
        return str(reason)
    for one, following in pairwise(parts):
        one.following = following.qkv
    for block, of_block in zip(blocks, parts, strict=True):
        block.forward = types.MethodType(
            _forward(of_block, _adapted(block), family, _short(block, of_block, family)), block
        )
    network = _base(model)
    if family is BERT and hasattr(network, "encode") and not hasattr(network, "embeddings_project"):
        network.encode = types.MethodType(_encode(blocks), network)
    if _reads_first(network):
        network.forward = types.MethodType(_first_only(scratch), network)
    return ""


def restore(model: nn.Module) -> None:
    """Take the fast path back out."""
    for module in model.modules():
        for name in ("forward", "encode"):
            if hasattr(module.__dict__.get(name), "textlora_engine"):
                delattr(module, name)


def swapped_in(model: nn.Module) -> bool:
    """Whether `model` runs on the fast path."""
    return any(hasattr(module.__dict__.get("forward"), "textlora_engine") for module in model.modules())


def frozen_prefix(model: nn.Module) -> Prefix | None:
    """The embeddings and blocks of `model` that no adapter touches and that make the same of a text in every pass.

    None if it doesn't run on the fast path, has adapters in its lowest block, or drops or trains anything below.
    """
    if not swapped_in(model):
        return None
    (family, blocks), network = _blocks(model), _base(model)
    depth = next((i for i, block in enumerate(blocks[:-1]) if _adapted(block)), len(blocks) - 1)
    encoder = getattr(network, network.base_model_prefix, network)
    embeddings = [m for name in ("embeddings", "embeddings_project") if (m := getattr(encoder, name, None)) is not None]
    if not depth or not is_fixed([*embeddings, *blocks[:depth]]):
        return None
    return Prefix(network, embeddings, blocks, depth, family.returns_tuple)


# ---------------------------------------------------------------------------------------------------- what is covered


def _base(model: nn.Module) -> Any:
    """The transformers model: PEFT's inner one, or `model` itself, without adapters or with merged ones."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _blocks(model: nn.Module) -> tuple[Family, list[nn.Module]]:
    """The encoder's family and blocks. Raises NotCovered."""
    network = _base(model)
    config = network.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise NotCovered(f"it has no blocks for {config.model_type}")
    dtype = next(p for p in model.parameters() if not p.requires_grad).dtype
    place = device.pick_device().type  # not the weights': the Trainer moves them there later
    if place != "cpu" or dtype not in (torch.bfloat16, torch.float32):
        raise NotCovered(f"it is for bf16 and fp32 on CPUs, this is {dtype} on {place}")
    if getattr(config, family.activation) != "gelu":
        raise NotCovered(f"its activation is gelu, this base has {getattr(config, family.activation)}")
    if getattr(config, "is_decoder", False) or getattr(config, "chunk_size_feed_forward", 0):
        raise NotCovered("decoders and chunked feed-forward layers aren't covered")
    encoder = getattr(network, network.base_model_prefix, network)
    blocks = list(encoder.get_submodule(family.blocks))
    for block in blocks:
        _check(block)
    return family, blocks


def _adapted(block: nn.Module) -> list[LoraLinear]:
    return [module for module in block.modules() if isinstance(module, LoraLinear)]


def _in_use(layers: list[LoraLinear]) -> bool:
    """Whether PEFT would add the one adapter to each: not if merged, switched off, or beside another."""
    return not any(x.merged or x.disable_adapters or x.active_adapters != [ADAPTER] for x in layers)


def _check(block: nn.Module) -> None:
    """Raises NotCovered for anything trained but plain LoRA on linears, and for dropout that isn't an adapter's."""
    if not _in_use(_adapted(block)):
        raise NotCovered("adapters are merged, switched off or more than one")
    adapters: set[int] = set()
    for name, module in block.named_modules():
        if isinstance(module, LoraLinear):
            _check_adapter(name, module)
            adapters |= {id(p) for layers in (module.lora_A, module.lora_B) for p in layers.parameters()}
            adapters |= {id(m) for m in module.lora_dropout.modules()}
        elif isinstance(module, nn.Dropout) and module.p and id(module) not in adapters:
            raise NotCovered("there is dropout in the frozen base")
    if any(p.requires_grad and id(p) not in adapters for p in block.parameters()):
        raise NotCovered("biases or norms are trained")


def _check_adapter(name: str, module: LoraLinear) -> None:
    if module.use_dora.get(ADAPTER) or module.lora_bias.get(ADAPTER) or module.fan_in_fan_out:
        raise NotCovered(f"{name} has DoRA or biases in its adapter")


# ------------------------------------------------------------------------------------------------------ a block's parts


def _parts(block: nn.Module, family: Family, model: nn.Module, compiled: Kernels, scratch: Buffers) -> Parts:
    heads = getattr(_base(model).config, family.heads)
    qkv = _product(block, (family.query, family.key, family.value), compiled)
    return Parts(
        qkv=qkv,
        out=_product(block, (family.out,), compiled),
        up=_product(block, (family.up,), compiled),
        down=_product(block, (family.down,), compiled),
        norm_1=_norm(block, family.norm_1),
        norm_2=_norm(block, family.norm_2),
        heads=heads,
        attention=pick(compiled, qkv.dtype, qkv.K // heads),
        kernels=compiled,
        scratch=scratch,
    )


def _product(block: nn.Module, paths: tuple[str, ...], compiled: Kernels) -> Product:
    linears, adapters, start = [], [], 0
    for path in paths:
        module = block.get_submodule(path)
        linear: Any = module.base_layer if isinstance(module, LoraLinear) else module
        if type(linear) is not nn.Linear or linear.bias is None:
            raise NotCovered(f"{path} isn't a plain linear with a bias")
        linears.append(linear)
        if isinstance(module, LoraLinear):
            adapters.append(Adapter(module, ADAPTER, slice(start, start + linear.out_features)))
        start += linear.out_features
    return Product(linears, adapters, compiled)


def _norm(block: nn.Module, path: str) -> Norm:
    norm: Any = block.get_submodule(path)
    return Norm(norm.weight.data.float(), norm.bias.data.float(), norm.eps)


# ---------------------------------------------------------------------------------------------------- a block's forward


def _short(block: nn.Module, parts: Parts, family: Family) -> Short | None:
    """The way of a few tokens through a block that nothing is trained in, in bf16."""
    if parts.trained or parts.qkv.dtype != torch.bfloat16 or not offered():
        return None
    return Short(block, family, parts.heads, (parts.norm_1, parts.norm_2))


def _forward(parts: Parts, adapted: list[LoraLinear], family: Family, short: Short | None) -> Callable[..., Any]:
    def forward(
        block: nn.Module, hidden_states: Tensor, attention_mask: Tensor | None = None, *rest: Any, **others: Any
    ) -> Any:
        if not _in_use(adapted):
            return type(block).forward(block, hidden_states, attention_mask, *rest, **others)
        position = rest[0] if family.position_bias and rest else None
        where = Where(_key_mask(attention_mask, hidden_states), None if position is None else position[0].float())
        x_BSD = hidden_states.to(parts.qkv.dtype)
        few = x_BSD.shape[0] * x_BSD.shape[1] <= FEW and not torch.is_grad_enabled()
        out_BSD = short.forward(x_BSD, *where) if short and few else apply(parts, x_BSD, where)
        return (out_BSD,) if family.returns_tuple else out_BSD

    forward.textlora_engine = True  # type: ignore[attr-defined]
    return forward


def _reads_first(network: Any) -> bool:
    """Whether the head reads each text's first token only: textlora's own with that pooling, and every stock head."""
    return getattr(network, "pooling", "") == "cls" or type(network).__name__.endswith("ForSequenceClassification")


def _first_only(scratch: Buffers) -> Callable[..., Any]:
    """A network's forward in which the last block makes its first rows only, unless others are asked for."""

    def forward(network: Any, *inputs: Any, **others: Any) -> Any:
        asked = {name for name in ("output_hidden_states", "output_attentions") if others.get(name)}
        scratch.first_only = not asked and not network.config.output_hidden_states
        try:
            return type(network).forward(network, *inputs, **others)
        finally:
            scratch.first_only = False

    forward.textlora_engine = True  # type: ignore[attr-defined]
    return forward


def _encode(blocks: list[nn.Module]) -> Callable[..., Tensor]:
    """`encode` of a BERT in form `textlora` without transformers' detours, which take 0.4 ms: much for one text."""

    def encode(network: Any, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any) -> Tensor:
        if others or attention_mask is None or torch.is_grad_enabled():
            return type(network).encode(network, input_ids, attention_mask, **others)
        hidden_BSD = network.embeddings(input_ids=input_ids)
        keys_BS = torch.zeros(input_ids.shape).masked_fill_(attention_mask == 0, torch.finfo(torch.float32).min)
        for block in blocks:
            hidden_BSD = block.forward(hidden_BSD, keys_BS[:, None, None])
        return hidden_BSD

    encode.textlora_engine = True  # type: ignore[attr-defined]
    return encode


def _key_mask(mask: Tensor | None, hidden_BSD: Tensor) -> Tensor:
    """What is added to the scores of each key, (B, S) in fp32, from transformers' (B, 1, S, S): of numbers or bools."""
    if mask is None:
        return torch.zeros(hidden_BSD.shape[:2])
    keys_BS = mask[:, 0, 0, :]
    if keys_BS.dtype == torch.bool:
        return torch.zeros(keys_BS.shape).masked_fill_(~keys_BS, torch.finfo(torch.float32).min)
    return keys_BS.float().contiguous()
