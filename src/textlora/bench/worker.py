"""One side of a benchmark, in a process of its own: `python -m textlora.bench.worker JOB`, JOB as JSON.

Reads a number of seconds on a line (a round), or null (the end); writes JSON lines. Nothing else may write to stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

# side -> the module with a function of that name; the rest of the job are its arguments
MODULES = {
    "ours": "trainers",
    "best_batch_tokens": "trainers",
    "peer": "trainers",
    "best_expert": "trainers",
    "limit": "limit",
    "adapter": "prepared",
    "export": "prepared",
    "answer": "predictors",
}


class Channel:
    """The other end of `workers.Worker`."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever libraries print goes to the log

    def say(self, what: dict[str, Any]) -> None:
        """One line to the other end."""
        self.out.write(json.dumps(what) + "\n")
        self.out.flush()

    def ask(self, report: dict[str, Any] | None) -> float | None:
        """A `pace.Ask`."""
        self.say(report or {"ready": True})
        return json.loads(sys.stdin.readline() or "null")


def main() -> None:
    """Do the job and say how it went."""
    channel = Channel()
    job = json.loads(sys.argv[1])
    name = f"textlora.bench.{MODULES[job['side']]}"
    try:
        module = importlib.import_module(name)
        channel.say(getattr(module, job.pop("side"))(channel.ask, **job))
    except ImportError as error:
        channel.say({"failed": f"{error.name or error} is missing: install textlora[bench]"})


if __name__ == "__main__":
    main()
