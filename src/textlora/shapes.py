"""What counting needs to know of a base: the sizes in its config.json, checked.

Families in `PREFIXES` are counted by hand (counts.py) without torch. Any other is measured on the meta device (meta.py)
and carries the result with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textlora.errors import UsageError

# Family (a config's model_type) -> prefix of the encoder's names inside its own AutoModelForSequenceClassification.
PREFIXES = {
    "bert": "bert.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "distilbert": "distilbert.",
    "electra": "electra.",
    "mpnet": "mpnet.",
    "deberta-v2": "deberta.",
    "modernbert": "model.",
}

# Our names -> the config.json's, where a family has its own.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
OWN_KEYS = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    }
}
NO_TYPES = ("distilbert", "mpnet", "modernbert")  # no embedding of token types
FROM_TWO = ("roberta", "xlm-roberta", "mpnet")  # positions start behind the padding id, at 2

# What only that family's config has and its count depends on, with transformers' default (configuration_*.py, 5.23).
OWN: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 128},
    "mpnet": {"relative_attention_num_buckets": 32},
    "deberta-v2": {
        "embedding_size": 0,  # 0: as wide as the hidden states
        "relative_attention": False,
        "position_buckets": -1,
        "max_relative_positions": -1,
        "pos_att_type": (),
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "position_biased_input": True,
        "conv_kernel_size": 0,
        "conv_groups": 1,
    },
    "modernbert": {
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "classifier_pooling": "cls",
    },
}


@dataclass(frozen=True)
class Module:
    """A linear of the encoder; `name` is without the model's prefix (`encoder.layer.0.attention.self.query`)."""

    name: str
    in_features: int
    out_features: int
    bias: bool
    layer: int


@dataclass(frozen=True)
class Part:
    """Numbers of a model, and how many of them PEFT's `bias="all"` trains: all that are named `bias`."""

    numbers: int
    biases: int


@dataclass(frozen=True)
class Measured:
    """A model of a family that isn't counted by hand, measured on the meta device."""

    prefix: str
    linears: tuple[Module, ...]
    encoder: Part  # frozen numbers under a head of ours
    own: Part | None  # under the base's own head; None: it has none that we can train
    own_head: tuple[int, int]  # numbers of the own head: so many, and so many more for each label
    reads_left_to_right: bool


@dataclass(frozen=True)
class Shapes:
    """What counting needs, from a config.json."""

    family: str  # a config's model_type
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int  # 0: no such embedding
    own: tuple[tuple[str, Any], ...] = ()  # the family's keys in OWN
    measured: Measured | None = None  # None: counted by hand

    @property
    def prefix(self) -> str:
        """The prefix of the encoder's module names in the base's own classification model, with its dot."""
        return self.measured.prefix if self.measured else PREFIXES[self.family]

    @property
    def longest_text(self) -> int:
        """Most tokens that have a position, special tokens included."""
        return longest_text(self.family, self.max_position_embeddings)

    def __getitem__(self, key: str) -> Any:
        """The value of one of the family's own keys."""
        return dict(self.own)[key]

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Shapes:
        """The shapes of a family that is counted by hand, from a Hugging Face config.json.

        Raises UsageError for another family, or a size that is missing or no whole number above 0.
        """
        family = config.get("model_type")
        if not isinstance(family, str) or family not in PREFIXES:
            raise UsageError(f"the base's model_type is {family!r}", f"textlora counts {', '.join(PREFIXES)} by hand")
        wanted = [size for size in SIZES if not (family in NO_TYPES and size == "type_vocab_size")]
        names = OWN_KEYS.get(family, {})
        least = {"type_vocab_size": 0} if family == "deberta-v2" else {}
        sizes: dict[str, Any] = {size: _size(config, names.get(size, size), least.get(size, 1)) for size in wanted}
        own = tuple((key, _own(config, key, default)) for key, default in OWN.get(family, {}).items())
        return Shapes(family=family, **{"type_vocab_size": 0, **sizes}, own=own)


def longest_text(family: str, positions: int) -> int:
    """Most tokens of a text with a table of `positions`: RoBERTa's kind starts counting after its padding id, at 2.

    A whole multiple of 4, since batches are padded to one (tokens.WIDTH_STEP); the published tables are.
    """
    return (positions - 2 if family in FROM_TWO else positions) // 4 * 4


def _size(config: Mapping[str, Any], key: str, least: int) -> int:
    value = config.get(key)
    if type(value) is not int or value < least:
        raise _wrong(key, value, f"a whole number {'above 0' if least else 'from 0'}")
    return value


def _own(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """A key that only this family has; a list as a tuple (`p2c|c2p`, DeBERTa's own way to write one, too)."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(default, tuple):
        value = tuple(value.lower().split("|")) if isinstance(value, str) else value
        value = tuple(value) if isinstance(value, list) else value
    if type(value) is not type(default):
        raise _wrong(key, value, f"something like {default!r}")
    return value


def _wrong(key: str, value: Any, expected: str) -> UsageError:
    return UsageError(
        f"the base's config has {key} = {value!r}, expected {expected}",
        "give a folder whose config.json is the one published with the weights",
    )
