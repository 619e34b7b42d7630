"""The default recipe fitted to the data: how long, in what batches, judged how often, weighted or not. No torch.

A recipe lists in `auto` which of its settings are chosen here. Each rule sees the settings as the rules before it (or
the user) left them. Which numbers were measured and which are guesses that did well: docs/log.md, by
benchmarks/small_data.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from textlora import bases
from textlora.config import Config
from textlora.longtext import WIDTH_STEP, WINDOW_MEAN

if TYPE_CHECKING:  # `plan` asks a rule here, and starts before NumPy would be there
    import numpy as np

COVERED = 0.99  # of the training texts are read whole
# What is read of texts that are all shorter: less would cut the few longest and save nothing, since a batch is only as
# wide as its longest text.
USUAL_LENGTH = 128
BATCHES = (256, 512, 1024, 2048)  # tokens in a batch
UPDATES_PER_EPOCH = 40  # fewer than this, and the batch is halved
UPDATES = 250  # optimizer steps that a run should have, however few its rows,
UPDATES_PER_LABEL = 20  # and with more than 12 labels this for each: two data sets of 23 (docs/log.md)
MANY_EPOCHS = 30  # the cap on the way there
USUAL_EPOCHS, USUAL_WARMUP = 3, 0.06
# From so many rows on, two passes at the recipe's rate are as good as three at half of it, which 1,000 rows want
# (docs/log.md: seen on 16,000 rows and on 1,000; where between is a guess). On the base that this was seen on, where a
# recipe's own passes are right.
MANY, BRISK_BASE, SLOWER = 10_000, "minilm", 0.5
LONG_WARMUP = 0.1  # for runs of few steps: Mosbach et al. 2021 (arXiv 2006.04884) on small sets
LARGE, HUGE = 50_000, 250_000  # rows from which two passes (three, sharpness-aware), and one, are enough
EVALUATIONS = 10  # of a run at most, where epochs are short
ROWS_BETWEEN_EVALUATIONS = 50_000  # at most, where epochs are long
CHOOSING = 200  # validation rows from which an evaluation may choose; below, the last weights are taken
# Below so many rows, validation among them, adapters learn from pairs: seen to gain at 8, 16 and 64 rows of each of 4
# labels and to lose at 250 (docs/log.md); where between them it turns is a guess, and IN_A_BATCH.
FEW_FOR_PAIRS, PAIRS = 400, "contrastive"
PAIR_UPDATES, LEAST_PAIR_EPOCHS, PAIR_RATE = 40, 10, 0.2  # steps, passes, share of the recipe's rate
IN_A_BATCH = 4  # rows of each label, on average, and in all
MOST_REMEMBERED = 30_000  # training texts: each takes its time for every text that is judged
FEW = 2_000  # rows, validation among them, below which a run ends with a second training on all of them
AT_THE_END = 1_000_000_000  # steps between evaluations, so that there is one only
JUDGED_ROWS = 4_000  # validation rows scored during training: a standard error of 0.4 points at 0.93
SKEWED = 3.0  # the most frequent label to the rarest: from here on labels are weighted


@dataclass(frozen=True, eq=False)
class Facts:
    """What the rules know of the data."""

    counts: tuple[int, ...]  # training rows by label
    lengths: np.ndarray  # tokens of each training text, before any is cut: (N,)
    validation: int  # its rows
    longest: int = 512  # tokens that the base takes
    bag_of_tokens: bool = False  # whether one fits the budget
    memory: int = 0  # training texts of which one fits the budget

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def labels(self) -> int:
        """How many occur."""
        return sum(count > 0 for count in self.counts)

    @property
    def skew(self) -> float:
        """How often the most frequent label for one row of the rarest that occurs."""
        present = [count for count in self.counts if count]
        return max(present) / min(present)

    def updates_per_epoch(self, config: Config) -> float:
        """Optimizer steps of one pass, a little fewer than there will be: batches of one width aren't always full."""
        batches = self.rows / max(1, config.per_device_train_batch_size)
        if config.batch_tokens:
            cut = config.long_text != WINDOW_MEAN
            read = self.lengths.clip(max=config.max_length) if cut else self.lengths
            batches = float(read.sum()) / config.batch_tokens
        return max(1.0, batches / config.gradient_accumulation_steps)


