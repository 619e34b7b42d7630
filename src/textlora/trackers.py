"""Trackers beside metrics.jsonl (TensorBoard, MLflow, Weights & Biases): into the run's folder `trackers/`, offline.

The Trainer's own callbacks report; here are only the places they write to. What the environment says comes first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from textlora.errors import ResourceError, UsageError, closest
from textlora.runs import Run

PROJECT = "textlora"


def check(names: Sequence[str]) -> None:
    """Raises UsageError for a tracker that the Trainer doesn't know, ResourceError for one that isn't installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(f"there is no tracker {name!r}", closest(name, INTEGRATION_TO_CALLBACK))
        if name not in get_available_reporting_integrations():
            raise ResourceError(f"the tracker {name} isn't installed", f"pip install {name}, or leave out --report-to")


@contextmanager
def writing(names: Sequence[str], run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """While this holds, the trackers in `names` write into `run`, unless the environment sends them elsewhere.

    Raises ResourceError for whatever error of its own class a tracker stops with: a server down, a key refused.
    """
    chosen = {key: value for name in names for key, value in _places(name, run.trackers).items()}
    new = {key: value for key, value in chosen.items() if key not in os.environ}
    if "WANDB_MODE" in new:
        say("wandb: no key is configured, so the run is recorded offline; `wandb sync` sends it later")
    if names:
        run.trackers.mkdir(exist_ok=True)
    before = _wandb_run()
    try:
        os.environ.update(new)
        yield
    except Exception as error:
        tracker = type(error).__module__.split(".")[0]
        if tracker not in names:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResourceError(f"the tracker {tracker} failed: {reason}", "set it up, or leave out --report-to") from error
    finally:
        for key in new:
            os.environ.pop(key, None)
        if _wandb_run() is not before:  # the Trainer leaves it open, and the next training would report into it
            sys.modules["wandb"].finish()


def _places(name: str, folder: Path) -> dict[str, str]:
    """The variables by which a tracker is told where to write."""
    if name == "tensorboard":
        return {"TENSORBOARD_LOGGING_DIR": str(folder / name)}
    if name == "mlflow":
        store = f"sqlite:///{(folder / 'mlflow.db').resolve().as_posix()}"
        return {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": PROJECT}
    if name == "wandb":
        mode = {} if _has_wandb_key() else {"WANDB_MODE": "offline"}
        return {"WANDB_DIR": str(folder), "WANDB_PROJECT": PROJECT, **mode}
    return {}


def _has_wandb_key() -> bool:
    import wandb  # type: ignore[import-not-found] - an extra

    if wandb.run is not None:  # the user's own: it stays as it is
        return True
    found = wandb.login(prompt=False, verify=False)
    wandb.teardown()  # or it would not read the environment again
    return found


def _wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
