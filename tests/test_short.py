"""One short text: what is left out on its way through the model changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_engine import Tiny, batch, build, frozen

from textlora import device, engine


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_way_around_transformers_forward_changes_no_bit(tiny_config: Tiny, family: str, dtype: torch.dtype) -> None:
    pad = 1 if family == "roberta" else 0
    networks = frozen(tiny_config, family, dtype), build(tiny_config, family, dtype).eval()
    engine.swap_in(networks[1])
    for network in networks:
        inner = network.get_base_model() if isinstance(network, PeftModel) else network
        assert ("encode" in inner.__dict__) == (family != "electra")
        for lengths in ([9], [3, 30, 17], [60] * 7):
            inputs = batch(np.random.default_rng(0), lengths, pad)
            with torch.inference_mode(), device.autocast(network):
                short = network(**inputs).logits
                kept = inner.__dict__.pop("encode", None)
                assert torch.equal(short, network(**inputs).logits)
                inner.__dict__.update({"encode": kept} if kept else {})
        engine.restore(network)
        assert "encode" not in inner.__dict__
