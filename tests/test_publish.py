"""An adapter on the hub: whole, with a card and a page that name no text and no folder; refusals in a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard, constants
from stub_hub import TOKEN, Repo, StubHub

from textlora import cli, publish, runs
from textlora.errors import DamagedError, ResourceError, UsageError


@pytest.fixture
def served(monkeypatch):
    with StubHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained("bert"), tmp_path / "run")
    return tmp_path / "run"


def test_the_adapter_arrives_whole(run, served, capsys, tmp_path):
    page = ["--out", str(tmp_path / "page.html")]
    assert cli.main(["report", str(run), "--push-to-hub", "stub/mine", "--json", *page]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == f"{served.url}/stub/mine"
    files = served.repos["models", "stub/mine"].files
    assert set(files) == {path.name for path in (run / "adapter").iterdir()} | {"report.html"}
    for name in set(files) - {"README.md", "report.html"}:
        assert files[name] == (run / "adapter" / name).read_bytes()
    card = files["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "stub/mine")' in card
    assert ModelCard(card).data.eval_results
    html = files["report.html"].decode()
    report = runs.read_json(run / "evaluation/report.json")["splits"]["validation"]
    assert not any(mistake["text"][:30] in html for mistake in report["confident_mistakes"])
    assert str(run) not in card + html
    assert not served.private
    publish.publish(run, "stub/mine")  # again: the repository is there


def test_a_private_repository_is_made_private(run, served):
    publish.publish(run, "stub/secret", private=True)
    assert served.private == {"stub/secret"}


@pytest.mark.parametrize(
    ("repo", "token", "error", "words"),
    [
        ("other/mine", TOKEN, ResourceError, r"refuses the repository other/mine \(403\)"),
        ("stub/mine", "hf_wrong", ResourceError, r"refuses the repository stub/mine \(401\)"),
        ("stub/mine", "", ResourceError, "no token"),
        ("no name", TOKEN, UsageError, "owner/name"),
        ("stub/gone", TOKEN, ResourceError, r"fault \(503\), so the repository stub/gone can't be written"),
    ],
)
def test_refusals_are_a_sentence(repo, token, error, words, run, served, monkeypatch, tmp_path):
    served.repos["models", "stub/gone"] = Repo({}, scenario="fault")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(error, match=words):
        publish.publish(run, repo)


def test_without_a_network_it_says_so(run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ResourceError, match="stub/mine can't be written"):
        publish.publish(run, "stub/mine")


def test_what_nobody_could_use_isnt_published(run, served):
    config = (run / "config.toml").read_text(encoding="utf-8")
    lines = [
        line if not line.startswith("base_weights") else 'base_weights = "random:0"' for line in config.split("\n")
    ]
    (run / "config.toml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UsageError, match="random weights"):
        publish.publish(run, "stub/mine")
    assert not served.asked


def test_a_damaged_adapter_isnt_published(run, served):
    weights = run / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError):
        publish.publish(run, "stub/mine")
    assert not served.asked
