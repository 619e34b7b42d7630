"""Texts to tokens, once; tokens to batches. The only file that knows a pad id.

B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textlora.bases import SENTENCEPIECE, VOCABULARIES
from textlora.errors import DamagedError, ResourceError, UsageError
from textlora.longtext import TRUNCATE, WIDTH_STEP, WINDOW_MEAN, Cut, Frame, spans

CHUNK = 8192  # texts to a tokenizer call: enough to keep its threads busy, small enough to stay flat in memory


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts in one flat array: rows for the model, one for each text or (window-mean) several.

    Row i is `ids[offsets[i]:offsets[i + 1]]` and of text `text_of[i]`; the rows of a text are neighbours.
    """

    ids: np.ndarray  # (sum of T,) int32
    offsets: np.ndarray  # (rows + 1,) int64
    text_of: np.ndarray  # (rows,) int64, from 0 upwards, no text left out
    cut: Cut  # what was done to texts that are too long

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def texts(self) -> int:
        """How many texts: B."""
        return int(self.text_of[-1]) + 1 if len(self.text_of) else 0

    @property
    def windowed(self) -> bool:
        """Whether any text has more than one row."""
        return len(self) > self.texts

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, special tokens included: (rows,)."""
        return np.diff(self.offsets)

    @property
    def shares(self) -> np.ndarray:
        """What a row counts of its text: 1 / number of its text's rows, so that every text counts 1: (rows,)."""
        return 1 / np.bincount(self.text_of)[self.text_of]

    def rows_apart(self) -> Tokens:
        """The same rows, each a text of its own."""
        return replace(self, text_of=np.arange(len(self)))

    def take(self, texts: Sequence[int] | np.ndarray) -> Tokens:
        """The given texts with all their rows, in that order."""
        firsts, ends = (np.searchsorted(self.text_of, np.asarray(texts, np.int64), side) for side in ("left", "right"))
        rows = [range(first, end) for first, end in zip(firsts, ends, strict=True)]
        return _flat([[self[row] for row in of_text] for of_text in rows], self.cut)

    def mean(self, rows_RC: np.ndarray) -> np.ndarray:
        """One value a text from one a row: the mean over its rows, (B, C) from (rows, C)."""
        if not self.windowed:
            return rows_RC
        firsts = np.searchsorted(self.text_of, np.arange(self.texts))
        counts = np.bincount(self.text_of)[:, None].astype(rows_RC.dtype)
        return np.add.reduceat(rows_RC, firsts, axis=0) / counts


def joined(one: Tokens, other: Tokens) -> Tokens:
    """The texts of both, those of `one` first; what was cut is told of `one`."""
    return Tokens(
        np.concatenate([one.ids, other.ids]),
        np.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]]),
        np.concatenate([one.text_of, other.text_of + one.texts]),
        one.cut,
    )


