"""For few rows: adapters that learn from pairs of texts, and a head that is solved for.

A head that is trained beside its adapters knows a few dozen rows by heart after some steps, and then nothing pulls any
more. Pairs go on pulling: two texts of one label towards the same direction, two of different labels towards right
angles, as SetFit does it (Tunstall et al. 2022, arXiv 2209.11055) with sampled pairs and all of the base's weights;
here all pairs of a batch, and the adapters. The head is then logistic regression on the pooled vectors.

B texts of a batch, N of a split, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize

from textlora import model, predict, solved
from textlora.tokens import Rows
from textlora.trainer import TextTrainer


def pair_loss(pooled_BD: Tensor, labels_B: Tensor) -> Tensor:
    """The mean squared distance of cosines to 1 over pairs of one label and to 0 over the others, half of each.

    No pair of a kind: that half is 0.
    """
    units_BD = normalize(pooled_BD.float(), dim=1)
    cosines_BB = units_BD @ units_BD.T
    alike_BB = labels_B[:, None] == labels_B[None]
    others_BB = ~torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    halves = ((alike_BB & others_BB, 1.0), (~alike_BB, 0.0))
    return sum((_mean((cosines_BB[pairs] - goal) ** 2) for pairs, goal in halves), cosines_BB.new_zeros(())) / 2


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())


def step_loss(batches: int) -> Callable[..., Tensor]:
    """`pair_loss` of a step of so many accumulated `batches`, as the Trainer's `compute_loss_func`."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None, shares_B: Tensor | None = None) -> Tensor:
        return pair_loss(outputs.logits, labels) / batches

    return loss


class PairTrainer(TextTrainer):
    """A TextTrainer whose loss is of pooled vectors: the head has no part in a step."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with _headless(self._peft_model()):
            return super().compute_loss(model, inputs, *args, **kwargs)


_headless = model.headless  # the Trainer calls its network `model`


def solve_head(network: PeftModel, rows: Rows, pad_id: int, class_weight: dict[int, float] | None = None) -> None:
    """Fit `network`'s linear head to its pooled vectors of training texts, by logistic regression."""
    pooled_ND = predict.pooled(network, rows.tokens, pad_id)
    num_labels = int(network.config.num_labels)  # type: ignore[union-attr]
    model.set_head(network, *solved.head(pooled_ND, rows.labels, num_labels, class_weight))
