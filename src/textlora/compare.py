"""Several runs on the same rows: which are better, and which of the differences could be chance.

Runs whose settings differ in the seed alone are one thing, judged by all of its seeds. N rows, S seeds, C labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from textlora import metrics, paired, predict, repeats, runs
from textlora.data import Split
from textlora.errors import UsageError
from textlora.evaluate import TEST, count_read, home_of, overlap, rows_of, seal_evaluation
from textlora.runs import Run

log = logging.getLogger("textlora")
ALPHA = 0.05  # a difference that chance gives less often than this, all pairs together, counts as one
SHOWN = 10  # texts named whose label changed
LIMITS = ("seed", "seeds", "time_limit", "report_to")  # settings that make no other recipe


@dataclass(frozen=True)
class Member:
    """One run: where it is, what makes it a recipe, its seed. A bare adapter tells neither."""

    path: Path
    name: str
    recipe: str
    seed: int | None


@dataclass(frozen=True, eq=False)
class Answer:
    """What one run says of the rows."""

    member: Member
    probabilities_NC: np.ndarray
    correct_N: np.ndarray
    parameters: int | None
    labels: tuple[str, ...]
    rows: Split
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Thing:
    """One recipe's answers, those of its seeds."""

    name: str
    answers: tuple[Answer, ...]

    @property
    def correct_SN(self) -> np.ndarray:
        return np.stack([answer.correct_N for answer in self.answers])

    @property
    def probabilities_NC(self) -> np.ndarray:
        """The mean of the seeds': what they say together."""
        return np.mean([answer.probabilities_NC for answer in self.answers], axis=0)

    def to_dict(self) -> dict[str, Any]:
        each = [float(answer.correct_N.mean()) for answer in self.answers]
        return {
            "name": self.name,
            "runs": [str(answer.member.path) for answer in self.answers],
            "seeds": [answer.member.seed for answer in self.answers],
            "trainable_parameters": self.answers[0].parameters,
            "accuracy": float(np.mean(each)),
            "accuracy_ci": list(self._interval()),
            "sd": float(np.std(each, ddof=1)) if len(each) > 1 else None,
            "accuracies": each,
            "f1_macro": float(np.mean([_f1_macro(answer) for answer in self.answers])),
        }

    def _interval(self) -> tuple[float, float]:
        """Wilson's of one run; of several seeds the bootstrap's, over rows and seeds: two seeds far apart would reach
        beyond what an accuracy can be."""
        correct_SN = self.correct_SN
        if len(correct_SN) == 1:
            return metrics.wilson(int(correct_SN.sum()), correct_SN.shape[1])
        _, low, high = paired.paired_gain(np.zeros(correct_SN.shape[1], bool), correct_SN)
        return max(0.0, low), min(1.0, high)


def compare(
    named: Sequence[str | Path],
    source: str,
    split: str = TEST,
    *,
    text_column: Sequence[str] = (),
    label_column: str = "",
    say: Callable[[str], None] = log.info,
    **loading: Any,
) -> dict[str, Any]:
    """What docs/map.md lists for `compare`: each thing's figures, and for each pair whether it differs.

    `named` are run folders (of `--seeds K`: all of its seeds) or bare adapters; each predicts the split's rows once,
    and each run that reads a split named test counts it. Where all are one recipe, its seeds are compared with one
    another. Raises UsageError for fewer than two runs, for other labels, or where runs read other rows.
    """
    members = _members(named)
    answers: list[Answer] = []
    for member in members:
        say(f"{member.name} predicts")
        answers.append(_answer(member, answers, source, split, text_column, label_column, loading))
    things = _things(answers)
    rows = answers[0].rows
    pairs = [_pair(a, b, rows) for a, b in combinations(things, 2)]
    for pair, p in zip(pairs, paired.holm([pair["p"] for pair in pairs]), strict=True):
        pair |= {"p_corrected": p, "verdict": "different" if p < ALPHA else "no difference seen"}
    return {
        "split": rows.name,
        "data": source,
        "fingerprint": rows.fingerprint,
        "n": len(rows),
        "things": [thing.to_dict() | {"test_reads": _reads(thing, source)} for thing in things],
        "pairs": pairs,
        "correction": "holm",
        "alpha": ALPHA,
        "warnings": [f"{answer.member.name}: {line}" for answer in answers for line in answer.warnings],
    }


# ------------------------------------------------------------------------------------------------------ which runs


def _members(named: Sequence[str | Path]) -> list[Member]:
    """Every run that is meant, those of several seeds one by one. Raises UsageError."""
    found = [member for name in named for member in _seeds_of(Path(name))]
    seen: dict[Path, str] = {}
    for member in found:
        if member.path.resolve() in seen:
            raise UsageError(f"{member.name} is named twice", "name each run once")
        seen[member.path.resolve()] = member.name
    if len(found) < 2:
        raise UsageError(f"{found[0].name if found else 'nothing'} can't be compared alone", "name two runs or more")
    return found


def _seeds_of(path: Path) -> list[Member]:
    """The run in `path`, and the seeds beside it where it is the best of several."""
    runs.adapter_folder(path)  # there is one, or an error that says what there is
    own = _member(path)
    if not (path / repeats.SUMMARY).is_file():
        return [own]
    rest = sorted((path / "seeds").iterdir(), key=lambda folder: (len(folder.name), folder.name))
    return [own, *(Member(folder, str(folder), own.recipe, Run(folder).config().seed) for folder in rest)]


