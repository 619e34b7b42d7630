"""What a base and its heads consist of, counted from shapes: linears, biases, embeddings, norms.

F feed-forward, D hidden, C labels. A test builds every family in transformers and compares the numbers. Families that
aren't counted here bring what meta.py measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textlora import heads
from textlora.shapes import Module, Part, Shapes

Linear = tuple[str, str, str]  # name within a layer, width in, width out (letters of `_widths`)
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
BITS = 32  # of a number
FEED_FORWARD: tuple[Linear, ...] = (("intermediate.dense", "D", "F"), ("output.dense", "F", "D"))


@dataclass(frozen=True)
class Layout:
    """How a family names its encoder's linears, in the order of the forward pass; only this table spells them."""

    layers: str
    linears: tuple[Linear, ...]
    sets: tuple[tuple[str, ...], ...]  # usual sets of targets short of all, the smallest first


def _sets(q: str, k: str, v: str, o: str) -> tuple[tuple[str, ...], ...]:
    return ((q, v), (q, k, v), (q, k, v, o))


def _squares(*names: str) -> tuple[Linear, ...]:
    return tuple((name, "D", "D") for name in names)


_BERT = Layout(
    "encoder.layer",
    (*_squares(*ATTENTION), *FEED_FORWARD),
    _sets("query", "key", "value", "attention.output.dense"),
)
_DISTILBERT = Layout(
    "transformer.layer",
    (
        *_squares("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        *(("ffn.lin1", "D", "F"), ("ffn.lin2", "F", "D")),
    ),
    _sets("q_lin", "k_lin", "v_lin", "out_lin"),
)
_MPNET = Layout(
    "encoder.layer",
    (*_squares("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"), *FEED_FORWARD),
    _sets("q", "k", "v", "o"),
)
_DEBERTA = Layout(
    "encoder.layer",
    (
        *_squares("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
        *_squares("attention.self.pos_key_proj", "attention.self.pos_query_proj", "attention.output.dense"),
        *FEED_FORWARD,
    ),
    _sets("query_proj", "key_proj", "value_proj", "attention.output.dense"),
)
_MODERNBERT = Layout(
    "layers",
    (("attn.Wqkv", "D", "3D"), ("attn.Wo", "D", "D"), ("mlp.Wi", "D", "2F"), ("mlp.Wo", "F", "D")),
    (("Wqkv",), ("Wqkv", "attn.Wo")),
)
LAYOUTS = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "mpnet": _MPNET,
    "deberta-v2": _DEBERTA,
    "modernbert": _MODERNBERT,
}
DENSE_HEADS = ("roberta", "xlm-roberta", "distilbert", "electra", "mpnet", "deberta-v2")  # D -> D -> C


def usual_targets(shapes: Shapes) -> tuple[tuple[str, ...], ...]:
    """The family's usual sets of target modules short of all linears, the smallest first."""
    return () if shapes.measured else LAYOUTS[shapes.family].sets


# ------------------------------------------------------------------------------------------------------------ linears


def linear_modules(shapes: Shapes) -> list[Module]:
    """The linears of the encoder's layers, in the order of the forward pass; heads, poolers, projections aside."""
    if shapes.measured:
        return list(shapes.measured.linears)
    widths, prefix = _widths(shapes), LAYOUTS[shapes.family].layers
    linears = [(name, widths[i], widths[o], _has_bias(name, shapes)) for name, i, o in _layer(shapes)]
    return [
        Module(f"{prefix}.{layer}.{name}", width_in, width_out, bias, layer)
        for layer in range(shapes.num_hidden_layers)
        for name, width_in, width_out, bias in linears
    ]


def _widths(shapes: Shapes) -> dict[str, int]:
    d, f = shapes.hidden_size, shapes.intermediate_size
    return {"D": d, "3D": 3 * d, "F": f, "2F": 2 * f}


def _layer(shapes: Shapes) -> list[Linear]:
    """The linears of one layer. DeBERTa's projections of positions are built by need, as modeling_deberta_v2 does."""
    linears = list(LAYOUTS[shapes.family].linears)
    if shapes.family != "deberta-v2":
        return linears
    relative = shapes["relative_attention"] and not shapes["share_att_key"]
    kept = {"pos_key_proj": relative and "c2p" in shapes["pos_att_type"]}
    kept["pos_query_proj"] = relative and "p2c" in shapes["pos_att_type"]
    return [linear for linear in linears if kept.get(linear[0].rpartition(".")[2], True)]


def _has_bias(name: str, shapes: Shapes) -> bool:
    if shapes.family != "modernbert":
        return True
    return shapes["attention_bias" if name.startswith("attn.") else "mlp_bias"]


# -------------------------------------------------------------------------------------------------------------- heads


def head_parameters(shapes: Shapes, head: str, num_labels: int, head_rank: int) -> int:
    """Trained numbers of the head. `full` is the base's own; BERT's pooler belongs to the base and stays frozen."""
    d = shapes.hidden_size
    if head != "full":
        return heads.parameters(head, d, num_labels, head_rank)
    out = d * num_labels + num_labels
    if shapes.measured:
        fixed, per_label = shapes.measured.own_head
        return fixed + per_label * num_labels
    if shapes.family == "modernbert":
        return d * d + (d if shapes["classifier_bias"] else 0) + _norm(d, shapes).numbers + out
    return d * d + d + out if shapes.family in DENSE_HEADS else out


def has_own_head(shapes: Shapes) -> bool:
    """Whether the base's own classification head can be trained: of a family that isn't ours it may not be found."""
    return shapes.measured is None or shapes.measured.own is not None


def own_pooling(shapes: Shapes) -> str:
    """What the base's own head reads: the first token, or the mean of all where ModernBERT's config says so."""
    return shapes["classifier_pooling"] if shapes.family == "modernbert" else "cls"


# ----------------------------------------------------------------------------------------------------------- the base


def bag_parameters(shapes: Shapes, num_labels: int) -> int:
    """Numbers of a bag of tokens: one for each token of the vocabulary and label."""
    return shapes.vocab_size * num_labels


def memory_parameters(shapes: Shapes, rows: int, num_labels: int) -> int:
    """Numbers of a memory of `rows` training texts: one for 32 of their features, and what centres, sorts and weighs
    them (memory.py); none of no rows."""
    width = memory_width(shapes)
    return rows * memory_words(width) + width + num_labels + 2 if rows else 0


def memory_rows(shapes: Shapes, room: int, num_labels: int) -> int:
    """The most texts that `room` numbers can remember."""
    first = memory_parameters(shapes, 1, num_labels)
    return 1 + (room - first) // memory_words(memory_width(shapes)) if room >= first else 0


def memory_width(shapes: Shapes) -> int:
    """Features of what comes out of the base's embeddings."""
    return shapes["embedding_size"] if shapes.family == "electra" else shapes.hidden_size


def memory_words(width: int) -> int:
    """Numbers of 32 bits that hold a bit of each feature."""
    return -(-width // BITS)


def bias_parameters(shapes: Shapes, head: str, bias: str, adapted: Iterable[Module]) -> int:
    """Numbers of the base that PEFT's `bias` trains: none, those of the adapted linears, or all."""
    if bias == "none":
        return 0
    if bias == "lora_only":
        return sum(m.out_features for m in adapted if m.bias)
    return _base(shapes, head).biases


def base_parameters(shapes: Shapes, head: str) -> int:
    """Numbers of the base as it is built under that head: only BERT's own head reads the pooler."""
    return _base(shapes, head).numbers


def _base(shapes: Shapes, head: str) -> Part:
    if shapes.measured:
        own = shapes.measured.own if head == "full" else None
        return own or shapes.measured.encoder
    linears = [_linear(m.in_features, m.out_features, m.bias) for m in linear_modules(shapes)]
    parts = [*_embeddings(shapes), *_norms(shapes), *linears]
    if shapes.family == "bert" and head == "full":
        parts.append(_linear(shapes.hidden_size, shapes.hidden_size))
    return Part(sum(p.numbers for p in parts), sum(p.biases for p in parts))


def _linear(width_in: int, width_out: int, bias: bool = True) -> Part:
    return Part((width_in + bias) * width_out, width_out if bias else 0)


def _norm(width: int, shapes: Shapes) -> Part:
    biases = width if shapes.family != "modernbert" or shapes["norm_bias"] else 0
    return Part(width + biases, biases)


def _embeddings(shapes: Shapes) -> list[Part]:
    """Tables of tokens, positions and types, and what turns them into hidden states."""
    d, positions = shapes.hidden_size, shapes.max_position_embeddings
    tables, width, more = shapes.vocab_size + shapes.type_vocab_size, d, []
    if shapes.family == "electra":
        width = shapes["embedding_size"]
        more = [_linear(width, d)] if width != d else []
    elif shapes.family == "mpnet":  # one table of distances for all layers
        more = [Part(shapes["relative_attention_num_buckets"] * shapes.num_attention_heads, 0)]
    elif shapes.family == "deberta-v2":
        width = shapes["embedding_size"] or d
        more = [_linear(width, d, bias=False)] if width != d else []
        more += _deberta_positions(shapes)
        positions = positions if shapes["position_biased_input"] else 0
    elif shapes.family == "modernbert":
        positions = 0  # rotary
    return [Part((tables + positions) * width, 0), *more]


def _deberta_positions(shapes: Shapes) -> list[Part]:
    """DeBERTa's table of distances and, in its larger sizes, a convolution behind the first layer."""
    d, parts = shapes.hidden_size, []
    if shapes["relative_attention"]:
        furthest = shapes["max_relative_positions"]
        furthest = furthest if furthest > 0 else shapes.max_position_embeddings
        span = shapes["position_buckets"] if shapes["position_buckets"] > 0 else furthest
        parts.append(Part(2 * span * d, 0))
    if "layer_norm" in shapes["norm_rel_ebd"].lower():
        parts.append(_norm(d, shapes))
    if shapes["conv_kernel_size"] > 0:
        kernel = d * (d // shapes["conv_groups"]) * shapes["conv_kernel_size"]
        parts += [Part(kernel + d, d), _norm(d, shapes)]
    return parts


def _norms(shapes: Shapes) -> list[Part]:
    """One behind the embeddings and two in a layer; ModernBERT has one less in the first layer, one behind the last."""
    first = shapes["embedding_size"] if shapes.family == "electra" else shapes.hidden_size
    rest = _norm(shapes.hidden_size, shapes)
    return [_norm(first, shapes), *[rest] * (2 * shapes.num_hidden_layers)]
