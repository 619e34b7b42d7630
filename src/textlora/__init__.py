"""LoRA text classifiers inside a budget of trainable parameters.

    cli -> train -> evaluate -> predict -> model -> tokens -> data, budget, metrics, runs -> bases -> config -> errors

Five stops of a run: `config.load`, `prepare.prepare` (data, plan, tokens, model), `trainer.TextTrainer`,
`evaluate.judge`, `runs.Run`. docs/map.md tells the rest. In Python: `textlora.train(config)`,
`textlora.load(run).predict(texts)`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from textlora.config import Config
from textlora.config import load as load_config
from textlora.errors import TextLoraError

if TYPE_CHECKING:
    from textlora.evaluate import evaluate as evaluate
    from textlora.predict import Predictor as Predictor
    from textlora.predict import classify as classify
    from textlora.predict import load as load
    from textlora.sklearn import TextLoraClassifier as TextLoraClassifier
    from textlora.train import train as train

# GNU's OpenMP, which comes with torch's Linux wheels, lets a thread that waits for others spin for milliseconds: where
# other programs run, that keeps the core from the very thread it waits for, and training takes up to 3 times as long
# (docs/log.md, 2026-11-23). Some 30 microseconds of it serve an idle machine as well. It is read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Predictor",
    "TextLoraClassifier",
    "TextLoraError",
    "classify",
    "evaluate",
    "load",
    "load_config",
    "train",
]

_LAZY = {
    "Predictor": "predict",
    "TextLoraClassifier": "sklearn",
    "classify": "predict",
    "evaluate": "evaluate",
    "load": "predict",
    "train": "train",
}


class _Package(ModuleType):
    """This package, in which `train` and `evaluate` stay the functions although modules of these names exist.

    Importing textlora.train makes Python set the package's attribute `train` to that module; here it doesn't stick.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Names that need torch are imported on first use: `textlora --help` must not wait for it."""
    if name not in _LAZY:
        raise AttributeError(f"module 'textlora' has no attribute {name!r}")
    return getattr(import_module(f"textlora.{_LAZY[name]}"), name)
