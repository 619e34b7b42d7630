"""A trained head, a bag of tokens and a memory become one classifier: fitted on the training rows, weighed on the
validation rows.

B texts, N rows of tokens, V tokens of the vocabulary, D features, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from peft import PeftModel

from textlora import bag, model, predict, voices
from textlora.memory import SHARPNESS
from textlora.tokens import Tokens

ClassWeight = dict[int, float] | None
NAMES = {"bag": "bag of tokens", "memory": "memory"}


@dataclass(frozen=True)
class Shares:
    """What each voice weighs in the logits."""

    head: float = 1.0  # alone, 1 / temperature
    bag: float = 0.0
    memory: float = 0.0
    sharpness: float = 0.0  # of the memory


@dataclass(frozen=True)
class _Fitted:
    """What stands beside a head, fitted on training rows."""

    bag_VC: np.ndarray | None  # weights
    vectors_ND: np.ndarray | None  # of texts to remember,
    labels_N: np.ndarray  # and theirs
    tilt_C: np.ndarray  # what labels that count more add to the memory's logits, which know the rows' own shares


def blend(
    trained: PeftModel,
    train: Tokens,
    train_labels: np.ndarray,
    validation: Tokens,
    labels: np.ndarray,
    pad_id: int,
    class_weight: ClassWeight = None,
) -> tuple[Shares, str]:
    """Fit what `trained` has beside its head on `train`, and blend it in as its validation rows advise.

    Returns what each voice weighs, and a line that says so.
    """
    fitted = _fit(trained, train, train_labels, pad_id, class_weight)
    head_and_bag = {"head": predict.logits(trained, validation, pad_id), **_bag_says(trained, fitted, validation)}
    tried = []
    for sharpness, says in _memory_says(trained, fitted, validation, pad_id).items():
        heard = head_and_bag | says
        parts = voices.shares(list(heard.values()), labels, class_weight)
        logits_BC = voices.pooled(list(heard.values()), parts)
        shares = Shares(**dict(zip(heard, parts, strict=True)), sharpness=sharpness)
        tried.append((voices.surprise(logits_BC, labels, class_weight), shares, heard, logits_BC))
    _, shares, heard, logits_BC = min(tried, key=lambda one: one[0])
    _put(trained, fitted, shares)
    return shares, _line(heard, shares, logits_BC, labels)


def put(
    trained: PeftModel,
    train: Tokens,
    train_labels: np.ndarray,
    pad_id: int,
    shares: Shares,
    class_weight: ClassWeight = None,
) -> None:
    """Fit what `trained` has beside its head on `train`, and blend it in as `shares`, found before, says."""
    _put(trained, _fit(trained, train, train_labels, pad_id, class_weight), shares)


def _put(trained: PeftModel, fitted: _Fitted, shares: Shares) -> None:
    """The shares go into numbers that are there anyway: the head's last linear, the bag, the memory's own weight."""
    model.scale_head(trained, shares.head)
    if fitted.bag_VC is not None:
        model.set_bag(trained, shares.bag * fitted.bag_VC)
    memory = model.memory_of(trained)
    if memory is not None and fitted.vectors_ND is not None:
        memory.keep(fitted.vectors_ND, fitted.labels_N)
        memory.weigh(shares.sharpness, shares.memory)
        model.shift_head(trained, shares.memory * fitted.tilt_C)


def _fit(
    trained: PeftModel, train: Tokens, train_labels: np.ndarray, pad_id: int, class_weight: ClassWeight
) -> _Fitted:
    config: Any = trained.config
    labels_N, weights = train_labels[train.text_of], None
    if model.has_bag(trained):
        rows = bag.features(train.ids, train.offsets, config.vocab_size)
        weights = bag.fit_tokens(rows, labels_N, config.num_labels, class_weight, train.shares)
    vectors = _vectors(trained, train, pad_id) if model.memory_of(trained) else None
    counts_more = [(class_weight or {}).get(label, 1.0) for label in range(config.num_labels)]
    return _Fitted(weights, vectors, labels_N, np.log(counts_more).astype(np.float32))


def _bag_says(trained: PeftModel, fitted: _Fitted, texts: Tokens) -> dict[str, np.ndarray]:
    """The bag's logits (B, C), if there is one."""
    if fitted.bag_VC is None:
        return {}
    rows = bag.features(texts.ids, texts.offsets, trained.config.vocab_size)  # type: ignore[union-attr]
    return {"bag": texts.mean(rows @ fitted.bag_VC)}


def _memory_says(trained: PeftModel, fitted: _Fitted, texts: Tokens, pad_id: int) -> dict[float, dict[str, np.ndarray]]:
    """The memory's logits (B, C) at each sharpness, if there is one. It is filled by that."""
    memory = model.memory_of(trained)
    if memory is None or fitted.vectors_ND is None:
        return {0.0: {}}
    memory.keep(fitted.vectors_ND, fitted.labels_N)
    held, found = _vectors(trained, texts, pad_id), {}
    for sharpness in SHARPNESS:
        memory.weigh(sharpness, 1.0)
        found[sharpness] = {"memory": texts.mean(memory.says(held)) + fitted.tilt_C}
    return found


def _vectors(trained: PeftModel, tokens: Tokens, pad_id: int) -> np.ndarray:
    """(N, D), windows of a text apart."""
    with model.unread(trained):
        return predict.logits(trained, tokens.rows_apart(), pad_id)


def _line(heard: dict[str, np.ndarray], shares: Shares, logits_BC: np.ndarray, labels: np.ndarray) -> str:
    def right(logits_BC: np.ndarray) -> float:
        return float((logits_BC.argmax(1) == labels).mean())

    beside = ", ".join(
        f"{name} {right(heard[key]):.4f} by itself, blended in at {getattr(shares, key) / shares.head:.2f}"
        for key, name in NAMES.items()
        if key in heard
    )
    return f"{beside} of the head's weight: {right(heard['head']):.4f} -> {right(logits_BC):.4f} on validation"