def _member(path: Path) -> Member:
    run = Run(path)
    if not run.config_file.is_file():
        return Member(path, str(path), f"adapter {path.resolve()}", None)
    config = run.config()
    recipe = {key: value for key, value in config.to_dict().items() if key not in LIMITS}
    return Member(path, str(path), repr(sorted(recipe.items())), config.seed)


def _things(answers: Sequence[Answer]) -> list[Thing]:
    """Runs of one recipe and different seeds together, in the order they came; apart if there is one recipe only."""
    groups: list[list[Answer]] = []
    for answer in answers:
        mine = (g for g in groups if g[0].member.recipe == answer.member.recipe)
        free = (g for g in mine if answer.member.seed not in {other.member.seed for other in g})
        group = next(free, None)
        if group is None:  # another recipe, or the same recipe and seed once more: by another version, say
            groups.append([answer])
        else:
            group.append(answer)
    if len(groups) == 1:
        groups = [[answer] for answer in answers]
    return [Thing(group[0].member.name, tuple(group)) for group in groups]


# --------------------------------------------------------------------------------------------------- what they say


def _answer(
    member: Member,
    before: Sequence[Answer],
    source: str,
    split: str,
    text_column: Sequence[str],
    label_column: str,
    loading: dict[str, Any],
) -> Answer:
    """One run's probabilities of the rows. Raises UsageError where labels or rows aren't those of the first run."""
    predictor = predict.load(member.path, **loading)
    rows = rows_of(member.path, source, split, predictor, text_column, label_column)
    if before:
        _check_same(before[0], member, predictor.labels, rows)
    probabilities = predictor.predict_proba(rows.texts)
    return Answer(
        member=member,
        probabilities_NC=probabilities,
        correct_N=probabilities.argmax(1) == rows.labels,
        parameters=predictor.settings.trainable_parameters,
        labels=predictor.labels,
        rows=rows,
        warnings=overlap(member.path, rows),
    )


def _check_same(first: Answer, member: Member, labels: tuple[str, ...], rows: Split) -> None:
    if labels != first.labels:
        named = (", ".join(names[:4]) + (", ..." if len(names) > 4 else "") for names in (first.labels, labels))
        raise UsageError(
            "{0} has the labels {2}, {1} has {3}".format(first.member.name, member.name, *named),
            "compare runs that were trained on the same labels, in the same order",
        )
    if rows.fingerprint != first.rows.fingerprint:
        raise UsageError(
            f"{first.member.name} and {member.name} read other rows or texts there ({len(first.rows)} and {len(rows)})",
            "name the columns with --text-column and --label-column; a carved validation needs one --split-seed",
        )


def _reads(thing: Thing, source: str) -> list[int | None]:
    """Count that each run of the thing has read a split named test."""
    counts = []
    for answer in thing.answers:
        home = home_of(answer.member.path, "")
        counts.append(count_read(home, answer.rows, source, float(answer.correct_N.mean())))
        if home and counts[-1]:
            seal_evaluation(home)
    return counts


# ------------------------------------------------------------------------------------------------ how they differ


def _pair(a: Thing, b: Thing, rows: Split) -> dict[str, Any]:
    """How b differs from a: accuracy, how likely by chance, and the texts whose label changed, the surest first."""
    gain = paired.paired_gain(a.correct_SN, b.correct_SN)
    single = len(a.answers) == len(b.answers) == 1
    right_a, right_b = a.answers[0].correct_N, b.answers[0].correct_N
    changed, texts = _changed(a, b, rows)
    return {
        "a": a.name,
        "b": b.name,
        "difference": gain.gain,
        "difference_ci": [gain.low, gain.high],
        "test": "mcnemar" if single else "bootstrap",
        "p": paired.p_value(a.correct_SN, b.correct_SN),
        "only_a_right": int((right_a & ~right_b).sum()) if single else None,
        "only_b_right": int((right_b & ~right_a).sum()) if single else None,
        "changed": changed,
        "texts": texts,
    }


def _changed(a: Thing, b: Thing, rows: Split) -> tuple[int, list[dict[str, Any]]]:
    """How many rows get another label, and those of which both sides are surest."""
    p_a, p_b = a.probabilities_NC, b.probabilities_NC
    label_a, label_b = p_a.argmax(1), p_b.argmax(1)
    changed = np.flatnonzero(label_a != label_b)
    sure = np.minimum(p_a.max(1), p_b.max(1))[changed]
    names = a.answers[0].labels
    return len(changed), [
        {
            "row": int(row),
            "text": rows.texts[row],
            "label": names[rows.labels[row]],
            "a": names[label_a[row]],
            "b": names[label_b[row]],
            "probability_a": float(p_a[row].max()),
            "probability_b": float(p_b[row].max()),
        }
        for row in changed[np.argsort(-sure, kind="stable")][:SHOWN]
    ]


def _f1_macro(answer: Answer) -> float:
    return metrics.score(answer.rows.labels, answer.probabilities_NC, answer.labels).f1_macro
