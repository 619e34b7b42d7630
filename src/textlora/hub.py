"""What the Hugging Face Hub answers: which commit a name stands for, and its refusals as errors that a user can fix.

Imports huggingface_hub only when asked: what needs no hub needs no client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from textlora.errors import FULL_DISK, ResourceError, TextLoraError, UsageError, closest

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)  # owner/name, as the hub writes it
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_SECONDS = 10  # for the one question which commit is the newest
LOGIN = "log in with `hf auth login`"


class Unreachable(ResourceError):
    """No answer from the hub: offline mode, no network, its own trouble, too many questions. A cache may help."""


@dataclass(frozen=True)
class Repo:
    """A repository of the hub, as the user named it."""

    id: str
    kind: str = "model"  # or dataset, as the hub calls them
    revision: str = ""  # branch, tag or commit; "": the newest of the main branch
    known: tuple[str, ...] = ()  # names that a misspelt one may stand for
    otherwise: str = "connect to the hub once"  # the way out while it gives nothing
    writes: bool = False  # whether something is to be written to it

    @property
    def words(self) -> str:
        if self.writes:
            return f"the repository {self.id}"
        return f"the {'base' if self.kind == 'model' else 'data set'} {self.id}"

    @property
    def page(self) -> str:
        from huggingface_hub.constants import ENDPOINT

        return f"{ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never comes to mean another one."""
    return COMMIT.fullmatch(revision) is not None


def commit(repo: Repo) -> str:
    """The commit that `repo`'s revision stands for now, in one question to the hub.

    Raises Unreachable, ResourceError (access refused), UsageError (no such repository or revision).
    """
    from huggingface_hub import HfApi

    with asking(repo):
        info = HfApi().repo_info(repo.id, repo_type=repo.kind, revision=repo.revision or None, timeout=TIMEOUT_SECONDS)
    if not info.sha:
        raise Unreachable(f"the hub didn't say which commit of {repo.words} is the newest", repo.otherwise)
    return info.sha


@contextmanager
def asking(repo: Repo) -> Iterator[None]:
    """Turns what the hub's client raises into our errors, one sentence each; errors of other kinds pass through."""
    try:
        yield
    except TextLoraError:
        raise
    except Exception as error:
        chain = _causes(error)
        refusals = (_refusal(cause, repo) for cause in chain)
        faults = (_fault(cause, repo) for cause in reversed(chain))  # the first cause says most
        found = next(filter(None, (*refusals, *faults)), None)
        if found is None:
            raise
        raise found from None


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error, what it was raised from, what that was raised from, ..."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def _refusal(error: BaseException, repo: Repo) -> TextLoraError | None:
    """What the hub itself said, by the client's kinds of error."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ResourceError(
            f"{repo.words} is gated: its owner asks for consent", f"give it at {repo.page} and {LOGIN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repo.words} has no revision {repo.revision!r}", f"see {repo.page}/commits/main")
    if isinstance(error, errors.RepositoryNotFoundError) or _is_anonymous(error):
        private = f"{closest(repo.id, repo.known)}; if it is a private one, {LOGIN}"
        return UsageError(f"the hub shows no {repo.words.removeprefix('the ')} (misspelt, or private)", private)
    if isinstance(error, errors.OfflineModeIsEnabled):
        if repo.writes:
            return Unreachable(f"{repo.words} can't be written: offline mode is on (HF_HUB_OFFLINE)", "unset it")
        return Unreachable(f"{repo.words} is not in the cache and offline mode is on (HF_HUB_OFFLINE)", repo.otherwise)
    if isinstance(error, errors.HfHubHTTPError):
        return None if isinstance(error, errors.EntryNotFoundError) else _status(error.response.status_code, repo)
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{repo.id!r} is no name of a repository on the hub", "owner/name is one")
    return None


def _is_anonymous(error: BaseException) -> bool:
    """A 401 of which no token is the cause: what the hub answers of a repository that isn't there or isn't public."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError) or error.response.status_code != 401:
        return False
    return "Invalid credentials" not in (error.response.headers.get("X-Error-Message") or "")


def _status(status: int, repo: Repo) -> ResourceError:
    if status in (401, 403):
        may = "write to" if repo.writes else "read"
        return ResourceError(f"the hub refuses {repo.words} ({status})", f"{LOGIN}, with a token that may {may} it")
    done = "written" if repo.writes else "read"
    if status == 429:
        return Unreachable(
            f"the hub takes no more questions for now (429), so {repo.words} can't be {done}", "wait a while"
        )
    return Unreachable(f"the hub has a fault ({status}), so {repo.words} can't be {done}", repo.otherwise)


def _fault(error: BaseException, repo: Repo) -> ResourceError | None:
    """Disk and network. Some errors of the HTTP client (httpx or httpx2, by version) pass through the hub's."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError) and (error.errno in FULL_DISK or "Not enough disk space" in reason):
        return ResourceError(
            f"the disk is full: {repo.words} doesn't fit into the cache {constants.HF_HOME}",
            "free some space, or set HF_HOME to a larger disk",
        )
    if isinstance(error, PermissionError):
        return ResourceError(f"the cache can't be written: {error.filename}", "set HF_HOME to a folder of your own")
    if isinstance(error, (HfHubHTTPError.__bases__[0], OSError)):
        if repo.writes:
            return Unreachable(f"{repo.words} can't be written: {reason}", repo.otherwise)
        return Unreachable(f"{repo.words} is not on this machine and the hub gave: {reason}", repo.otherwise)
    return None
