"""The saved adapter belongs to everybody: the model card's lines give its logits where textlora can't be imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, OTHERS
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from textlora import predict
from textlora.adapter import WEIGHTS
from textlora.errors import UsageError
from textlora.tokens import load_tokenizer

HEADS = [
    ("full", "cls", {}),
    ("linear", "cls", {}),
    ("linear", "mean", {"use_dora": True, "use_rslora": True}),
    ("low-rank", "mean", {"head_rank": 2}),  # D -> 2 -> 4 labels
    ("linear", "mean", {"bag_of_tokens": True}),
    ("linear", "cls", {"memory": 150}),
    ("low-rank", "cls", {}),  # D -> 8 -> D, tanh, D -> 4
]
EVERYWHERE = (HEADS[0], HEADS[2])  # one of each storage form; the other heads don't know their family
CARDS = [(family, *head) for family in FAMILIES for head in (HEADS if family == "bert" else EVERYWHERE)]
CARDS += [(family, head, pooling, {}) for family in OTHERS for head, pooling in (("full", "cls"), ("linear", "mean"))]
CARDS += [
    ("bert", "linear", "mean", {"long_text": "head-tail"}),
    ("bert", "linear", "cls", {"long_text": "window-mean"}),
    ("roberta", "full", "cls", {"long_text": "window-mean"}),
]

# Runs the code block of the card with the base's hub id mapped to a local folder, textlora blocked.
PROCESS = """
import json, re, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "textlora":
            raise ImportError("textlora is blocked here")
sys.meta_path.insert(0, Block())
run, base, texts_file = sys.argv[1:]
texts = json.load(open(texts_file))
card = open(f"{run}/adapter/README.md", encoding="utf-8").read()
code = "\\n".join(re.findall(r"```python\\n(.*?)```", card, re.S))
code = code.replace('"adapter"', f'"{run}/adapter"')
code = re.sub(r'from_pretrained\\("[^"]+/[^"]+"', f'from_pretrained("{base}"', code)
exec(code)
print(json.dumps({"logits": logits.tolist(), "results": globals().get("results")}))
"""


def card_says(run: Path, base: Path, texts: list[str], tmp_path: Path) -> dict[str, Any]:
    """What the card's lines compute: `logits`, and `results` of a pipeline if they make one."""
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(texts))
    command = [sys.executable, "-W", "ignore", "-c", PROCESS, str(run), str(base), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def stirred(run: Path, folder: Path) -> Path:
    """A copy of the run's adapter with noise in every tensor: tiny random bases say little about the text otherwise."""
    shutil.copytree(run / "adapter", folder / "adapter")
    file = folder / "adapter" / WEIGHTS
    rng = torch.Generator().manual_seed(0)
    tensors = {
        name: t + 0.3 * torch.randn(t.shape, generator=rng) if t.is_floating_point() else t
        for name, t in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head", "pooling", "variant"), CARDS)
def test_the_cards_lines_give_the_same_logits_without_textlora(
    family, head, pooling, variant, trained, tiny_base, texts, tmp_path
):
    some = [*texts[:20], *(text[:40] for text in texts[20:24])]  # most are longer than 48 tokens, some aren't
    run = stirred(trained(family, head=head, pooling=pooling, **variant), tmp_path / "run")
    predictor = predict.load(run, base_weights=str(tiny_base(family)), precision="fp32")
    ours = predictor.predict_logits(some)
    theirs = card_says(run, tiny_base(family), some, tmp_path)
    np.testing.assert_allclose(ours, theirs["logits"], rtol=0, atol=1e-4)
    assert np.ptp(ours, axis=0).min() > 1e-2  # the texts differ, so equality says something
    if head == "full" and not variant:
        assert_same_as_pipeline(predictor.classify(some), theirs["results"])


def assert_same_as_pipeline(ours: list[dict[str, Any]], theirs: list[list[dict[str, Any]]]) -> None:
    """transformers' pipeline names our labels and gives them our probabilities."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert other[0]["label"] == one["label"]
        scores = {result["label"]: result["score"] for result in other}
        assert scores == pytest.approx(one["probabilities"], abs=1e-4)


def test_the_card_is_ten_lines_and_names_the_hub(trained):
    card = (trained("bert") / "adapter" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].strip().splitlines()
    assert len([line for line in code if line.strip()]) <= 12
    assert 'from_pretrained("google-bert/bert-base-uncased")' in card
    assert "base_model_relation: adapter" in card


def test_pefts_own_loader_reads_the_adapter_and_merges_to_the_same_logits(trained, tiny_base, texts):
    run = trained("roberta", head="full", pooling="cls")
    base = AutoModelForSequenceClassification.from_pretrained(tiny_base("roberta"), num_labels=4)
    merged = PeftModel.from_pretrained(base, str(run / "adapter")).merge_and_unload().eval()
    tokenizer = load_tokenizer(run / "adapter")
    batch = tokenizer(texts[:8], padding=True, truncation=True, max_length=48, return_tensors="pt")
    with torch.inference_mode():
        theirs = merged(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    predictor = predict.load(run, base_weights=str(tiny_base("roberta")), precision="fp32")
    np.testing.assert_allclose(predictor.predict_logits(texts[:8]), theirs, rtol=0, atol=1e-4)


def test_a_foreign_adapter_is_read_and_checked_by_shapes(trained, tiny_base, tmp_path, texts):
    run = trained("roberta", head="full", pooling="cls")
    foreign = tmp_path / "adapter"
    shutil.copytree(run / "adapter", foreign)
    (foreign / "textlora.json").unlink()
    base = str(tiny_base("roberta"))
    theirs = predict.load(foreign, base_weights=base, precision="fp32")
    ours = predict.load(run, base_weights=base, precision="fp32")
    assert theirs.labels == ("0", "1", "2", "3")
    short = [text[:40] for text in texts[:4]]  # a foreign adapter doesn't say where its texts were cut
    np.testing.assert_array_equal(theirs.predict_logits(short), ours.predict_logits(short))


def test_an_adapter_that_is_no_classifier_is_refused(trained, tiny_base, tmp_path):
    foreign = tmp_path / "adapter"
    shutil.copytree(trained("bert") / "adapter", foreign)
    (foreign / "textlora.json").unlink()
    with pytest.raises(UsageError, match="FEATURE_EXTRACTION adapter"):
        predict.load(foreign, base_weights=str(tiny_base("bert")))
