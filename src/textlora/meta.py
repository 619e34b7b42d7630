"""Families that aren't counted by hand: built on the meta device, where tensors have shapes and no data, and measured.

The only room below the model that imports torch and transformers, and it does so when it is asked.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from textlora.errors import UsageError
from textlora.shapes import PREFIXES, Measured, Module, Part, Shapes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

POSITIONS = 512  # tokens kept of a text where a config names no limit


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    """The shapes of a base of any family with a sequence classifier in transformers, from its config.json.

    Raises UsageError for a family that transformers doesn't know, an encoder-decoder, or one without linear layers.
    """
    return _measured(json.dumps(dict(config), sort_keys=True))


@cache
def _measured(text: str) -> Shapes:
    config = _config(json.loads(text))
    encoder = _on_meta("AutoModel", config)
    linears = _linears(encoder)
    if not linears:
        raise _unknown(config.model_type, "its layers hold no torch.nn.Linear")
    classifiers = [_on_meta("AutoModelForSequenceClassification", config, num_labels) for num_labels in (2, 3)]
    prefix = f"{classifiers[0].base_model_prefix}."
    heads = [sum(_part(getattr(model, name)).numbers for name in own_head(model)) for model in classifiers]
    per_label = heads[1] - heads[0]
    return Shapes(
        family=config.model_type,
        vocab_size=getattr(config, "vocab_size", 0),
        hidden_size=config.hidden_size,
        num_hidden_layers=1 + max(module.layer for module in linears),
        num_attention_heads=getattr(config, "num_attention_heads", 0),
        intermediate_size=getattr(config, "intermediate_size", 0),
        max_position_embeddings=positions(config),
        type_vocab_size=getattr(config, "type_vocab_size", 0),
        measured=Measured(
            prefix=prefix,
            linears=linears,
            encoder=_part(encoder),
            own=_own(classifiers[0], linears),
            own_head=(heads[0] - 2 * per_label, per_label),
            reads_left_to_right=_reads_left_to_right(config.model_type),
        ),
    )


def positions(config: PreTrainedConfig) -> int:
    """The positions that a config has; POSITIONS where it names no limit (XLNet says -1)."""
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else POSITIONS


def reason(error: Exception) -> str:
    """An error's first line, for a message of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def own_head(model: nn.Module) -> tuple[str, ...]:
    """The modules a sequence classifier of transformers has besides its encoder, the one with the outputs last."""
    base: Any = model
    children = model.named_children()
    return tuple(
        name for name, child in children if name != base.base_model_prefix and any(True for _ in child.parameters())
    )


def model_class(auto: str, config: PreTrainedConfig) -> Any:
    """transformers' class of one of its Auto classes for a config. Raises UsageError if there is none."""
    import transformers

    mapping = getattr(transformers, auto)._model_mapping
    if type(config) not in mapping:
        raise _unknown(config.model_type, f"transformers has no {auto} for it")
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def no_pooler(encoder_class: type) -> dict[str, bool]:
    """The argument that leaves an unread pooler out, where the class takes it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(encoder_class).parameters else {}


def _config(values: dict[str, Any]) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING

    family = values.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise _unknown(family, "transformers has no such family")
    try:
        config = CONFIG_MAPPING[family].from_dict(values)
    except Exception as error:  # whatever a family's own checks raise: the file is anybody's
        raise _unknown(family, f"its config.json is wrong: {reason(error)}") from error
    if config.is_encoder_decoder:
        raise _unknown(family, "it is an encoder-decoder")
    if type(getattr(config, "hidden_size", None)) is not int:
        raise _unknown(family, "its config names no hidden_size")
    return config


def _on_meta(auto: str, config: PreTrainedConfig, num_labels: int = 2) -> nn.Module:
    import torch

    found = model_class(auto, config)
    config.num_labels = num_labels
    try:
        with torch.device("meta"):
            return found(config, **(no_pooler(found) if auto == "AutoModel" else {}))
    except Exception as error:  # as above
        raise _unknown(config.model_type, f"it can't be built: {reason(error)}") from error


def _linears(encoder: nn.Module) -> tuple[Module, ...]:
    """Plain linears inside numbered layers; subclasses (of attention modules) hand their weights on unseen by PEFT."""
    from torch import nn

    named = [(name, m) for name, m in encoder.named_modules() if type(m) is nn.Linear]
    numbered = [(name, m, [int(part) for part in name.split(".") if part.isdecimal()]) for name, m in named]
    return tuple(
        Module(name, m.in_features, m.out_features, m.bias is not None, numbers[0])
        for name, m, numbers in numbered
        if numbers
    )


def _part(module: nn.Module) -> Part:
    named = [(name, p.numel()) for name, p in module.named_parameters()]  # each once, shared or not
    return Part(sum(n for _, n in named), sum(n for name, n in named if name.rpartition(".")[2] == "bias"))


def _own(classifier: nn.Module, linears: tuple[Module, ...]) -> Part | None:
    """The encoder inside the family's own classifier, if it is the same one and the rest is a head."""
    base: Any = classifier
    encoder = getattr(classifier, base.base_model_prefix, None)
    if encoder is None or _linears(encoder) != linears or not own_head(classifier):
        return None
    return _part(encoder)


def _reads_left_to_right(family: str) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _unknown(family: object, why: str) -> UsageError:
    return UsageError(
        f"the base's model_type is {family!r}: {why}",
        f"use a base of another family: {', '.join(PREFIXES)}, or another encoder with a sequence classifier",
    )
