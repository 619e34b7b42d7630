"""Sides as processes: start one, tell it when to work, read what it did. Their stderr tells why one failed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from textlora.bench.figures import Round

PATIENCE = 420.0  # seconds in which a side must answer


class Failed(Exception):
    """Why a side has no figures."""


class Worker:
    """One side: `textlora.bench.worker` with a job, ready once it has warmed up."""

    def __init__(self, name: str, job: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.rounds = name, list[Round]()
        self.log = folder / f"{self.name}.log"
        self.began = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "textlora.bench.worker", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | environment,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(BrokenPipeError):  # a word to a side that died is still in the pipe
                    pipe.close()

    def ready(self) -> float:
        """Wait for the warm-up's end; the seconds since the start. Raises Failed."""
        self._answer()
        return time.perf_counter() - self.began

    def round(self, seconds: float) -> None:
        """One round of work. Raises Failed."""
        self._tell(seconds)
        self.rounds.append(Round(**self._answer()))

    def stop(self) -> dict[str, Any]:
        """No more rounds: what the side says of itself. Raises Failed."""
        self._tell(None)
        return self._answer()

    def result(self) -> dict[str, Any]:
        """Of a side that works in no rounds: its one answer. Raises Failed."""
        return self._answer()

    def _tell(self, seconds: float | None) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(seconds) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._reason()) from None

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            raise Failed(f"no answer in {PATIENCE:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self._reason())
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _reason(self) -> str:
        code = self.process.wait()
        if code == -9:
            return "killed: out of memory?"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {code}"


class Sides:
    """Several workers, all warm, that work in turns; those that fail drop out with their reason."""

    def __init__(self, folder: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.folder, self.environment, self.say = folder, environment, say
        self.workers: dict[str, Worker] = {}
        self.startup: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def start(self, name: str, job: Mapping[str, Any], also: Mapping[str, str] | None = None) -> None:
        """Start a side and wait until it is warm: two at a time would disturb each other; `also`: its environment."""
        self.say(f"{name}: starting")
        environment = dict(self.environment) | dict(also or {})
        worker = self.stack.enter_context(Worker(name, job, self.folder, environment))
        try:
            self.startup[name] = round(worker.ready(), 2)
            self.workers[name] = worker
        except Failed as reason:
            self._drop(name, reason)

    def once(self, name: str, job: Mapping[str, Any], also: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What a job answers that works in no rounds. Raises Failed."""
        self.say(name)
        with Worker(name, job, self.folder, dict(self.environment) | dict(also or {})) as worker:
            return worker.result()

    def rounds(self, count: int, seconds: float, names: Collection[str] = ()) -> None:
        """`count` rounds, the sides (or those of `names`) in turns."""
        for number in range(1, count + 1):
            for name, worker in self._chosen(names):
                try:
                    worker.round(seconds)
                    did = worker.rounds[-1]
                    self.say(f"round {number}, {name}: {did.texts / did.seconds:.1f} texts a second")
                except Failed as reason:
                    self._drop(name, reason)

    def finish(self, names: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """What each side (or those of `names`) says of itself at its end; none of them is left then."""
        said = {}
        for name, worker in self._chosen(names):
            try:
                said[name] = worker.stop()
            except Failed as reason:
                self._drop(name, reason)
            self.workers.pop(name, None)
        return said

    def _chosen(self, names: Collection[str]) -> list[tuple[str, Worker]]:
        return [(name, worker) for name, worker in self.workers.items() if not names or name in names]

    def _drop(self, name: str, reason: Failed) -> None:
        self.say(f"{name}: not measured: {reason}")
        self.failed[name] = str(reason)
        self.workers.pop(name, None)
