"""An adapter on the hub: whole, with a card and a page that name no text and no folder; refusals in a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from stub_hub import READER, TOKEN, Repo, StubHub

from textlora import cli, publish, runs
from textlora.errors import DamagedError, DataError, ResourceError, UsageError


@pytest.fixture
def served(monkeypatch):
    with StubHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its client isn't one of HTTP alone
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
    assert files["adapter_model.safetensors"] in served.stored.values()
    card = files["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "stub/mine")' in card
    assert served.cards == [card]  # what the hub checks is what arrives
    html = files["report.html"].decode()
    report = runs.read_json(run / "evaluation/report.json")["splits"]["validation"]
    assert not any(mistake["text"][:30] in html for mistake in report["confident_mistakes"])
    assert str(run) not in card + html
    assert not served.private
    publish.publish(run, "stub/mine")  # again: the repository is there


def test_a_private_repository_is_made_private_and_a_public_one_never_taken_for_one(run, served, capsys, tmp_path):
    publish.publish(run, "stub/secret", private=True)
    assert served.private == {"stub/secret"}
    publish.publish(run, "stub/secret", private=True)
    publish.publish(run, "stub/secret")  # it stays as it is
    served.repos["models", "stub/known"] = Repo({"theirs": b"1"})
    page = tmp_path / "page.html"
    command = ["report", str(run), "--push-to-hub", "stub/known", "--private", "--json", "--out", str(page)]
    assert cli.main(command) == 2
    assert "stub/known exists and is public" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert set(served.repos["models", "stub/known"].files) == {"theirs"}
    assert not page.exists()  # asked first


def test_a_repository_that_becomes_public_meanwhile_gets_nothing(run, served, monkeypatch):
    """As when somebody else makes it between our first question and `create_repo`, which then changes nothing."""
    files = publish._files

    def meanwhile(*args):
        served.repos["models", "stub/late"] = Repo({})
        return files(*args)

    monkeypatch.setattr(publish, "_files", meanwhile)
    with pytest.raises(UsageError, match="stub/late exists and is public"):
        publish.publish(run, "stub/late", private=True)
    assert not served.repos["models", "stub/late"].files


def test_a_card_that_the_hub_refuses_is_a_sentence_and_what_it_warns_of_is_said(run, served):
    served.card_errors = ['"license" must be one of [apache-2.0, mit]', '"model-index" is wrong']
    words = 'metadata: "license" must be one of .*; "model-index" is wrong'
    with pytest.raises(DataError, match=words):
        publish.publish(run, "stub/mine")
    assert not served.repos["models", "stub/mine"].files
    served.card_errors, served.card_warnings, said = [], ["no license"], []
    publish.publish(run, "stub/mine", say=said.append)
    assert said == ["WARNING: Warnings while validating metadata in README.md: - no license"]


def test_a_storage_that_refuses_is_a_sentence(run, served):
    served.full = True
    with pytest.raises(ResourceError, match=r"refuses the repository stub/mine \(403\)"):
        publish.publish(run, "stub/mine")
    assert not served.repos["models", "stub/mine"].files


def test_the_card_says_of_the_run_what_its_report_says(run, served):
    """Read as the hub's pages do: the model-index of the card that arrives, figure by figure."""
    publish.publish(run, "stub/mine")
    found = ModelCard(served.repos["models", "stub/mine"].files["README.md"].decode()).data
    splits = runs.read_json(run / "evaluation/report.json")["splits"]
    names = {"accuracy": "accuracy", "f1": "f1_macro"}
    read = {(one.dataset_split, names[one.metric_type]): one.metric_value for one in found.eval_results}
    assert read == {(split, key): splits[split][key] for split in splits for key in names.values()}
    assert model_index_to_eval_results(found.to_dict()["model-index"]) == (found.model_name, found.eval_results)


@pytest.mark.parametrize(
    ("repo", "token", "error", "words"),
    [
        ("other/mine", TOKEN, ResourceError, r"refuses the repository other/mine \(403\)"),
        ("stub/mine", "hf_wrong", ResourceError, r"doesn't know the token \(401\)"),
        ("stub/mine", READER, ResourceError, "may only read"),
        ("stub/mine", "", ResourceError, "no token"),
        ("no name", TOKEN, UsageError, "no name of a repository"),
        ("mine", TOKEN, UsageError, "no name of a repository"),
        ("stub/a..b", TOKEN, UsageError, "no name of a repository"),
        ("stub/a/b", TOKEN, UsageError, "no name of a repository"),
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
    runs.Run(run).seal()
    with pytest.raises(UsageError, match="random weights"):
        publish.publish(run, "stub/mine")
    assert not served.asked


def test_a_damaged_adapter_isnt_published(run, served):
    weights = run / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError):
        publish.publish(run, "stub/mine")
    assert not served.asked


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--push-to-hub", "no name"], 2, "no name of a repository"),
        (["--push-to-hub", "stub/mine", "--out", "HERE"], 2, "exists"),
        (["--push-to-hub", "stub/mine"], 7, "doesn't know the token"),
    ],
)
def test_what_is_refused_is_refused_before_the_work(arguments, code, words, run, served, monkeypatch, capsys, tmp_path):
    (tmp_path / "page.html").write_text("mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    before = runs.hashes(run)
    arguments = [str(tmp_path / "page.html") if part == "HERE" else part for part in arguments]
    assert cli.main(["report", str(run), "--data", "mini-news", "--json", *arguments]) == code
    assert words in json.loads(capsys.readouterr().out)["error"]["message"]
    assert runs.hashes(run) == before  # nothing was scored
    assert (tmp_path / "page.html").read_text() == "mine"
