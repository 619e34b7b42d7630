"""Texts to probabilities: a Predictor on a run, one text or a whole file.

B texts, T tokens, C labels.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from peft import PeftModel
from scipy.special import softmax
from torch import nn
from transformers import PreTrainedTokenizerBase

from textlora import data, device, engine, meta, metrics, model, runs, shift, submission
from textlora.adapter import AdapterSettings
from textlora.clean import clean
from textlora.errors import DataError, GateError, UsageError
from textlora.longtext import Cut
from textlora.shapes import longest_text
from textlora.submission import Submission, Writer
from textlora.tokens import Collator, Tokens, load_tokenizer, sorted_batches, tokenize

log = logging.getLogger("textlora")
Item = TypeVar("Item")
BATCH_TOKENS = 4096  # of a prediction batch: no gradients to keep, so larger than training's
MOST_SCALE = 2  # of adapters: beyond it nobody looked
DEFAULT_OUTPUT = "inference_output.csv"
NO_LABEL = {"label": "", "label_id": None}  # of a text on which the classifier abstains
FORMATS = ("csv", "kaggle", "jsonl", "parquet")
Scored = tuple[list[str], np.ndarray, Cut]  # texts, their probabilities (B, C), what was cut of them


def logits(network: nn.Module, tokens: Tokens, pad_id: int, batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
    """Logits (B, C) float32 of tokenised texts, in their order; computed in batches of similar length.

    A text in several windows gets the mean of its windows' logits.
    """
    was_training = network.training
    if was_training:  # walking through all modules takes longer than a short text
        network.eval()
    place = next(network.parameters()).device
    collator = Collator(pad_id)
    rows_out, parts = [np.zeros(0, np.int64)], []
    with torch.inference_mode(), device.autocast(network):
        for rows in sorted_batches(tokens.lengths, batch_tokens):
            batch = {key: value.to(place) for key, value in collator.pad([tokens[int(r)] for r in rows]).items()}
            parts.append(network(**batch).logits.float().cpu().numpy())
            rows_out.append(rows)
    if was_training:
        network.train()
    if not parts:
        return np.zeros((0, network.config.num_labels), np.float32)  # type: ignore[union-attr]
    result = np.empty((len(tokens), parts[0].shape[1]), np.float32)
    result[np.concatenate(rows_out)] = np.concatenate(parts)
    return tokens.mean(result)


def pooled(network: PeftModel, tokens: Tokens, pad_id: int) -> np.ndarray:
    """The vectors (N, D) float64 of texts that a head of form `textlora` would be given."""
    with model.headless(network):
        return logits(network, tokens, pad_id).astype(np.float64)


@dataclass(frozen=True)
class Predictor:
    """A trained adapter on its base: raw texts in, labels and probabilities out."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    settings: AdapterSettings
    adapter_scale: float = 1.0  # what was asked of `load`

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the probabilities' columns."""
        return self.settings.labels

    @property
    def rounded(self) -> bool:
        """Whether its matrices are held in fewer bits than fp32, so that a label near a tie may flip."""
        return next(p for p in self.model.parameters() if p.ndim > 1).dtype != torch.float32

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """The tokens that the model sees of `texts`: cleaned, and cut or windowed, as the adapter was trained.

        Raises DataError for a text that is no string.
        """
        for row, text in enumerate(_several(texts)):
            if not isinstance(text, str):
                raise DataError(f"text {row} is a {type(text).__name__}, not a string", "pass strings")
        cleaned = [clean(text, self.settings.cleaning) for text in texts]
        return tokenize(self.tokenizer, cleaned, self.settings.max_length, self.settings.long_text)

    def predict_logits(self, texts: Sequence[str] | Tokens) -> np.ndarray:
        """Logits (B, C) float32, of texts or of what `tokens` made of them."""
        tokens = texts if isinstance(texts, Tokens) else self.tokens(texts)
        return logits(self.model, tokens, pad_id(self.tokenizer))

    def predict_proba(self, texts: Sequence[str] | Tokens) -> np.ndarray:
        """Probabilities (B, C) float64; each row sums to 1."""
        return probabilities(self.predict_logits(texts))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable label's name for each text."""
        return [self.labels[i] for i in self.predict_proba(texts).argmax(1)]

    def classify(
        self, texts: Sequence[str], tokens: Tokens | None = None, abstain_below: float = 0.0
    ) -> list[dict[str, Any]]:
        """For each text: text, label, label_id, probability and the probabilities by label.

        `tokens` are those of the texts, where the caller has them already. A text whose highest probability is under
        `abstain_below` gets the label "" and the label_id None.
        """
        probabilities_BC = self.predict_proba(self.tokens(texts) if tokens is None else tokens)
        return self.results(texts, probabilities_BC, abstain_below)

    def results(
        self, texts: Sequence[str], probabilities_BC: np.ndarray, abstain_below: float = 0.0
    ) -> list[dict[str, Any]]:
        """The same from probabilities that the caller has."""
        metrics.check_abstain_below(abstain_below)
        results = [self._result(text, row) for text, row in zip(texts, probabilities_BC, strict=True)]
        return [one | NO_LABEL if one["probability"] < abstain_below else one for one in results]

    def _result(self, text: str, probabilities_C: np.ndarray) -> dict[str, Any]:
        best = int(probabilities_C.argmax())
        by_label = {label: float(p) for label, p in zip(self.labels, probabilities_C, strict=True)}
        return {
            "text": text,
            "label": self.labels[best],
            "label_id": best,
            "probability": by_label[self.labels[best]],
            "probabilities": by_label,
        }


