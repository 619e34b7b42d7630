"""A run's adapter to a repository of the Hugging Face Hub, with its card and its report, in one commit."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from textlora import hub, report, runs
from textlora.errors import DataError, ResourceError, UsageError
from textlora.hub import Repo
from textlora.runs import Run

log = logging.getLogger("textlora")
CARD = "README.md"


def check(run: str | Path, repo_id: str, *, private: bool = False) -> Run:
    """The run, once what `publish` would refuse is refused: ask before long work. Nothing is written.

    Raises UsageError (no finished run, random base weights, no such name, a public repository that is to be private),
    DamagedError, ResourceError (no token or one that may not write, no network, a refusal).
    """
    home = report.check(run)
    try:
        validate_repo_id(repo_id if "/" in repo_id else f"/{repo_id}")
    except HFValidationError:
        raise UsageError(f"{repo_id!r} is no name of a repository on the hub", "owner/name is one") from None
    if home.config().base_weights.startswith("random:"):
        raise UsageError("its base has random weights: nobody could use the adapter", "train on a published base")
    if not get_token():
        raise ResourceError("there is no token for the hub", f"set HF_TOKEN, or {hub.LOGIN}")
    runs.adapter_folder(home.folder)
    with hub.asking(_repo(repo_id)):
        _check_token()
        if private:
            _check_private(repo_id)
    return home


def publish(
    run: str | Path,
    repo_id: str,
    *,
    split: str = "",
    private: bool = False,
    say: Callable[[str], None] = log.info,
) -> str:
    """Upload the adapter of a finished run; returns the repository's page.

    The report, of `split` as in `report.write_report`, goes along without texts of the data: those are for their owner
    to show. The repository is made if it isn't there, a `private` one if asked for; one that exists keeps its state,
    and a public one is refused if it should be private. The token is huggingface_hub's (HF_TOKEN, or `hf auth login`).
    Raises as `check` does; DataError for a card that the hub doesn't take.
    """
    home = check(run, repo_id, private=private)
    files = _files(home, repo_id, split)
    repo = _repo(repo_id)
    with hub.asking(repo), _refusals(say):
        api = HfApi()
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private:  # again: what it was made as is what counts
            _check_private(repo_id)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo_id, operations, commit_message="Adapter, card and report, by textlora")
    return repo.page


def _repo(repo_id: str) -> Repo:
    return Repo(repo_id, writes=True, otherwise="try again later")


def _check_token() -> None:
    """Raises ResourceError for a token that the hub doesn't know, or that may only read."""
    try:
        known = HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response.status_code != 401:
            raise
        raise ResourceError("the hub doesn't know the token (401)", f"set HF_TOKEN anew, or {hub.LOGIN}") from None
    token = (known.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise ResourceError("the token for the hub may only read", "make one that may write, and set HF_TOKEN to it")


def _check_private(repo_id: str) -> None:
    """Raises UsageError if the repository is there and public: an upload would be for all to see."""
    try:
        info = HfApi().repo_info(repo_id)
    except RepositoryNotFoundError:
        return
    if not info.private:
        fix = "make it private in its settings on the hub, choose another name, or leave out --private"
        raise UsageError(f"the repository {repo_id} exists and is public", fix)


@contextmanager
def _refusals(say: Callable[[str], None]) -> Iterator[None]:
    """What the client raises of a commit beside the hub's own errors, as ours; what it warns of, said."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    except ValueError as error:
        if isinstance(error.__cause__, BadRequestError) and "metadata" in str(error):
            said = "; ".join(line.removeprefix("- ") for line in str(error).splitlines()[1:])
            raise DataError(f"the hub doesn't take the card's metadata: {said}", f"mend the head of {CARD}") from None
        raise
    except RuntimeError as error:  # of the large-file storage: its client's errors are of no kind of the hub's
        if error.__cause__ is not None:  # a refusal of the hub's, which `hub.asking` puts into words
            raise
        raise ResourceError(f"a file wasn't stored: {error}", "try again later") from error
    for line in dict.fromkeys(str(one.message) for one in warned if issubclass(one.category, UserWarning)):
        say(f"WARNING: {' '.join(line.split())}")


def _files(home: Run, repo_id: str, split: str) -> dict[str, str | bytes]:
    """Path in the repository to a file of the adapter, or to bytes made for it."""
    folder = runs.adapter_folder(home.folder)
    files: dict[str, str | bytes] = {
        path.relative_to(folder).as_posix(): str(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    if CARD in files:
        files[CARD] = _card(folder / CARD, repo_id).encode()
    return files | {report.PAGE: report.page(report.facts(home, split=split, texts=False)).encode()}


def _card(path: Path, repo_id: str) -> str:
    """The card with the repository's name where it has the adapter's folder."""
    text = path.read_text(encoding="utf-8").replace(", in the folder above this one,", ",")
    return re.sub(r'(from_pretrained\((?:base, )?)"adapter"', rf'\1"{repo_id}"', text)
