"""What `--data` names (the embedded corpus, a folder of splits, a file, a hub name) -> the files of each split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from textlora import corpus
from textlora.data import hub, readers
from textlora.data.arrow import saved_files, saved_splits
from textlora.errors import DataError, ResourceError, UsageError, closest

EMBEDDED = {"mini-news": corpus.FOLDER}

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_OF_STEM = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
}
LABEL_NAMES_FILE = "classes.txt"  # as AG's corpus brings it: one label name a line, in the order of the numbers

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})")  # the hub's file names


@dataclass(frozen=True)
class Source:
    """Files by split; a single file is the `train` of a source whose `single` is true."""

    name: str
    files: dict[str, tuple[Path, ...]]
    single: bool
    revision: str = ""  # the commit, of a data set of the hub
    notes: tuple[str, ...] = ()  # what was found where, in lines for people
    own_split: str = ""  # of a single file: the split that its name says

    def first(self) -> Path:
        """The file that settles columns and label names: train's first, else any split's."""
        return self.files[TRAIN if TRAIN in self.files else next(iter(self.files))][0]


def find(source: str, revision: str = "") -> Source:
    """The files that `source` names; `revision` is a hub data set's.

    Raises UsageError for a name that is neither known nor a path, DataError for a path without data, and what
    `hub.fetch` raises.
    """
    path = None if source in EMBEDDED else _existing(source)
    if source not in EMBEDDED and path is None and _may_be_on_the_hub(source):
        return _from_hub(source, revision)
    if revision:
        raise UsageError(f"data_revision is {revision!r}, but {source} is no data set of the hub", "leave it out")
    if source in EMBEDDED:
        return Source(source, _folder_files(EMBEDDED[source]), single=False)
    if path is None:
        raise _not_there(source)
    saved = saved_files(path)
    if path.is_dir() and not saved:
        return Source(path.resolve().name, _saved_splits(path) or _folder_files(path), single=False)
    files = saved or (path,)
    for file in files:
        readers.columns(file)  # a file of another kind is refused here
    name = path.resolve().name if saved else readers.stem(path)
    return Source(name, {TRAIN: files}, single=True, own_split=SPLIT_OF_STEM.get(_stem(path), ""))


def label_names_beside(path: Path) -> tuple[str, ...]:
    """The names in `classes.txt` in the file's folder, in order; () where there is none."""
    names_file = path.parent / LABEL_NAMES_FILE
    if not names_file.exists():
        return ()
    names = tuple(line.strip() for line in readers.lines(names_file) if line.strip())
    if len(set(names)) != len(names):
        raise DataError(f"{names_file} names a label twice", "write each label once, in the order of their numbers")
    return names


def _stem(path: Path) -> str:
    """A file's name without endings and shard number, in small letters."""
    stem = readers.stem(path)
    shard = _SHARD.fullmatch(stem)
    return (shard["stem"] if shard else stem).casefold()


def _existing(source: str) -> Path | None:
    try:
        path = Path(source).expanduser()
        return path if source and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, an unknown ~user: no path
        return None


def _may_be_on_the_hub(source: str) -> bool:
    """Whether `source`, which is no path here, can be a hub name rather than a mistyped path."""
    return hub.named(source) is not None and readers.ending(Path(source)) not in readers.FORMATS


def _from_hub(source: str, revision: str) -> Source:
    found = hub.fetch(source, revision)
    files: dict[str, tuple[Path, ...]] = {}
    for own_name, paths in found.files.items():
        split = SPLIT_OF_STEM.get(own_name)
        if split and split not in files:
            files[split] = paths
    if not files:
        raise DataError(
            f"{found.id} has no split named train, validation or test, only {', '.join(found.files)}",
            "fetch it, and give the file to train on",
        )
    return Source(source, files, single=False, revision=found.commit, notes=(found.note,))


def _not_there(source: str) -> UsageError | DataError:
    if not source:
        return UsageError("no data is named", f"give --data {', '.join(EMBEDDED)}, a folder, a file, or a hub name")
    if readers.ending(Path(source)) in readers.FORMATS or "/" in source or "\\" in source:
        return DataError(f"there is no file or folder {source}", "check the path")
    return UsageError(
        f"there is no data {source!r}: it is neither {', '.join(EMBEDDED)} nor a file or folder that exists",
        closest(source, (*EMBEDDED, *hub.NAMES)) + "; any other data set of the hub goes by owner/name",
    )


def _saved_splits(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Split -> its files in a folder that `DatasetDict.save_to_disk` wrote; splits of other names are left alone."""
    found = {
        SPLIT_OF_STEM[split.casefold()]: saved_files(folder / split)
        for split in saved_splits(folder)
        if split.casefold() in SPLIT_OF_STEM
    }
    return {split: found[split] for split in (TRAIN, VALIDATION, TEST) if found.get(split)}


def _folder_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Split -> its file, or its shards in order; files of other names are left alone."""
    by_stem: dict[tuple[str, str, str], list[Path]] = {}
    for path in _data_files(folder):
        by_stem.setdefault((_stem(path), readers.ending(path), path.suffix.lower()), []).append(path)
    files: dict[str, tuple[Path, ...]] = {}
    for (stem, *_), paths in by_stem.items():
        split = SPLIT_OF_STEM.get(stem)
        if split in files:
            raise UsageError(
                f"{folder} holds two {split} files: {files[split][0].name} and {paths[0].name}",
                "keep one of them, or give a file instead of the folder",
            )
        if split:
            files[split] = _complete(paths)
    if not files:
        endings = ", ".join(readers.FORMATS)
        raise DataError(
            f"{folder} holds no data: expected train, validation or test with one of the endings {endings}",
            "name the files so, or give one file",
        )
    return {split: files[split] for split in (TRAIN, VALIDATION, TEST) if split in files}


def _data_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and readers.is_data_file(path))
    except OSError as error:
        raise ResourceError(f"{folder} can't be listed: {error.strerror}", "check its permissions") from None


def _complete(paths: list[Path]) -> tuple[Path, ...]:
    """`paths` of one split, checked to be one file or all shards 0..n-1."""
    shards = [match for path in paths if (match := _SHARD.fullmatch(readers.stem(path)))]
    if not shards and len(paths) == 1:
        return tuple(paths)
    total = int(shards[0]["total"]) if shards else 1
    if [int(s["number"]) for s in shards] != list(range(total)) or len(paths) != total:
        raise DataError(
            f"{paths[0].parent} holds {len(paths)} of {total} parts: {', '.join(p.name for p in paths)}",
            "fetch the missing parts, or remove what is left of another set",
        )
    return tuple(paths)