def probabilities(logits_BC: np.ndarray) -> np.ndarray:
    """Logits' probabilities (B, C) float64; each row sums to 1."""
    return softmax(logits_BC.astype(np.float64), axis=1)


def _several(texts: Sequence[str]) -> Sequence[str]:
    """One string would pass as a sequence of its characters."""
    if isinstance(texts, str):
        raise DataError("expected a list of texts, got one string", "put it in a list: [text]")
    return texts


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Its padding token, 0 where it has none."""
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0


def load(
    run: str | Path,
    *,
    base_weights: str = "",
    tokenizer: str = "",
    allow_other_base: bool = False,
    precision: str = "auto",
    precise: bool = False,
    adapter_scale: float = 1.0,
) -> Predictor:
    """The Predictor of a run folder or of a bare adapter folder.

    Adapters are merged into the base in fp32, rounded once to what `precision` says, and run on the engine where it
    covers them. `precise` is the reference instead: PEFT's own model in fp32, on Hugging Face's modules.
    `adapter_scale` multiplies what the adapters add to the base, before that rounding: 1 as trained, 0 the base alone
    under the trained head; up to 2.
    Raises UsageError if `run` is neither or its base's weights are others, DamagedError if its files don't fit.
    """
    if not 0 <= adapter_scale <= MOST_SCALE:
        fix = "1 is as trained, 0 leaves the adapters out"
        raise UsageError(f"--adapter-scale must be from 0 to {MOST_SCALE}, got {adapter_scale:g}", fix)
    if precise and precision not in ("auto", "fp32"):
        raise UsageError(f"precise is fp32, precision says {precision}", "give one of the two")
    loaded = model.load(
        runs.adapter_folder(run),
        base_weights=base_weights,
        tokenizer=tokenizer,
        allow_other_base=allow_other_base,
        dtype=torch.float32,
    )
    if adapter_scale != 1:
        model.scale_adapters(loaded.model, adapter_scale)
    network: nn.Module = loaded.model
    if not precise:
        network = model.merged(loaded.model, device.compute_dtype(precision))
        engine.use(network, "auto", log.debug)
    return Predictor(network, load_tokenizer(loaded.tokenizer_folder), loaded.settings, adapter_scale)


def classify(model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The name of `text`'s label, as the first seed's `classify(model, tokenizer, text)` gives it.

    Takes any sequence classifier whose config carries id2label, textlora's own included; long texts are cut at the
    base's limit. A run's cleaning steps belong to the run: `textlora.load(run).predict([text])` applies them.
    """
    config: Any = model.config
    longest = longest_text(config.model_type, meta.positions(config))
    tokens = tokenize(tokenizer, [text], longest)
    best = int(logits(model, tokens, pad_id(tokenizer)).argmax())
    return config.id2label[best]


# ------------------------------------------------------------------------------------------------------ whole files


def predict_file(
    predictor: Predictor,
    source: str,
    output: str | Path = DEFAULT_OUTPUT,
    *,
    format: str = "",
    text_column: Sequence[str] = (),
    sample_submission: str | Path = "",
    trained_shares: Sequence[float] | None = None,
    abstain_below: float = 0.0,
    overwrite: bool = False,
    say: Callable[[str], None] = log.info,
) -> int:
    """Predict every row of a file into `output`, in order, in constant memory; returns the number of rows.

    With a competition's `sample_submission` the file is in its format (see textlora.submission). With the labels'
    `trained_shares` (C,), other shares in this file are found and allowed for (textlora.shift): it is read twice then,
    and its probabilities are held in memory. Rows whose highest probability is under `abstain_below` get no label, but
    not in a competition's formats, which take none. `say` receives lines for people, of texts that are too long. The
    file appears whole or not at all. Raises UsageError if it exists (unless `overwrite`) or the format is unknown.
    """
    path = Path(output)
    if sample_submission and format:
        raise UsageError("--format and --sample-submission both name a format", "leave out --format")
    format = format or path.suffix.removeprefix(".")
    if format not in FORMATS and not sample_submission:
        known = ", ".join(FORMATS)
        raise UsageError(f"there is no format {format or path.name!r}", f"choose one of {known} with --format")
    metrics.check_abstain_below(abstain_below)
    if abstain_below and (sample_submission or format == "kaggle"):
        raise UsageError("a competition takes a label for every row", "leave out --abstain-below, or use csv or jsonl")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists", "choose another --output, or replace it with --overwrite")
    columns = {"text_column": text_column, "usual": predictor.settings.text_columns}
    if sample_submission:
        writer = _like(sample_submission, predictor.labels, path, source, columns, say)
    else:
        writer = WRITERS[format](path, predictor.labels)
        for note in submission.ids_notes(source):
            say(note)
    read = written = abstained = 0
    cut = predictor.tokens([]).cut
    with writer as write:
        scored = _scored(predictor, source, columns)
        if trained_shares is not None:
            scored = _shifted(scored, trained_shares, predictor.labels, lambda: data.read_texts(source, **columns), say)
        for texts, probabilities_BC, chunk_cut in scored:
            read += len(texts)
            cut += chunk_cut
            results = predictor.results(texts, probabilities_BC, abstain_below)
            abstained += sum(one["label_id"] is None for one in results)
            written += write(written, results)
        if not read:
            raise DataError(f"{source} has columns but no rows", "give a file with rows")
    if written != read:
        raise GateError(f"{read} texts were read but {written} rows written to {path}", "report this")
    say(cut.line())
    if abstain_below:
        say(f"{abstained:,} of {written:,} rows got no label: their probability is below {abstain_below:g}")
    return written


