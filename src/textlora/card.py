"""The adapter's README.md: what it is, how it was judged, and how to use it without textlora."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError  # huggingface_hub reads the metadata with it

from textlora import bases, heads
from textlora.budget import Plan
from textlora.config import Config
from textlora.counts import BITS, memory_width, memory_words
from textlora.data.hub import named
from textlora.longtext import HEAD_TAIL, SHARE, TRUNCATE, WINDOW_MEAN, Frame, head_of
from textlora.memory import DOUBT

PATHS = ("data", "base_weights", "tokenizer")  # of the machine that trained: nobody's business in a published card
FIGURES = (
    "<!-- figures -->",
    "<!-- end of figures -->",
)  # between them is rewritten, the rest of a card is its owner's
LANGUAGES = {"mini-news": "en"}  # of data whose language is known
POOLED = {
    "mean": 'mask = batch["attention_mask"][..., None]\npooled = (hidden * mask).sum(1) / mask.sum(1)',
    "cls": "pooled = hidden[:, 0]",
}
LONG = {
    TRUNCATE: "Texts are cut at {} tokens.",
    HEAD_TAIL: "Texts of more than {} tokens are cut in the middle: their head and tail are read.",
    WINDOW_MEAN: "Texts of more than {} tokens are read in windows that overlap; their logits are the windows' mean.",
}


def usage(config: Config, plan: Plan, hidden_size: int, frame: Frame) -> str:
    """About ten lines of plain PEFT and torch that give this adapter's logits for `texts`; a test runs them."""
    revision = f', revision="{config.base_revision}"' if config.base_revision else ""
    base = f'"{bases.find(config.base).hub_id}"{revision}'
    num_labels = plan.num_labels
    tokens = _batch_lines(config, frame)
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("adapter")'
    adapter = 'model = PeftModel.from_pretrained(base, "adapter").eval()'
    if config.head == "full":
        lines = [
            "from peft import PeftModel",
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
            "",
            f"base = AutoModelForSequenceClassification.from_pretrained({base}, num_labels={num_labels})",
            *(adapter, tokenizer, *tokens),
            "logits = model(**batch).logits",
        ]
    else:
        row = heads.layers(config.head, hidden_size, num_labels, config.head_rank)
        beside = (_bag(plan), _memory(config, plan))
        made, said = ([line for voice in beside for line in voice[i]] for i in (0, 1))
        lines = [
            "import torch",
            "from peft import PeftModel",
            "from transformers import AutoModel, AutoTokenizer",
            "",
            f"base = AutoModel.from_pretrained({base})",
            f"base.classifier = {heads.source(row)}",
            *made,
            *(adapter, tokenizer, *tokens),
            "hidden = model(**batch).last_hidden_state",
            *(POOLED[config.pooling], "logits = model.classifier(pooled)", *said),
        ]
    if config.long_text == WINDOW_MEAN:
        lines.append("logits = torch.stack([part.mean(0) for part in logits.split(counts)])")
        lines = lines if "import torch" in lines else ["import torch", *lines]
    return "\n".join(lines)


def _bag(plan: Plan) -> tuple[list[str], list[str]]:
    """The lines that make a bag of tokens, and those that add what it says; none without one."""
    if not plan.bag_of_tokens:
        return [], []
    vocab_size = plan.bag_of_tokens // plan.num_labels
    return [f"base.bag_of_tokens = torch.nn.Embedding({vocab_size}, {plan.num_labels})"], [
        'mask = batch["attention_mask"][..., None]',
        'logits += (model.bag_of_tokens(batch["input_ids"]) * mask).sum(1) / mask.sum(1).sqrt()',
    ]


