"""A data set's name on the hub -> the Arrow files of its splits, at one commit, in the cache of the `datasets` library.

`datasets` downloads, converts and caches; what it made is read like any file (readers.py). Loading scripts never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from textlora import hub
from textlora.errors import DamagedError, DataError, TextLoraError, UsageError
from textlora.hub import Repo, Unreachable

# Short names of well-known sets of single texts with one label, and where they live.
# From memory, 2026-11; only banking77 was looked up.
NAMES = {
    "ag_news": "fancyzhx/ag_news",
    "amazon_polarity": "fancyzhx/amazon_polarity",
    "banking77": "legacy-datasets/banking77",  # PolyAI's own is a loading script
    "dbpedia_14": "fancyzhx/dbpedia_14",
    "emotion": "dair-ai/emotion",
    "imdb": "stanfordnlp/imdb",
    "rotten_tomatoes": "cornell-movie-review-data/rotten_tomatoes",
    "sst2": "stanfordnlp/sst2",
    "tweet_eval": "cardiffnlp/tweet_eval",  # its tasks are configurations: tweet_eval:sentiment
    "yelp_polarity": "fancyzhx/yelp_polarity",
    "yelp_review_full": "Yelp/yelp_review_full",
}

INFO = "dataset_info.json"  # what `datasets` writes beside the Arrow files


@dataclass(frozen=True)
class HubData:
    """A data set of the hub as it lies in the cache."""

    id: str
    config: str
    commit: str
    files: dict[str, tuple[Path, ...]]  # by the repository's own split names
    cached: bool  # the hub was not asked, or didn't answer

    @property
    def note(self) -> str:
        """Where the rows come from, in a line for people."""
        source = "the cache, not the hub" if self.cached else "the hub"
        return f"{self.id}, configuration {self.config}, commit {self.commit} from {source}"


def named(source: str) -> tuple[str, str] | None:
    """(owner/name, configuration) if `source` is a hub name: a known short one, or owner/name, then maybe :config."""
    name, _, config = source.partition(":")
    name = NAMES.get(name, name)
    return (name, config) if hub.NAME.fullmatch(name) else None


def fetch(source: str, revision: str = "") -> HubData:
    """The data set at a branch, tag or commit (""; the newest): downloaded, or from the cache where no hub answers.

    Raises UsageError (no such data set, revision or configuration), Unreachable (no answer and nothing cached),
    ResourceError (access, disk), DamagedError (a loading script, damaged files), DataError (no files of data).
    """
    named_as = named(source)
    if named_as is None:
        raise UsageError(f"{source!r} is no name on the hub", "owner/name is one, or owner/name:configuration")
    name, config = named_as
    way = "connect to the hub once, or give a folder or a file"
    repo = Repo(name, kind="dataset", revision=revision, known=(*NAMES.values(),), otherwise=way)
    try:
        commit = _newest(repo)
        if hub.is_commit(revision) and config and (found := _cached(name, config, commit)):
            return found  # nothing can have changed, so nothing is asked
        return _downloaded(repo, config, commit)
    except Unreachable:
        found = _cached(name, config, revision)
        if found is None:
            raise
        return found


def _newest(repo: Repo) -> str:
    from datasets import config

    if hub.is_commit(repo.revision):
        return repo.revision
    if config.HF_HUB_OFFLINE:  # HF_DATASETS_OFFLINE too
        raise Unreachable(f"{repo.words} is not in the cache and offline mode is on (HF_HUB_OFFLINE)", repo.otherwise)
    return hub.commit(repo)


def _downloaded(repo: Repo, config: str, commit: str) -> HubData:
    """`datasets`' own loading, without the last step that opens the rows; its cache is used where it can be."""
    import datasets

    with hub.asking(repo), _preparing(repo):
        builder = datasets.load_dataset_builder(repo.id, config or None, revision=commit)
        if builder.hash != commit:  # on any error it silently takes what it finds in the cache: another commit
            hub.commit(repo)  # does the hub know it?
            with TemporaryDirectory() as empty:  # nothing to fall back on, so the error comes out
                datasets.load_dataset_builder(repo.id, config or None, revision=commit, cache_dir=empty)
            raise Unreachable(f"the hub didn't give {repo.words} at commit {commit}", repo.otherwise)
        builder.download_and_prepare()
    return _prepared(repo.id, Path(builder.cache_dir), cached=False)


