"""The adapter's README.md: what it is, how it was judged, and how to use it without textlora."""

from __future__ import annotations

import json
from typing import Any

from textlora import bases, heads
from textlora.budget import Plan
from textlora.config import Config
from textlora.data.hub import named
from textlora.longtext import HEAD_TAIL, SHARE, TRUNCATE, WINDOW_MEAN, Frame, head_of

PATHS = ("data", "base_weights", "tokenizer")  # of the machine that trained: nobody's business in a published card
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
        made, said = _bag(plan)
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


def _trained_on(config: Config) -> str:
    """The card's line on data of the hub; a file of the machine that trained is nobody's business."""
    name = named(config.data) if config.data_revision else None
    return f"datasets: [{name[0]}]\n" if name else ""


def model_card(
    config: Config, plan: Plan, labels: tuple[str, ...], hidden_size: int, frame: Frame, report: dict[str, Any]
) -> str:
    """Markdown with the hub's metadata. `report` is the validation report's dictionary."""
    low, high = report["accuracy_ci"]
    settings = {key: value for key, value in config.to_dict().items() if key not in PATHS}
    cleaned = (
        f"Texts are cleaned first ({', '.join(config.cleaning)}); `textlora` does that for you.\n\n"
        if config.cleaning
        else ""
    )
    return f"""---
library_name: peft
base_model: {bases.find(config.base).hub_id}
base_model_relation: adapter
{_trained_on(config)}pipeline_tag: text-classification
tags: [lora, peft, text-classification, textlora]
---

# A LoRA text classifier

{plan.trainable:,} trained parameters ({plan.trainable_percent} % of {plan.total:,}; budget {plan.budget:,}):
adapters {plan.adapters:,}, head {plan.head:,}, bag of tokens {plan.bag_of_tokens:,}, biases {plan.biases:,}.

Labels: {", ".join(f"{i} {label}" for i, label in enumerate(labels))}

Accuracy on {report["n"]} validation rows: {report["accuracy"]:.4f} (95 % interval {low:.4f} to {high:.4f}),
macro F1 {report["f1_macro"]:.4f}. The adapter was chosen on these rows; test figures are in the run's
evaluation/report.json.

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
