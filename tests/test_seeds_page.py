"""docs/seeds.md keeps its word: every command on it runs, in its order, on a tiny RoBERTa and a few mini-news rows."""

from __future__ import annotations

import csv
import pickle
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, SHARED, TINY, corpus_rows, make_tokenizer

from textlora import cli

PAGE = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`(textlora [^`]+)`", PAGE)
PEER = SHARED / "data" / "peer_adapter"
ROWS = {"train": 48, "validation": 40, "test": 16}

# In place of the recipes' hours, for whatever a command doesn't say itself.
SHORT = {"--max-steps": "2", "--eval-steps": "1", "--logging-steps": "1", "--train-sample-size": "8"}
SHORT |= {"--per-device-train-batch-size": "4", "--gradient-accumulation-steps": "1", "--precision": "fp32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of 12 thin layers: the second seed's recipe names layers 0, 5 and 10."""
    from transformers import AutoConfig, AutoModel

    folder = tmp_path_factory.mktemp("base")
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    sizes = TINY | special | {"num_hidden_layers": 12}
    AutoModel.from_config(AutoConfig.for_model("roberta", **sizes)).save_pretrained(folder)
    make_tokenizer("roberta", folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's reader would stand: every file that its commands read."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "ag_news").mkdir()
    for split, count in ROWS.items():
        rows = corpus_rows(split)
        chosen = [{"text": row["text"], "label": row["label"]} for row in rows[:: len(rows) // count][:count]]
        for file in (folder / "ag_news" / f"{split}.csv", folder / f"{split}.csv", folder / "new.csv"):
            with file.open("w", newline="", encoding="utf-8") as out:
                writer = csv.DictWriter(out, ["text", "label"])
                writer.writeheader()
                writer.writerows(chosen)
    (folder / "test_unlabelled.pkl").write_bytes(pickle.dumps([row["text"] for row in corpus_rows("test")[:20]]))
    return folder


def here(command: str, base: Path) -> list[str]:
    """The command's words, for a tiny base and a short run."""
    words = shlex.split(command)[1:]
    words = ["./ag_news" if word == "ag_news" else word for word in words]
    if words[0] not in ("plan", "inspect"):
        words += ["--base-weights", str(base)]
    if words[0] == "train":
        words += [part for flag, value in SHORT.items() if flag not in words for part in (flag, value)]
    if words[0] == "tune":  # its trials are as short as the space says, so the space is a shorter one
        shipped = (ROOT / "src" / "textlora" / "spaces" / "roberta-qv-r10.toml").read_text(encoding="utf-8")
        short = base / "space.toml"
        short.write_text(
            shipped.replace("max_steps = 200", "max_steps = 2").replace("eval_steps = 50", "eval_steps = 1")
        )
        words[words.index("roberta-qv-r10")] = str(short)
        words += [
            "--trials",
            "2",
            "--confirm-seeds",
            "1",
            "--max-steps",
            "2",
            "--eval-steps",
            "1",
            "--precision",
            "fp32",
        ]
    return words


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 15


@pytest.mark.slow
def test_every_command_on_the_page_runs(base, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    left_out = []
    for command in COMMANDS:
        words = here(command, base)
        if "models/best_model" in words:
            if not PEER.is_dir():
                left_out.append(command)
                continue
            words[words.index("models/best_model")] = str(PEER)
        code = cli.main(words)
        printed = capsys.readouterr()
        assert code == 0, f"{command}\n{printed.err[-2000:]}"
    if left_out:
        print(f"not run, {PEER} isn't here: {left_out}")
    assert len((place / "inference_output.csv").read_text().splitlines()) == 1 + 20
