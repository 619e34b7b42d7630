"""Texts to tokens, once; tokens to batches. The only file that knows a pad id.

B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textlora.bases import VOCABULARIES
from textlora.errors import DamagedError, UsageError

CHUNK = 8192  # texts to a tokenizer call: enough to keep its threads busy, small enough to stay flat in memory
# Widths of batches are multiples of this. oneDNN compiles every product once for each shape: with widths and counts as
# they come, nearly every step had shapes of its own (docs/log.md 2026-11-22). 8 would pad 4 % more.
WIDTH_STEP = 4


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts in one flat array; text i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray  # (sum of T,) int32
    offsets: np.ndarray  # (B + 1,) int64
    truncated: int  # texts that were longer than max_length

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, special tokens included: (B,)."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | np.ndarray) -> Tokens:
        """The given rows, in that order."""
        parts = [self[int(row)] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
        return Tokens(np.concatenate(parts) if parts else self.ids[:0], offsets, self.truncated)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer in `folder`, freed of the padding and truncation that its file may carry.

    Those would win over ours in silence: sentence-transformers' files pad every text to 128.
    Raises UsageError if the folder holds no tokenizer, DamagedError if it holds one that can't be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file trips: tokenizers raises bare Exceptions, transformers any
        if not any(Path(folder, name).is_file() for name in VOCABULARIES):
            raise UsageError(f"there is no tokenizer in {folder}", "name a folder with tokenizer files") from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"the tokenizer in {folder} can't be read: {reason}", "copy its files again") from error
    if not tokenizer.is_fast:
        raise UsageError(f"{folder} holds a slow tokenizer", "save it in the fast format (tokenizer.json)")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> Tokens:
    """Token ids of `texts`, each cut to `max_length` with its special tokens kept."""
    parts: list[np.ndarray] = []
    lengths: list[int] = []
    for start in range(0, len(texts), CHUNK):
        rows = tokenizer(list(texts[start : start + CHUNK]), return_attention_mask=False, verbose=False)["input_ids"]
        lengths += [len(row) for row in rows]
        parts += [_cut(row, max_length) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return Tokens(ids, offsets, truncated=sum(length > max_length for length in lengths))


def _cut(row: list[int], max_length: int) -> np.ndarray:
    """The first tokens of a text that is too long, and its closing special token."""
    if len(row) > max_length:
        row = [*row[: max_length - 1], row[-1]]
    return np.asarray(row, dtype=np.int32)


class Rows(Dataset[dict[str, Any]]):
    """Tokens and labels as the Trainer wants them."""

    def __init__(self, tokens: Tokens, labels: np.ndarray) -> None:
        self.tokens = tokens
        self.labels = labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[row], "labels": int(self.labels[row])}


@dataclass(frozen=True)
class Collator:
    """Rows to one batch, padded to its longest text: input_ids (B, T), attention_mask (B, T), labels (B,) if known."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.pad([row["input_ids"] for row in rows])
        if rows and "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    def pad(self, texts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Token ids to padded tensors with their mask."""
        width = int(widths(np.array([len(text) for text in texts])).max())
        ids_BT = np.full((len(texts), width), self.pad_id, dtype=np.int64)
        mask_BT = np.zeros((len(texts), width), dtype=np.int64)
        for row, text in enumerate(texts):
            ids_BT[row, : len(text)] = text
            mask_BT[row, : len(text)] = 1
        return {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(mask_BT)}


def widths(lengths: np.ndarray) -> np.ndarray:
    """The width that a batch needs for texts of these lengths: the next multiple of WIDTH_STEP."""
    return -(-lengths // WIDTH_STEP) * WIDTH_STEP


def cut_by_tokens(lengths: np.ndarray, batch_tokens: int) -> list[int]:
    """Ends of the batches that `lengths`, sorted upwards, fall into.

    Each batch's count times width is at most `batch_tokens`, unless one text alone is longer. As many as fit: so the
    count follows from the width, and an epoch has only as many shapes as widths.
    """
    ends = []
    start = 0
    for row, width in enumerate(widths(lengths)):
        if row > start and (row + 1 - start) * width > batch_tokens:
            ends.append(row)
            start = row
    return [*ends, len(lengths)] if len(lengths) else []


def sorted_batches(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of similar length, for prediction: as little padding as can be."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in cut_by_tokens(lengths[order], batch_tokens):
        yield order[start:end]
        start = end


class TokenBatches(Sampler[list[int]]):
    """Batches of at most `batch_tokens` padded tokens: texts of one width in new company each epoch, in shuffled order.

    Length is the sorting key, jittered by leaving it to chance among texts of the same width. Batches of one exact
    length would repeat each epoch and follow the class. The number of batches and their shapes are the same in each
    epoch (learning-rate schedules and resuming count on it), the number a multiple of `world_size`. An epoch's order
    depends on (seed, epoch) alone, so a resumed run sees what the first one would have seen.
    """

    def __init__(self, lengths: np.ndarray, batch_tokens: int, seed: int, world_size: int = 1) -> None:
        self.widths = widths(np.asarray(lengths))
        self.seed = seed
        self.epoch = 0
        self.ends = _multiple_of(world_size, cut_by_tokens(np.sort(self.widths), batch_tokens))

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = np.lexsort((rng.random(len(self.widths)), self.widths))
        batches = np.split(order, self.ends[:-1])
        for number in rng.permutation(len(batches)):
            yield batches[number].tolist()


def _multiple_of(world_size: int, ends: list[int]) -> list[int]:
    """`ends` with the batches of most texts halved until every process gets as many as the others."""
    ends = list(ends)
    while len(ends) % world_size:
        sizes = np.diff([0, *ends])
        widest = int(np.argmax(sizes))
        if sizes[widest] < 2:
            raise UsageError(f"{ends[-1]} training rows can't feed {world_size} processes", "use fewer processes")
        ends.insert(widest, ends[widest] - int(sizes[widest]) // 2)
    return ends
