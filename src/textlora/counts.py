"""What a base and its heads consist of, counted from shapes: linears, biases, embeddings, norms.

F feed-forward, D hidden, C labels. A test builds every family in transformers and compares the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textlora import heads
from textlora.bases import Shapes

ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")


@dataclass(frozen=True)
class Layout:
    """How a family names its encoder's linears; this table is the only place that spells them."""

    layers: str
    linears: tuple[str, str, str, str, str, str]  # query, key, value, output, up, down: the order of the forward pass
    short: tuple[str, str, str, str]  # the first four as users write them


_BERT = Layout(
    "encoder.layer",
    (*ATTENTION, "intermediate.dense", "output.dense"),
    ("query", "key", "value", "attention.output.dense"),
)
_DISTILBERT = Layout(
    "transformer.layer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
)
LAYOUTS = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "distilbert": _DISTILBERT}


@dataclass(frozen=True)
class Module:
    """A linear of the encoder; `name` is without the model's prefix (`encoder.layer.0.attention.self.query`)."""

    name: str
    in_features: int
    out_features: int
    bias: bool
    layer: int


def linear_modules(shapes: Shapes) -> list[Module]:
    """The encoder's linears in the order of the forward pass: query, key, value, output, up, down of each layer."""
    d, f = shapes.hidden_size, shapes.intermediate_size
    sizes = ((d, d), (d, d), (d, d), (d, d), (d, f), (f, d))
    layout = LAYOUTS[shapes.family]
    return [
        Module(f"{layout.layers}.{layer}.{name}", *size, bias=True, layer=layer)
        for layer in range(shapes.num_hidden_layers)
        for name, size in zip(layout.linears, sizes, strict=True)
    ]


def head_parameters(shapes: Shapes, head: str, num_labels: int, head_rank: int) -> int:
    """Trained numbers of the head. `full` is the base's own; BERT's pooler belongs to the base and stays frozen."""
    d = shapes.hidden_size
    if head != "full":
        return heads.parameters(head, d, num_labels, head_rank)
    out = d * num_labels + num_labels
    return out if shapes.family == "bert" else d * d + d + out


def bias_parameters(shapes: Shapes, head: str, bias: str, adapted: Iterable[Module]) -> int:
    """Numbers of the base that PEFT's `bias` trains: none, those of the adapted linears, or all (LayerNorms' too)."""
    if bias == "none":
        return 0
    if bias == "lora_only":
        return sum(m.out_features for m in adapted if m.bias)
    d = shapes.hidden_size
    norms = d + shapes.num_hidden_layers * 2 * d  # behind the embeddings, and two in a layer
    linears = sum(m.out_features for m in linear_modules(shapes) if m.bias)
    return norms + linears + (d if _has_pooler(shapes, head) else 0)


def base_parameters(shapes: Shapes, head: str) -> int:
    """Numbers of the base as it is built under that head: only BERT's own head reads the pooler."""
    d = shapes.hidden_size
    embeddings = (shapes.vocab_size + shapes.max_position_embeddings + shapes.type_vocab_size) * d
    norms = 2 * d + shapes.num_hidden_layers * 4 * d  # weight and bias; behind the embeddings, and two in a layer
    linears = sum((m.in_features + 1) * m.out_features for m in linear_modules(shapes))
    return embeddings + norms + linears + (d * d + d if _has_pooler(shapes, head) else 0)


def _has_pooler(shapes: Shapes, head: str) -> bool:
    return shapes.family == "bert" and head == "full"
