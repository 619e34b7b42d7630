"""The config.json of each named base, as published, without what only a loader of old versions reads.

Where the numbers are from: MiniLM-L6's from the package that is embedded (a test compares); the others from the model
repositories' config.json files, written down from their documentation and transformers' defaults. Weights are checked
against them: a base whose own config differs is counted by its own.
"""

from __future__ import annotations

from typing import Any

Published = dict[str, Any]

_COMMON = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
_SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}

BERT: Published = {
    "model_type": "bert",
    **_COMMON,
    **_BASE,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
MINILM_L12 = {**BERT, **_SMALL}
MINILM_L6 = {**MINILM_L12, "num_hidden_layers": 6}

ROBERTA: Published = {
    "model_type": "roberta",
    **_COMMON,
    **_BASE,
    "vocab_size": 50265,
    "max_position_embeddings": 514,  # 512 tokens: positions start behind pad_token_id
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
ROBERTA_LARGE = {**ROBERTA, **_LARGE}
DISTILROBERTA = {**ROBERTA, "num_hidden_layers": 6}
XLM_ROBERTA = {**ROBERTA, "model_type": "xlm-roberta", "vocab_size": 250002}

DISTILBERT: Published = {
    "model_type": "distilbert",
    "activation": "gelu",
    "attention_dropout": 0.1,
    "dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "initializer_range": 0.02,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "sinusoidal_pos_embds": False,
    "pad_token_id": 0,
}

ELECTRA: Published = {**BERT, "model_type": "electra", "embedding_size": 768}
ELECTRA_SMALL = {
    **ELECTRA,
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}

MPNET: Published = {
    "model_type": "mpnet",
    **_COMMON,
    **_BASE,
    "vocab_size": 30527,
    "max_position_embeddings": 514,
    "relative_attention_num_buckets": 32,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

DEBERTA_V3: Published = {
    "model_type": "deberta-v2",  # version 3 is version 2's architecture, trained another way
    **_COMMON,
    **_BASE,
    "vocab_size": 128100,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "pad_token_id": 0,
}
DEBERTA_V3_SMALL = {**DEBERTA_V3, "num_hidden_layers": 6}
DEBERTA_V3_XSMALL = {**DEBERTA_V3, **_SMALL, "num_attention_heads": 6}

MODERNBERT: Published = {
    "model_type": "modernbert",
    "vocab_size": 50368,
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "classifier_pooling": "mean",
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "local_attention": 128,
    "initializer_range": 0.02,
    "pad_token_id": 50283,
    "bos_token_id": 50281,
    "eos_token_id": 50282,
    "cls_token_id": 50281,
    "sep_token_id": 50282,
}