def fitted(config: Config, facts: Facts) -> tuple[Config, tuple[str, ...]]:
    """`config` with every setting in its `auto` chosen, `auto` empty, and a line for people that says what was.

    What comes out replays: fitting it again changes nothing.
    """
    names = [name for name in RULES if name in config.auto]
    for name in names:
        config = replace(config, **{name: RULES[name](config, facts)})
    words = ", ".join(filter(None, (WORDS[name](config) for name in names)))
    line = f"fitted to {facts.rows:,} training rows (labels {facts.skew:.3g}:1 from most frequent to rarest): {words}"
    return replace(config, auto=()), (line,) if names else ()


# ------------------------------------------------------------------------------------------------------------ the rules


def _max_length(config: Config, facts: Facts) -> int:
    """What covers 99 % of the training texts, as far as the base takes them and a batch that was named holds them."""
    lengths = sorted(facts.lengths.tolist())
    covers = lengths[ceil(COVERED * len(lengths)) - 1]
    limits = [facts.longest]
    if config.batch_tokens and "batch_tokens" not in config.auto:
        limits.append(config.batch_tokens)
    return min(*limits, max(USUAL_LENGTH, -(-covers // WIDTH_STEP) * WIDTH_STEP))


def _loss(config: Config, facts: Facts) -> str:
    """Pairs of texts on few rows, where a batch holds several of each label; on the base that this was seen on."""
    mean = facts.lengths.clip(max=config.max_length).mean()
    several = BATCHES[-1] / mean >= IN_A_BATCH * facts.labels and min(c for c in facts.counts if c) >= IN_A_BATCH
    plain = config.head == "linear" and not config.label_smoothing_factor and config.long_text != WINDOW_MEAN
    few = facts.rows + facts.validation < FEW_FOR_PAIRS and _brisk_base(config) and facts.skew < SKEWED
    return PAIRS if few and several and plain else config.loss


def _batch_tokens(config: Config, facts: Facts) -> int:
    """The largest batch that still gives enough updates in an epoch; never smaller than one text may be. Pairs want as
    many texts as there are."""
    fitting = [size for size in BATCHES if size >= config.max_length] or [config.max_length]
    if config.loss == PAIRS:
        return fitting[-1]
    enough = [
        size for size in fitting if facts.updates_per_epoch(replace(config, batch_tokens=size)) >= UPDATES_PER_EPOCH
    ]
    return max(enough, default=fitting[0])


def _num_train_epochs(config: Config, facts: Facts) -> float:
    brisk = _brisk(config, facts)
    usual = config.num_train_epochs if brisk else USUAL_EPOCHS
    if facts.rows >= LARGE:
        return float(min(usual, 1 if facts.rows >= HUGE else 3 if brisk and config.sam_rho else 2))
    if config.loss == PAIRS:
        return float(max(LEAST_PAIR_EPOCHS, ceil(PAIR_UPDATES / facts.updates_per_epoch(config))))
    updates = max(UPDATES, UPDATES_PER_LABEL * facts.labels)
    wanted = ceil(updates / facts.updates_per_epoch(config))
    return float(min(max(wanted, usual), MANY_EPOCHS))


def _brisk(config: Config, facts: Facts) -> bool:
    """Whether the recipe's own passes, at its high rate, will do."""
    return _many(config, facts.rows)


def _many(config: Config, rows: int) -> bool:
    return rows >= MANY and _brisk_base(config)


def _brisk_base(config: Config) -> bool:
    """By whichever of its names: a base has its hub's id too."""
    return bases.find(config.base).name == BRISK_BASE


def _learning_rate(config: Config, facts: Facts) -> float:
    """The recipe's where the rows are many and the passes few, or sharpness-aware, which overfit later (docs/log.md);
    else a lower one; the lowest for pairs."""
    if config.loss == PAIRS:
        return config.learning_rate * PAIR_RATE
    brisk = _brisk(config, facts) and (config.sam_rho > 0 or config.num_train_epochs < USUAL_EPOCHS)
    return config.learning_rate * (1.0 if brisk else SLOWER)


def _updates(config: Config, facts: Facts) -> float:
    return config.max_steps if config.max_steps > 0 else config.num_train_epochs * facts.updates_per_epoch(config)


def _warmup_ratio(config: Config, facts: Facts) -> float:
    return LONG_WARMUP if _updates(config, facts) < 2 * UPDATES else USUAL_WARMUP


def _eval_steps(config: Config, facts: Facts) -> int:
    """0, each epoch, unless epochs are many or long, or validation is too small to choose by.

    Of equals the Trainer takes the first: on a handful of rows that is a model that has hardly begun.
    """
    if facts.validation < CHOOSING and not config.early_stopping_patience:
        return AT_THE_END
    per_epoch, updates = facts.updates_per_epoch(config), _updates(config, facts)
    if updates > EVALUATIONS * per_epoch:
        return ceil(updates / EVALUATIONS)
    parts = ceil(facts.rows / ROWS_BETWEEN_EVALUATIONS)
    return 0 if parts == 1 else ceil(per_epoch / parts)


def _max_eval_samples(config: Config, facts: Facts) -> int:
    return JUDGED_ROWS if facts.validation > JUDGED_ROWS else 0


def _class_weights(config: Config, facts: Facts) -> str:
    """At 50:1 `sqrt` does as well as `balanced` on rows of equal labels, and better on rows as skewed as its own."""
    return "sqrt" if facts.skew >= SKEWED else "none"


def _bag_of_tokens(config: Config, facts: Facts) -> bool:
    return facts.bag_of_tokens


def _memory(config: Config, facts: Facts) -> int:
    return facts.memory


def for_rows(config: Config, rows: int) -> Config:
    """`config` before it is planned: a memory that is left to the data asks for all `rows` training texts, and where
    they are few or the base is another than it was seen on, for none."""
    if "memory" not in config.auto:
        return config
    return replace(config, memory=min(rows, MOST_REMEMBERED) if _many(config, rows) else 0)


def _metric(config: Config, facts: Facts) -> str:
    return "f1_macro" if facts.skew >= SKEWED else "accuracy"


def _refit(config: Config, facts: Facts) -> bool:
    """On few rows each counts, and a second training takes seconds (docs/log.md, 2026-11-23)."""
    ends_early = bool(config.time_limit or config.early_stopping_patience)
    return facts.rows + facts.validation < FEW and not ends_early


RULES: dict[str, Callable[[Config, Facts], Any]] = {
    "max_length": _max_length,
    "loss": _loss,
    "batch_tokens": _batch_tokens,
    "num_train_epochs": _num_train_epochs,
    "learning_rate": _learning_rate,
    "warmup_ratio": _warmup_ratio,
    "eval_steps": _eval_steps,
    "max_eval_samples": _max_eval_samples,
    "class_weights": _class_weights,
    "metric_for_best_model": _metric,
    "bag_of_tokens": _bag_of_tokens,
    "memory": _memory,
    "refit": _refit,
}


def _best_words(config: Config) -> str:
    """Nothing where there is nothing to choose from: one evaluation of one seed."""
    chosen = config.eval_steps != AT_THE_END or config.seeds > 1
    return "best by f1_macro" if chosen and config.metric_for_best_model == "f1_macro" else ""


def _bag_words(config: Config) -> str:
    if config.bag_of_tokens:
        return ""
    return f"no bag of tokens ({'it goes with a head of ours' if config.head == 'full' else 'over the budget'})"


WORDS: dict[str, Callable[[Config], str]] = {
    "max_length": lambda c: f"{c.max_length} tokens of a text",
    "loss": lambda c: "learning from pairs" if c.loss == PAIRS else "",
    "batch_tokens": lambda c: f"{c.batch_tokens} tokens a batch",
    "num_train_epochs": lambda c: f"{c.num_train_epochs:g} epochs",
    "learning_rate": lambda c: f"learning rate {c.learning_rate:g}",
    "warmup_ratio": lambda c: f"warm-up {100 * c.warmup_ratio:g} %",
    "eval_steps": lambda c: {0: "judged each epoch", AT_THE_END: "judged once, at the end"}.get(
        c.eval_steps, f"judged every {c.eval_steps} steps"
    ),
    "max_eval_samples": lambda c: f"on {c.max_eval_samples:,} validation rows" if c.max_eval_samples else "",
    "class_weights": lambda c: f"class weights {c.class_weights}",
    "metric_for_best_model": _best_words,
    "refit": lambda c: "then once more on validation rows too" if c.refit else "",
    "bag_of_tokens": _bag_words,
    "memory": lambda c: f"{c.memory:,} training texts remembered" if c.memory else "",
}