def _memory(config: Config, plan: Plan) -> tuple[list[str], list[str]]:
    """The lines that make a memory, and those that add what it says (memory.py); none without one."""
    if not plan.memory:
        return [], []
    width = memory_width(bases.shapes(bases.find(config.base), config.base_weights))
    rows, labels = f"{plan.memory_rows}, {memory_words(width)}", plan.num_labels
    made = {
        "codes": f"torch.zeros({rows}, dtype=torch.int32)",
        "counts": f"torch.zeros({labels}, dtype=torch.int32)",
        "mean": f"torch.zeros({width})",
        "weights": "torch.zeros(2)",
    }
    return [
        "base.memory = torch.nn.Module()",
        *(f'base.memory.register_buffer("{name}", {empty})' for name, empty in made.items()),
    ], [
        f"signs = (model.memory.codes[..., None] >> torch.arange({BITS}) & 1).flatten(1)[:, :{width}].float() * 2 - 1",
        f"whose = torch.eye({labels})[torch.repeat_interleave(model.memory.counts.long())]",
        'mask = batch["attention_mask"][..., None]',
        'vectors = (model.embeddings(batch["input_ids"]) * mask).sum(1) / mask.sum(1) - model.memory.mean',
        "cosine = torch.nn.functional.normalize(vectors) @ signs.T / signs.shape[1] ** 0.5",
        "found = (model.memory.weights[0] * cosine).softmax(1) @ whose",
        f"logits += model.memory.weights[1] * ({1 - DOUBT:g} * found + {DOUBT:g} / {labels}).log()",
    ]


def _remembers(plan: Plan) -> str:
    """What a card must say of a memory: an adapter is published, its training texts may not be."""
    if not plan.memory:
        return ""
    return (
        f"It remembers {plan.memory_rows:,} training texts, each by one bit for each feature of its mean embedding. "
        "Whoever has a text can find out whether it was among them.\n\n"
    )


def _batch_lines(config: Config, frame: Frame) -> list[str]:
    """Lines that make `batch` of `texts`: what `longtext` does with long ones, in plain Python."""
    longest, room = config.max_length, frame.room(config.max_length)
    padded = 'batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")'
    if config.long_text == HEAD_TAIL:
        head = frame.before + head_of(room)
        cut = f"ids[:{head}] + ids[-{longest - head}:]"
        return [f'rows = [ids if len(ids) <= {longest} else {cut} for ids in tokenizer(texts)["input_ids"]]', padded]
    if config.long_text == WINDOW_MEAN:
        first, end = f"ids[:{frame.before}]", f"len(ids) - {frame.after}"
        return [
            f"rows, counts = [], []  # windows of {longest} tokens",
            'for ids in tokenizer(texts)["input_ids"]:',
            f"    content, last = ids[{frame.before}:{end}], max(0, len(ids) - {longest})",
            f"    steps = -(-last // {room - room // SHARE})",
            "    starts = [last * i // max(1, steps) for i in range(steps + 1)]",
            f"    rows += [{first} + content[s : s + {room}] + ids[{end}:] for s in starts]",
            "    counts.append(len(starts))",
            padded,
        ]
    return [f'batch = tokenizer(texts, padding=True, truncation=True, max_length={longest}, return_tensors="pt")']


def _pipeline(config: Config, labels: tuple[str, ...]) -> str:
    """Where the head is the base's own, transformers' pipeline takes the model: after the lines of `usage`."""
    if config.head != "full" or config.long_text != TRUNCATE:
        return ""
    names = dict(enumerate(labels))
    return f"""Or in a pipeline, after the lines that make `model` and `tokenizer`:

```python
from transformers import pipeline

model.config.id2label = {names!r}
classify = pipeline("text-classification", model=model.merge_and_unload(), tokenizer=tokenizer)
results = classify(texts, truncation=True, max_length={config.max_length}, top_k=None)
```

"""


def metadata(config: Config, splits: Mapping[str, dict[str, Any]]) -> ModelCardData:
    """What the hub reads of a card. No license: that is for whoever publishes the adapter to say."""
    hub_data = named(config.data) if config.data_revision else None
    return ModelCardData(
        library_name="peft",
        base_model=bases.find(config.base).hub_id,
        base_model_relation="adapter",
        datasets=[hub_data[0]] if hub_data else None,
        language=LANGUAGES.get(config.data),
        pipeline_tag="text-classification",
        tags=["lora", "peft", "text-classification", "textlora"],
        metrics=["accuracy", "f1"],
        model_name=f"{config.base.rpartition('/')[2]} on {source(next(iter(splits.values()))['data'])[1]}",
        eval_results=_results(splits),
    )


