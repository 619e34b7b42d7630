"""textlora beside its peers and beside the limit of this machine, in one run: `textlora bench train|predict`.

Every side is a process of its own (`workers.py` starts and paces it, `worker.py` is it), gets the same rows, rank, head
and pooling, and works in rounds that alternate with the other sides'.

    options.py      what is measured            task.py         base, rows and tokens that every side reads
    pace.py         work in rounds               memory.py       what a process holds
    trainers.py     ours and Trainer + PEFT      limit.py        the products that none can leave out
    predictors.py   ours, pipeline, ONNX, ...    prepared.py     a small adapter, merged, exported
    figures.py      rounds to medians, ratios    training.py, prediction.py   one run, start to result
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textlora.bench.options import Options

Say = Callable[[str], None]


def bench(what: str, options: Options, say: Say) -> dict[str, Any]:
    """Measure `what`, train or predict: ours, peers, ratio_to_peers, limit, limit_share and how it was measured.

    `say` receives lines for people. Raises the errors of textlora.errors; a peer that fails is reported, not raised.
    """
    if what == "train":
        from textlora.bench.training import measure
    else:
        from textlora.bench.prediction import measure
    return measure(options, say)