def _flat(rows: Sequence[Sequence[np.ndarray]], cut: Cut) -> Tokens:
    """Tokens from the rows of each text."""
    parts = [row for of_text in rows for row in of_text]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    text_of = np.repeat(np.arange(len(rows)), [len(of_text) for of_text in rows])
    return Tokens(np.concatenate(parts) if parts else np.zeros(0, np.int32), offsets, text_of, cut)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer in `folder`, freed of the padding and truncation that its file may carry.

    Those would win over ours in silence: sentence-transformers' files pad every text to 128.
    Raises UsageError if the folder holds no tokenizer, DamagedError if it holds one that can't be read, ResourceError
    for a SentencePiece model (DeBERTa's, say) without the package that reads it.
    """
    found = [name for name in VOCABULARIES if Path(folder, name).is_file()]
    if not found:  # some classes of transformers would make an empty one and say nothing
        raise UsageError(f"there is no tokenizer in {folder}", "name a folder with tokenizer files")
    if found[0] in SENTENCEPIECE and find_spec("sentencepiece") is None:
        raise ResourceError(
            f"{folder} holds its tokenizer as a SentencePiece model, {found[0]}, which takes a package to read",
            "pip install 'textlora[sentencepiece]', or name a folder with a tokenizer.json with --tokenizer",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file trips: tokenizers raises bare Exceptions, transformers any
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"the tokenizer in {folder} can't be read: {reason}", "copy its files again") from error
    if not tokenizer.is_fast:
        raise UsageError(f"{folder} holds a slow tokenizer", "save it in the fast format (tokenizer.json)")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, long_text: str = TRUNCATE
) -> Tokens:
    """Token ids of `texts` in rows of at most `max_length`, special tokens kept; `long_text` is a mode of longtext."""
    rows = whole(tokenizer, texts)
    longer = any(len(row) > max_length for row in rows)
    return fit(rows, frame(tokenizer) if longer else Frame(0, 0), max_length, long_text)


def whole(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[np.ndarray]:
    """All token ids of each text, special ones included, whatever its length."""
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        found = tokenizer(list(texts[start : start + CHUNK]), return_attention_mask=False, verbose=False)["input_ids"]
        rows += [np.asarray(row, dtype=np.int32) for row in found]
    return rows


def frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """How many special tokens `tokenizer` puts before and after a text."""
    return Frame.of(tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"])


def fit(texts: Sequence[np.ndarray], frame: Frame, max_length: int, long_text: str = TRUNCATE) -> Tokens:
    """Whole texts in rows of at most `max_length` tokens: those that are longer as `long_text` says."""
    longer = [len(ids) > max_length for ids in texts]
    rows = [
        _rows(ids, frame, max_length, long_text) if too_long else [ids]
        for ids, too_long in zip(texts, longer, strict=True)
    ]
    kept = sum(len(row) for of_text in rows for row in of_text)
    tokens = sum(len(ids) for ids in texts)
    cut = Cut(
        long_text,
        max_length,
        texts=len(texts),
        longer=sum(longer),
        tokens=tokens,
        lost=0 if long_text == WINDOW_MEAN else tokens - kept,
        windows=sum(len(of_text) for of_text in rows if len(of_text) > 1),
    )
    return _flat(rows, cut)


def _rows(ids: np.ndarray, frame: Frame, max_length: int, long_text: str) -> list[np.ndarray]:
    """The rows of one text that is too long, each between the text's own special tokens."""
    end = len(ids) - frame.after
    before, content, after = ids[: frame.before], ids[frame.before : end], ids[end:]
    found = spans(len(content), frame.room(max_length), long_text)
    return [np.concatenate([before, *(content[start:stop] for start, stop in row), after]) for row in found]


class Rows(Dataset[dict[str, Any]]):
    """Tokens and labels as the Trainer wants them. `labels` has one label a text; each of its rows gets it.

    Where texts have several rows, `shares` says what each counts.
    """

    def __init__(self, tokens: Tokens, labels: np.ndarray) -> None:
        self.tokens = tokens
        self.labels = labels[tokens.text_of]
        self.shares = tokens.shares if tokens.windowed else None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        one = {"input_ids": self.tokens[row], "labels": int(self.labels[row])}
        return one if self.shares is None else one | {"shares": float(self.shares[row])}


@dataclass(frozen=True)
class Collator:
    """Rows to one batch, padded to its longest:

    input_ids (B, T), attention_mask (B, T); labels and shares (B,) if the rows have them.
    """

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.pad([row["input_ids"] for row in rows])
        for key in ("labels", "shares"):
            if rows and key in rows[0]:
                batch[key] = torch.tensor([row[key] for row in rows])
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
        self.ends = _multiple_of(world_size, self._cut(np.sort(lengths), batch_tokens))

    def _cut(self, lengths: np.ndarray, batch_tokens: int) -> list[int]:
        """Ends of the batches that `lengths`, sorted upwards, fall into."""
        return cut_by_tokens(lengths, batch_tokens)

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


class EqualBatches(TokenBatches):
    """As TokenBatches, but of as many texts each, to one: for a loss that compares the texts of a batch.

    A batch of four has little to say to it. As few as hold `batch_tokens` each on average, padding not counted; for
    several processes some are halved.
    """

    def _cut(self, lengths: np.ndarray, batch_tokens: int) -> list[int]:
        batches = min(-(-int(lengths.sum()) // batch_tokens), len(lengths))
        return np.cumsum([len(part) for part in np.array_split(lengths, batches)]).tolist()


class SortedSteps(Sampler[list[int]]):
    """Batches of `batch_size` rows in the order of `sampler`, but for one thing: the rows of an optimizer step, which
    are `accumulated` batches, come sorted by width.

    The loss of a step is a sum over its rows, however they are split, so this changes no step, only how much padding
    it reads. `sampler` is public because accelerate puts its own seeded one in the place of a random one.
    """

    def __init__(self, sampler: Sampler[int], lengths: np.ndarray, batch_size: int, accumulated: int) -> None:
        self.sampler, self.batch_size, self.accumulated = sampler, batch_size, accumulated
        self.widths = widths(np.asarray(lengths))

    def __len__(self) -> int:
        return -(-len(self.widths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(self.sampler)
        while step := list(islice(order, self.batch_size * self.accumulated)):
            rows = sorted(step, key=self.widths.__getitem__)
            yield from (rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size))


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