def _results(splits: Mapping[str, dict[str, Any]]) -> list[EvalResult]:
    """The model-index: accuracy and macro F1 of every split that was judged."""
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=source(report["data"])[0],
            dataset_name=source(report["data"])[1],
            dataset_split=split,
            **figure,
        )
        for split, report in splits.items()
        for figure in (
            {"metric_type": "accuracy", "metric_value": report["accuracy"], "metric_name": "Accuracy"},
            {
                "metric_type": "f1",
                "metric_value": report["f1_macro"],
                "metric_name": "Macro F1",
                "metric_args": {"average": "macro"},
            },
        )
    ]


def source(data: str) -> tuple[str, str]:
    """The hub's id of some data (`unknown` if it has none) and a name without folders of this machine."""
    hub_data = None if Path(data).exists() else named(data)
    return (hub_data[0], hub_data[0]) if hub_data else ("unknown", Path(data).name)


def _figures(splits: Mapping[str, dict[str, Any]]) -> str:
    """A table of the same figures for people, between the marks that `with_figures` looks for."""
    rows = [
        f"| {split} | {report['n']:,} | {report['accuracy']:.4f} | {report['accuracy_ci'][0]:.4f} to "
        f"{report['accuracy_ci'][1]:.4f} | {report['f1_macro']:.4f} |"
        for split, report in splits.items()
    ]
    table = ["| split | rows | accuracy | 95 % interval | macro F1 |", "|---|---|---|---|---|", *rows]
    chosen = "Figures of validation rows that the adapter was chosen on read a little high."
    reads = (splits.get("test") or {}).get("test_reads")
    more = f" The test rows were read {'once' if reads == 1 else f'{reads} times'}." if reads else ""
    return "\n".join([FIGURES[0], *table, "", chosen + more, FIGURES[1]])


def with_figures(text: str, splits: Mapping[str, dict[str, Any]]) -> str:
    """A card's Markdown with the figures of `splits`, all else kept as its owner may have changed it.

    A card without metadata, or with metadata that can't be read, is its owner's altogether and comes back unchanged.
    """
    if not text.startswith("---"):
        return text
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except (YAMLError, ValueError):
        return text
    data: Any = card.data
    data.model_name = data.model_name or "adapter"
    data.eval_results = _results(splits)
    between = re.compile(f"{re.escape(FIGURES[0])}.*?{re.escape(FIGURES[1])}", re.DOTALL)
    card.text = between.sub(lambda _: _figures(splits), card.text, count=1)
    return str(card)


def model_card(
    config: Config,
    plan: Plan,
    labels: tuple[str, ...],
    hidden_size: int,
    frame: Frame,
    report: dict[str, Any],
    refitted: bool = False,
) -> str:
    """Markdown with the hub's metadata. `report` is the validation report's dictionary.

    `refitted`: the adapter was trained once more after it, on these rows too.
    """
    after = "\nAfter that it was trained once more, on the validation rows too.\n" if refitted else ""
    splits = {report["split"]: report}
    settings = {key: value for key, value in config.to_dict().items() if key not in PATHS}
    cleaned = (
        f"Texts are cleaned first ({', '.join(config.cleaning)}); `textlora` does that for you.\n\n"
        if config.cleaning
        else ""
    )
    return f"""---
{metadata(config, splits).to_yaml()}
---

# A LoRA text classifier

{plan.trainable:,} trained parameters ({plan.trainable_percent} % of {plan.total:,}; budget {plan.budget:,}):
adapters {plan.adapters:,}, head {plan.head:,}, bag of tokens {plan.bag_of_tokens:,}, biases {plan.biases:,},
memory {plan.memory:,}.

{_remembers(plan)}Labels: {", ".join(f"{i} {label}" for i, label in enumerate(labels))}

{_figures(splits)}
{after}
## Use

    textlora classify RUN "your text" --precise

Without textlora, in fp32, in the folder above this one, with `texts` a list of strings:

```python
{usage(config, plan, hidden_size, frame)}
```

{_pipeline(config, labels)}{cleaned}{LONG[config.long_text].format(config.max_length)}

Settings of the run:

```json
{json.dumps(settings, indent=1, ensure_ascii=False)}
```
"""