def _scored(predictor: Predictor, source: str, columns: dict[str, Sequence[str]]) -> Iterator[Scored]:
    chunks = data.read_texts(source, **columns)
    for texts, tokens in ahead((texts, predictor.tokens(texts)) for texts in chunks):
        yield texts, predictor.predict_proba(tokens), tokens.cut


def _shifted(
    scored: Iterable[Scored],
    trained_shares: Sequence[float],
    labels: Sequence[str],
    again: Callable[[], Iterable[list[str]]],
    say: Callable[[str], None],
) -> Iterator[Scored]:
    """The same with the whole file's label shift allowed for; the texts are read `again` rather than held."""
    kept = [(probabilities_BC, cut) for _, probabilities_BC, cut in scored]
    if not kept:
        return
    corrected, found = shift.correct(np.concatenate([p for p, _ in kept]), trained_shares)
    say(found.line(labels))
    parts = np.split(corrected, np.cumsum([len(p) for p, _ in kept])[:-1])
    for texts, part, (_, cut) in zip(again(), parts, kept, strict=True):
        yield texts, part, cut


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, or the same error, each made in a thread while the one before is worked on."""
    each = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(lambda: list(islice(each, 1)))
        while found := coming.result():
            coming = thread.submit(lambda: list(islice(each, 1)))
            yield found[0]


def _like(
    sample: str | Path,
    labels: Sequence[str],
    path: Path,
    source: str,
    columns: dict[str, Sequence[str]],
    say: Callable[[str], None],
) -> AbstractContextManager[Writer]:
    """A writer of a competition's format, once sample, labels and input rows are known to go together."""
    submission = Submission.read(sample, labels)
    order = submission.order(source, **columns)
    say(submission.line(labels))
    return submission.writer(path, order)


@contextmanager
def _csv_rows(
    path: Path, header: Sequence[str], row_of: Callable[[int, dict[str, Any]], Sequence[Any]]
) -> Iterator[Writer]:
    with runs.replacing(path, newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(header)

        def write(first: int, results: list[dict[str, Any]]) -> int:
            out.writerows(row_of(first + i, result) for i, result in enumerate(results))
            return len(results)

        yield write


def _write_kaggle(path: Path, labels: Sequence[str]) -> AbstractContextManager[Writer]:
    return _csv_rows(path, ("ID", "Label"), lambda i, result: (i, result["label_id"]))


def _write_csv(path: Path, labels: Sequence[str]) -> AbstractContextManager[Writer]:
    columns = ("id", "label", "label_id", "probability")
    return _csv_rows(path, columns, lambda i, r: (i, r["label"], r["label_id"], round(r["probability"], 6)))


@contextmanager
def _write_jsonl(path: Path, labels: Sequence[str]) -> Iterator[Writer]:
    with runs.replacing(path) as file:

        def write(first: int, results: list[dict[str, Any]]) -> int:
            for i, result in enumerate(results):
                without_text = {key: value for key, value in result.items() if key != "text"}
                file.write(json.dumps({"id": first + i, **without_text}, ensure_ascii=False) + "\n")
            return len(results)

        yield write


@contextmanager
def _write_parquet(path: Path, labels: Sequence[str]) -> Iterator[Writer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": pa.int64(), "label": pa.string(), "label_id": pa.int64(), "probability": pa.float64()}
    schema = pa.schema(columns)
    whole = path.with_name(f".{path.name}-partial")
    with runs.storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pq.ParquetWriter(whole, schema) as out:

                def write(first: int, results: list[dict[str, Any]]) -> int:
                    rows = [
                        {"id": first + i, **{key: r[key] for key in columns if key != "id"}}
                        for i, r in enumerate(results)
                    ]
                    out.write_table(pa.Table.from_pylist(rows, schema))
                    return len(results)

                yield write
            whole.replace(path)
        finally:
            whole.unlink(missing_ok=True)


WRITERS: dict[str, Callable[[Path, Sequence[str]], AbstractContextManager[Writer]]] = {
    "csv": _write_csv,
    "kaggle": _write_kaggle,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
