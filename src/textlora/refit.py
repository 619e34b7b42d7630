"""Once more on all rows: what validation rows have chosen stays chosen, and they join the training rows.

An adapter never learns from the rows held out to choose by and to judge on. With the setting `refit` it is trained a
second time from the same start, for as many passes, on both together, as AutoGluon's `refit_full` does it. No rows are
left to judge the second one on: a run's figures stay those of the first, which saw fewer rows.

C labels, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from peft import PeftModel

from textlora import bag, model
from textlora.data import Split
from textlora.fitting import AT_THE_END
from textlora.prepare import Prepared
from textlora.tokens import joined
from textlora.trainer import label_weights

FOLDER = "refit"  # of a run: the curve of its second training


@dataclass(frozen=True)
class Chosen:
    """The numbers found on validation rows that the training hadn't seen; on rows it has seen they would be others."""

    head_share: float = 1.0  # of the logits: with a bag of tokens its share, without one 1 / temperature
    bag_share: float = 0.0
    offsets_C: np.ndarray | None = None  # added to the logits, where labels' true shares were told

    def put_into(self, network: PeftModel, prepared: Prepared) -> None:
        """Finish a trained `network` with these numbers; a bag of tokens is fitted to the rows of `prepared`."""
        if prepared.plan.bag_of_tokens:
            rows, config = prepared.train, network.config
            occurring = bag.features(rows.ids, rows.offsets, config.vocab_size)  # type: ignore[union-attr]
            labels = prepared.data.train.labels[rows.text_of]
            weights_VC = bag.fit(occurring, labels, len(prepared.labels), class_weight(prepared), rows.shares)
            model.add_bag(network, weights_VC, self.head_share, self.bag_share)
        elif self.head_share != 1:
            model.scale_head(network, self.head_share)
        if self.offsets_C is not None:
            model.shift_head(network, self.offsets_C)


def class_weight(prepared: Prepared) -> dict[int, float] | None:
    """What a row of each label weighs in the loss, as scikit-learn takes it."""
    return None if prepared.label_weights is None else dict(enumerate(prepared.label_weights.tolist()))


def together(prepared: Prepared) -> Prepared:
    """The same run, untrained, with the validation rows among the training rows; judged once, at its end, on rows that
    it has seen."""
    rows = prepared.data
    train = _joined(rows.train, rows.validation)
    config = replace(prepared.config, eval_steps=AT_THE_END, report_to=())
    network, _ = model.build(config, prepared.plan, prepared.labels, prepared.dtype)
    return replace(
        prepared,
        config=config,
        data=replace(rows, train=train),
        network=network,
        train=joined(prepared.train, prepared.validation),
        label_weights=label_weights(train.labels, len(prepared.labels), config.class_weights),
    )


def _joined(one: Split, other: Split) -> Split:
    both: dict[str, Any] = {
        "texts": one.texts + other.texts,
        "labels": np.concatenate([one.labels, other.labels]),
        "row_ids": one.row_ids + other.row_ids,
    }
    return replace(one, **both)
