"""The run folder: its file names, how they are written, and whether they can be trusted. Builds no model.

runs/<date>-<name>/
  config.toml  plan.json  environment.json  metrics.jsonl  summary.json
  adapter/  checkpoints/  evaluation/  manifest.json (sha256 of every other file, written last)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from textlora import config as configs
from textlora.config import Config
from textlora.errors import FULL_DISK, DamagedError, ResourceError, UsageError

MANIFEST = "manifest.json"
PARTS = ("adapter", "checkpoints", "evaluation")
TRACKERS = "trackers"  # other programs' files, which they go on writing: in no manifest
ADAPTER_SETTINGS = "textlora.json"  # beside PEFT's adapter_config.json: what PEFT has no field for
PACKAGES = (
    "textlora",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "numpy",
)


@dataclass(frozen=True)
class Run:
    """One folder, one experiment. Others ask it where things go; nobody joins paths."""

    folder: Path

    @property
    def config_file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"

    @property
    def trackers(self) -> Path:
        return self.folder / TRACKERS

    @property
    def finished(self) -> bool:
        """Whether it was trained and judged to the end."""
        return (self.folder / "summary.json").is_file()

    def config(self) -> Config:
        """The settings this run was trained with."""
        return configs.from_dict(configs.read_toml(self.config_file))

    def summary(self) -> dict[str, Any]:
        """summary.json: the figures of the run."""
        return read_json(self.folder / "summary.json")

    def write_config(self, config: Config) -> None:
        write_text(self.config_file, configs.to_toml(config))

    def write(self, name: str, value: Any) -> None:
        """A JSON file of the run."""
        write_json(self.folder / name, value)

    def note(self, record: dict[str, Any]) -> None:
        """One more line of metrics.jsonl."""
        append_line(self.metrics_file, record)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, oldest first."""
        return read_lines(self.metrics_file)

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl that come after `step`: a resumed run writes them again."""
        kept = [_json_line(record) for record in self.metrics() if record["step"] <= step]
        write_text(self.metrics_file, "".join(kept))

    def seal(self, changed: str | tuple[str, ...] = "") -> None:
        """Write manifest.json: the sha256 of every file but trackers'. Each verb that adds files calls it last.

        A verb that wrote only below `changed` ("evaluation/") names it: what the manifest says of other files stays,
        so that one damaged since isn't blessed. Raises DamagedError if that manifest can't be read.
        """
        old = listed(self.folder) if changed else {}
        kept = {
            name: sha for name, sha in old.items() if not name.startswith(changed) and (self.folder / name).is_file()
        }
        found = kept | hashes(self.folder, changed)
        ours = {name: sha for name, sha in found.items() if not name.startswith(f"{TRACKERS}/")}
        write_json(self.folder / MANIFEST, {"sha256": ours})

    def record_test_read(self, entry: dict[str, Any]) -> int:
        """Append to test_reads.jsonl that a split named test was scored; how often that was by now."""
        append_line(self.evaluation / "test_reads.jsonl", entry)
        return len(read_lines(self.evaluation / "test_reads.jsonl"))


# -------------------------------------------------------------------------------------------------- open and create


def create(out: str | Path, *, overwrite: bool = False) -> Run:
    """A new run folder in `out`, in place of the run that is there if `overwrite`. Raises as `check_free` does."""
    folder = Path(out)
    check_free(folder, overwrite=overwrite)
    with storing(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            (folder / part).mkdir(exist_ok=True)
    return Run(folder)


def check_free(out: str | Path, *, overwrite: bool = False) -> None:
    """Raises UsageError if `out` exists and isn't empty, unless it is a run and `overwrite` is set.

    `overwrite` replaces a run, never a folder that isn't one: a slip of `--out ~` must not delete a home.
    """
    folder = Path(out)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        begun = (folder / "config.toml").is_file() and not Run(folder).finished
        go_on = f"go on with it: textlora train --resume --out {folder}; or " if begun else ""
        raise UsageError(f"{folder} exists", f"{go_on}choose another --out, or replace it with --overwrite")
    if not _is_run(folder):
        raise UsageError(f"{folder} exists and is no run", "--overwrite replaces runs only; choose another --out")


def _is_run(folder: Path) -> bool:
    """Whether `create` made this folder: its parts are there, and config.toml (other programs' too have that name)
    unless nothing has been written yet."""
    has_parts = all((folder / part).is_dir() for part in PARTS)
    return has_parts and ((folder / "config.toml").is_file() or not any(path.is_file() for path in folder.rglob("*")))


def default_folder(name: str) -> Path:
    """runs/<date>-<name>, numbered where that exists."""
    stem = f"{time.strftime('%Y-%m-%d-%H%M')}-{name}"
    folder = Path("runs") / stem
    number = 2
    while folder.exists():
        folder = Path("runs") / f"{stem}-{number}"
        number += 1
    return folder


def open_run(path: str | Path) -> Run:
    """The run in `path`. Raises UsageError if it is none."""
    run = Run(Path(path))
    if not run.config_file.is_file():
        raise UsageError(f"{path} is no run: it has no config.toml", "name a folder that `textlora train` wrote")
    return run


def adapter_folder(path: str | Path) -> Path:
    """The adapter in a run folder, or `path` itself if that is a bare adapter folder; a sealed run's are checked.

    All that is read from it, that is: the model card (README.md) is for people, who may edit it.

    Raises UsageError if `path` is neither, DamagedError if a file isn't what the run's manifest says.
    """
    folder = Path(path)
    inner = folder / "adapter"
    if (inner / "adapter_config.json").is_file():
        verify(folder, only="adapter/", but=(".md",))
        return inner
    if (folder / "adapter_config.json").is_file():
        return folder
    if (folder / "config.toml").is_file():
        verify(folder, only="adapter/")  # what was lost of a finished one is named
        fix = f"go on with it: textlora train --resume --out {path}"
        raise UsageError(f"{path} is a run that hasn't finished: its adapter/ is empty", fix)
    raise UsageError(f"{path} is no run and no adapter folder", "name a folder that `textlora train` wrote")


def label_shares(path: str | Path) -> list[float]:
    """How much of a run's training each label was (C,), each above 0.

    Raises UsageError where that isn't known (a bare adapter), or where a label had no row: nothing is measured from 0.
    """
    file = Path(path, "environment.json")
    shares = read_json(file).get("data", {}).get("label_shares") if file.is_file() else None
    if not shares:
        raise UsageError(
            f"{path} doesn't say how frequent each label was in training, and label shift is measured from that",
            "give the run folder, not its adapter alone; runs of older versions don't have it",
        )
    if absent := sum(share == 0 for share in shares):
        raise UsageError(
            f"{absent} of {path}'s {len(shares)} labels had no training rows, so no shift from those can be measured",
            "train again without such labels, or predict without label shift",
        )
    return shares


# ---------------------------------------------------------------------------------------------------------- hashes


def hashes(folder: Path, only: str | tuple[str, ...] = "") -> dict[str, str]:
    """sha256 of every file under `folder` but its manifest, by its path from there; those that start with `only`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256(path) for name, path in names.items() if name.startswith(only)}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """What the manifest of `folder` says: sha256 by name; {} if there is none. Raises DamagedError."""
    if not (folder / MANIFEST).is_file():
        return {}
    manifest = read_json(folder / MANIFEST)
    named = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(named, dict):
        raise DamagedError(f"{folder / MANIFEST} is damaged: it lists no files", "copy the run again, or train again")
    return named


