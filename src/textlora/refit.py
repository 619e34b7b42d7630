"""Once more on all rows: what validation rows have chosen stays chosen, and they join the training rows.

An adapter never learns from the rows held out to choose by and to judge on. With the setting `refit` it is trained a
second time from the same start, for as many passes, on both together, as AutoGluon's `refit_full` does it. No rows are
left to judge the second one on: a run's figures stay those of the first, which saw fewer rows.

C labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from peft import PeftModel

from textlora import blend, model
from textlora.blend import Shares
from textlora.data import Split
from textlora.fitting import AT_THE_END
from textlora.prepare import Prepared
from textlora.tokens import joined
from textlora.trainer import label_weights

FOLDER = "refit"  # of a run: the curve of its second training


@dataclass(frozen=True)
class Chosen:
    """The numbers found on validation rows that the training hadn't seen; on rows it has seen they would be others."""

    shares: Shares = field(default_factory=Shares)  # of head and what stands beside it
    offsets_C: np.ndarray | None = None  # added to the logits, where labels' true shares were told

    def put_into(self, network: PeftModel, prepared: Prepared) -> None:
        """Finish a trained `network` with these numbers; a bag and a memory are fitted to the rows of `prepared`."""
        labels = prepared.data.train.labels
        if prepared.plan.voices:
            blend.put(network, prepared.train, labels, prepared.pad_id, self.shares, prepared.class_weight)
        elif self.shares.head != 1:
            model.scale_head(network, self.shares.head)
        if self.offsets_C is not None:
            model.shift_head(network, self.offsets_C)


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
