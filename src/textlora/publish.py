"""A run's adapter to a repository of the Hugging Face Hub, with its card and its report, in one commit."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from textlora import hub, report, runs
from textlora.errors import ResourceError, UsageError
from textlora.hub import Repo
from textlora.runs import Run

log = logging.getLogger("textlora")
CARD = "README.md"


def publish(run: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload the adapter of a finished run; returns the repository's page.

    The report goes along without texts of the data: those are for their owner to show. The repository is made if it
    isn't there; `private` only says how. The token is huggingface_hub's (HF_TOKEN, or `hf auth login`).
    Raises UsageError (no run, random base weights, no such name), DamagedError, ResourceError (no token, no network,
    a refusal).
    """
    home = runs.open_run(run)
    if not hub.NAME.fullmatch(repo_id):
        raise UsageError(f"{repo_id!r} is no name of a repository on the hub", "owner/name is one")
    if home.config().base_weights.startswith("random:"):
        raise UsageError("its base has random weights: nobody could use the adapter", "train on a published base")
    if not get_token():
        raise ResourceError("there is no token for the hub", f"set HF_TOKEN, or {hub.LOGIN}")
    files = _files(home, repo_id)
    repo = Repo(repo_id, writes=True, otherwise="try again later")
    with hub.asking(repo):
        api = HfApi()
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo_id, operations, commit_message="Adapter, card and report, by textlora")
    return repo.page


def _files(home: Run, repo_id: str) -> dict[str, str | bytes]:
    """Path in the repository to a file of the adapter, or to bytes made for it."""
    folder = runs.adapter_folder(home.folder)
    files: dict[str, str | bytes] = {
        path.relative_to(folder).as_posix(): str(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    if CARD in files:
        files[CARD] = _card(folder / CARD, repo_id).encode()
    return files | {report.PAGE: report.page(report.facts(home, texts=False)).encode()}


def _card(path: Path, repo_id: str) -> str:
    """The card with the repository's name where it has the adapter's folder."""
    text = path.read_text(encoding="utf-8").replace(", in the folder above this one,", ",")
    return re.sub(r'(from_pretrained\((?:base, )?)"adapter"', rf'\1"{repo_id}"', text)
