"""A trained model and a bag of tokens become one: fitted on the training rows, blended on the validation rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from peft import PeftModel

from textlora import bag, model, predict
from textlora.tokens import Tokens


def blend_bag(
    trained: PeftModel,
    train: Tokens,
    train_labels: np.ndarray,
    validation: Tokens,
    labels: np.ndarray,
    pad_id: int,
    class_weight: dict[int, float] | None = None,
) -> tuple[float, float, str]:
    """Fit a bag of tokens on `train` and blend it into `trained` as its validation rows advise.

    Returns the shares of head and bag in the logits, and a line that says so.
    """
    config: Any = trained.config
    rows, held = (bag.features(split.ids, split.offsets, config.vocab_size) for split in (train, validation))
    weights_VC = bag.fit(rows, train_labels[train.text_of], config.num_labels, class_weight, train.shares)
    head, alone = predict.logits(trained, validation, pad_id), validation.mean(held @ weights_VC)
    head_share, bag_share = bag.shares(head, alone, labels, class_weight)
    model.add_bag(trained, weights_VC, head_share, bag_share)
    before, by_itself, after = (
        float((logits.argmax(1) == labels).mean()) for logits in (head, alone, head_share * head + bag_share * alone)
    )
    line = (
        f"bag of tokens: {by_itself:.4f} by itself, blended in at {bag_share / head_share:.2f} of the head's weight: "
        f"{before:.4f} -> {after:.4f} on validation"
    )
    return head_share, bag_share, line