def verify(folder: Path, only: str = "", but: tuple[str, ...] = ()) -> None:
    """Compare the files under `folder` with its manifest, if it has one.

    Only those whose names start with `only` and don't end in one of `but`. Raises DamagedError naming the first that
    is missing or differs.
    """
    for name, expected in listed(folder).items():
        if not name.startswith(only) or name.endswith(but):
            continue
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing; {folder / MANIFEST} lists it", "copy the run again, or train again")
        if sha256(path) != expected:
            raise DamagedError(f"{path} is not the file that the run wrote (sha256 differs)", "copy the run again")


# ------------------------------------------------------------------------------------------------- reading, writing


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into a ResourceError that names `path`."""
    try:
        yield
    except ResourceError:
        raise
    except OSError as error:
        raise _not_written(path, error.errno, error.strerror or str(error)) from error
    except Exception as error:  # safetensors' has no errno, only words, and is no class that this module may import
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise _not_written(path, int(number[1]), str(error)) from error


def _not_written(path: Path, number: int | None, reason: str) -> ResourceError:
    if number in FULL_DISK:
        return ResourceError(f"the disk is full: {path} was not written", "free some space and repeat")
    return ResourceError(f"can't write {path}: {reason}", "choose a place you may write")


@contextmanager
def replacing(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file that appears whole or not at all: written beside `path`, flushed to disk, then renamed onto it."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline=newline) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(_usual_mode())  # mkstemp's 0600 would keep a shared folder's other readers out
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@cache
def _usual_mode() -> int:
    """The mode that `open` gives a new file. A umask can only be read by setting it: once, and put back at once."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all; see `replacing`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, record: dict[str, Any]) -> None:
    """One JSON line more, on a line of its own even if a killed process left the last one half-written.

    A value that is not finite (a loss that ran away) is written as null: JSON has no NaN.
    """
    line = _json_line(record)
    with storing(path), path.open("a+b") as file:
        file.write((line if _ends_with_newline(file) else f"\n{line}").encode())


def _json_line(record: dict[str, Any]) -> str:
    finite = {key: None if _is_not_finite(value) else value for key, value in record.items()}
    return json.dumps(finite, ensure_ascii=False) + "\n"


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _ends_with_newline(file: BinaryIO) -> bool:
    """Whether an open file is empty or its last line is complete; moves the reading place, not an append's."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises DamagedError if it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing", "copy the folder again, or train again") from None
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}", "copy the folder again, or train again") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; one that a killed process left half-written is passed over."""
    if not path.is_file():
        return []
    records = []
    # Not splitlines(), which would also break at U+2028 inside a record; `replace`: a cut may go through a character.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


# ------------------------------------------------------------------------------------------------------ provenance


def versions(also: tuple[str, ...] = ()) -> dict[str, str]:
    """Installed versions of what a result depends on, `also` packages that it rarely does."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *also):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the run ran on, without names of people or hosts."""
    return {"system": platform.system(), "machine": platform.machine(), "cpu_count": os.cpu_count()}


def peak_rss_bytes() -> int:
    """Most memory this process has held, in bytes; 0 where the system doesn't tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
