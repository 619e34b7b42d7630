"""A process of a search, for tests of several: `search_worker.py BASE_WEIGHTS OUT STORAGE TRIALS`."""

import sys

from textlora import config as configs
from textlora.search import tune
from textlora.study import Options

SETTINGS = {
    "auto": [],
    "base": "bert",
    "data": "mini-news",
    "lora_r": 4,
    "lora_alpha": 8,
    "max_length": 48,
    "batch_tokens": 512,
    "max_steps": 12,
    "logging_steps": 1,
    "learning_rate": 5e-3,
    "precision": "fp32",
    "bag_of_tokens": False,
}


def main(weights: str, out: str, storage: str, trials: str) -> None:
    config = configs.load("minilm-fast", SETTINGS | {"base_weights": weights})
    options = Options(trials=int(trials), storage=storage, confirm_seeds=0, heartbeat=1, pruner="none")
    tune(config, options, out=out, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
