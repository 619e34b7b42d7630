"""Where each family of bases keeps the parts of its blocks. docs/add-a-base.md says how to add one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Paths of modules: `blocks` from the encoder, the others from a block; `heads` and `activation` of the config."""

    blocks: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    out: str = "attention.output.dense"
    norm_1: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm_2: str = "output.LayerNorm"
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"
    position_bias: bool = False  # a block's third argument is added to its scores
    returns_tuple: bool = False  # a block returns (hidden states,)


BERT = Family()
FAMILIES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "electra": BERT,
    "distilbert": Family(
        blocks="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        out="attention.out_lin",
        norm_1="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        norm_2="output_layer_norm",
        heads="n_heads",
        activation="activation",
    ),
    "mpnet": Family(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        out="attention.attn.o",
        norm_1="attention.LayerNorm",
        position_bias=True,
        returns_tuple=True,
    ),
}