@contextmanager
def _preparing(repo: Repo) -> Iterator[None]:
    """Turns what `datasets` says of a repository's content into our errors; the hub's own refusals pass through."""
    from datasets import exceptions
    from datasets.data_files import EmptyDatasetError
    from pyarrow import ArrowInvalid
    from yaml import YAMLError  # `datasets` parses the card with it

    unreadable = (YAMLError, EmptyDatasetError, exceptions.DataFilesNotFoundError, exceptions.FileFormatError)
    try:
        yield
    except TextLoraError:  # ours, and a ValueError or an OSError too
        raise
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise DamagedError(
            f"{repo.words} is a program that loads data, which is never run: only its files could be read",
            "the hub may hold it as Parquet: --data-revision refs/convert/parquet; or give a folder or a file",
        ) from None
    except (*unreadable, exceptions.SplitsVerificationError) as error:
        raise DataError(f"{repo.words} can't be read: {_first_line(error)}", f"see {repo.page}") from None
    except ArrowInvalid as error:
        raise DamagedError(f"{repo.words} holds a damaged file: {_first_line(error)}", f"see {repo.page}") from None
    except ValueError as error:
        if "onfig" not in str(error):
            raise DataError(f"{repo.words} can't be read: {_first_line(error)}", f"see {repo.page}") from error
        raise UsageError(
            f"{repo.words} comes in configurations: {' '.join(str(error).splitlines()[:2])}",
            f"name one as {repo.id}:configuration",
        ) from None
    except exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise DamagedError(
            f"{repo.words} holds a damaged file: {_first_line(error.__cause__)}", f"see {repo.page}"
        ) from None


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# -------------------------------------------------------------------------------------------------- the library's cache


def _cached(name: str, config: str, revision: str) -> HubData | None:
    """What the cache holds of a data set: at a commit, or the newest if no revision is asked for.

    The cache's folders are <owner>___<name>/<configuration>/<version>/<commit>.
    """
    from datasets.config import HF_DATASETS_CACHE
    from datasets.naming import camelcase_to_snakecase

    if revision and not hub.is_commit(revision):
        return None  # which commit a branch stands for, only the hub knows
    owner, _, bare = name.partition("/")
    home = Path(HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(bare)}"
    folders = [path for path in home.glob(f"{config or '*'}/*/{revision or '*'}") if (path / INFO).is_file()]
    if len({path.parts[-3] for path in folders}) > 1:
        configs = ", ".join(sorted({path.parts[-3] for path in folders}))
        raise UsageError(f"the cache holds several configurations of {name}: {configs}", f"name one as {name}:config")
    newest = max(folders, key=lambda path: path.stat().st_mtime, default=None)
    return _prepared(name, newest, cached=True) if newest else None


def _prepared(name: str, folder: Path, *, cached: bool) -> HubData:
    """A folder that `datasets` filled: it appears whole or not at all."""
    splits = json.loads((folder / INFO).read_text(encoding="utf-8"))["splits"]
    files = {split: _shards(folder, info) for split, info in splits.items()}
    return HubData(name, folder.parts[-3], folder.parts[-1], files, cached)


def _shards(folder: Path, info: dict[str, Any]) -> tuple[Path, ...]:
    """The Arrow files of a split, in order: one, or as many as its record says."""
    from datasets.naming import filenames_for_dataset_split

    names = filenames_for_dataset_split(
        str(folder),
        dataset_name=info["dataset_name"],
        split=info["name"],
        filetype_suffix="arrow",
        shard_lengths=info.get("shard_lengths"),
    )
    return tuple(map(Path, names))
