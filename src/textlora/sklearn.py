"""A LoRA classifier as a scikit-learn estimator: `TextLoraClassifier().fit(texts, labels).predict(texts)`.

Goes wherever scikit-learn takes a classifier: Pipeline, cross_val_score, GridSearchCV, joblib.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from textlora import config as configs
from textlora import data
from textlora.config import DEFAULT_RECIPE, Config
from textlora.errors import DataError, UsageError

if TYPE_CHECKING:
    from textlora.predict import Predictor
    from textlora.runs import Run

NOT_SETTINGS = ("recipe", "settings", "random_state", "out")  # parameters that aren't a setting's name
GIVEN_BY_FIT = ("data", "text_column", "label_column", "label_names")  # settings that X and y take the place of
NEXT = "Next: "  # begins the verdict's line that names the run folder


class TextLoraClassifier(ClassifierMixin, BaseEstimator):
    """A LoRA text classifier under a budget of trainable parameters.

    Parameters
    ----------
    recipe : a shipped recipe's name or a TOML file.
    base, budget, lora_r, max_length, num_train_epochs, learning_rate, class_weights : settings of those names; None
        leaves the recipe's value. docs/commands.md lists them all.
    settings : any other settings by name, e.g. {"precision": "fp32", "max_steps": 100}.
    random_state : the run's seed; a whole number, a NumPy RandomState to draw it from, or None for the recipe's. With
        the same seed `fit` gives the same classifier.
    out : a folder to keep the run in (report, pictures, checkpoints); None keeps the adapter alone, in memory. A
        search or a cross-validation fits many times and needs None: a run is never overwritten.

    Attributes
    ----------
    classes_ : (C,) the labels, sorted, in the dtype of `y`.
    summary_ : the run's summary.json: validation accuracy, its interval, baselines, speed, verdict.
    run_ : the run folder as a string, or None.

    Notes
    -----
    `fit` takes a tenth of the rows for validation (`validation_fraction`), as `textlora train` does: the best epoch is
    chosen on it. Rows whose text and label repeat are trained on once. Sample weights aren't supported.

    A pickle (joblib, n_jobs) holds the adapter's files, a few MB, and not the base, which is read again, and its hash
    checked, at the first prediction. Unpickle only what you trust; a run folder (`out`) needs no trust.
    """

    def __init__(
        self,
        recipe: str = DEFAULT_RECIPE,
        *,
        base: str | None = None,
        budget: int | None = None,
        lora_r: int | str | None = None,
        max_length: int | None = None,
        num_train_epochs: float | None = None,
        learning_rate: float | None = None,
        class_weights: str | None = None,
        settings: dict[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        out: str | Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.base = base
        self.budget = budget
        self.lora_r = lora_r
        self.max_length = max_length
        self.num_train_epochs = num_train_epochs
        self.learning_rate = learning_rate
        self.class_weights = class_weights
        self.settings = settings
        self.random_state = random_state
        self.out = out

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, X: Any, y: Any) -> TextLoraClassifier:
        """Train on the texts `X` (N) and their labels `y` (N); returns self.

        X: a list, array or Series of strings, or a table of one such column. y: strings, whole numbers or booleans.
        Raises the errors of textlora.errors, which are ValueErrors where the input is wrong.
        """
        from textlora.train import train  # torch is imported by whoever fits

        config = self._config()
        texts = texts_of(X)
        classes, ids = _encode(texts, y)
        rows = data.from_texts(
            texts,
            ids,
            [str(name) for name in classes.tolist()],
            split_seed=config.split_seed,
            validation_fraction=config.validation_fraction,
        )
        with ExitStack() as stack:
            folder = self.out or stack.enter_context(tempfile.TemporaryDirectory(prefix="textlora-"))
            run = train(config, rows=rows, out=folder)
            self.adapter_ = Adapter.read(run, config)
            self.summary_ = _summary(run, kept=bool(self.out))
        self.classes_ = classes
        self.run_ = str(self.out) if self.out else None
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each text: (N,), in the dtype of `classes_`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (N, C) float64, columns in the order of `classes_`; each row sums to 1."""
        check_is_fitted(self)
        return self.adapter_.predictor().predict_proba(texts_of(X))

    def _config(self) -> Config:
        """The recipe with this estimator's parameters on top."""
        named = {k: v for k, v in self.get_params(deep=False).items() if k not in NOT_SETTINGS and v is not None}
        if self.random_state is not None:
            named["seed"] = _seed(self.random_state)
        more = dict(self.settings or {})
        for name in more:
            if name in named:
                raise UsageError(f"{name} is given twice, as a parameter and in settings", "give it once")
            if name in GIVEN_BY_FIT:
                raise UsageError(f"the setting {name} has no place here", "fit(X, y) takes texts and labels themselves")
        return configs.load(self.recipe, {name: _plain(value) for name, value in (named | more).items()})


class Adapter:
    """A trained adapter's files in memory, and the classifier that they make once it is asked for."""

    def __init__(self, files: dict[str, bytes], loading: dict[str, Any]) -> None:
        self.files, self.loading = files, loading
        self._predictor: Predictor | None = None

    @classmethod
    def read(cls, run: Run, config: Config) -> Adapter:
        """From a run's adapter folder; `config` says where its base is."""
        files = {path.name: path.read_bytes() for path in sorted(run.adapter.iterdir()) if path.is_file()}
        names = ("base_weights", "tokenizer", "precision")
        return cls(files, {name: getattr(config, name) for name in names})

    def predictor(self) -> Predictor:
        """The classifier, its base loaded on first use."""
        if self._predictor is None:
            from textlora.predict import load

            with tempfile.TemporaryDirectory(prefix="textlora-") as folder:
                for name, content in self.files.items():
                    (Path(folder) / name).write_bytes(content)
                self._predictor = load(folder, **self.loading)
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        """Without the base: a pickle of 90 MB would hold little that is ours."""
        return {**self.__dict__, "_predictor": None}


# --------------------------------------------------------------------------------------------------- what comes to fit


def texts_of(X: Any) -> list[str]:
    """The texts in a list, an array, a Series or a table of one column. Raises DataError for anything else."""
    cells = np.asarray(X, dtype=object)
    if cells.ndim == 2 and cells.shape[1] == 1:
        cells = cells[:, 0]
    if cells.ndim != 1:
        shape = f" of shape {cells.shape}" if cells.ndim else ""
        raise DataError(
            f"X is a {type(X).__name__}{shape}, expected texts in one dimension", "pass a list of strings or one column"
        )
    for row, cell in enumerate(cells):
        if not isinstance(cell, str):
            raise DataError(
                f"X[{row}] is a {type(cell).__name__}, expected a string", "fill in or remove missing texts"
            )
    return [str(cell) for cell in cells]  # plain ones: NumPy's and pandas' have classes of their own


def _encode(texts: list[str], y: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes (C,), sorted, and each row's place among them (N,). Raises DataError for what can't be classes."""
    try:
        labels = column_or_1d(y, warn=True)
        if labels.dtype.kind == "U" and not all(
            isinstance(label, str) for label in np.ravel(np.asarray(y, object))
        ):  # NumPy would write 1 as "1"
            raise TypeError("some are strings and some are not")
        check_consistent_length(texts, labels)
        check_classification_targets(labels)
        classes, ids = np.unique(labels, return_inverse=True)
    except (ValueError, TypeError) as error:  # TypeError: kinds that have no order, None among them
        raise DataError(f"y can't be used as labels: {error}", "give one label a text, all of one kind") from None
    if len(classes) == 1:
        raise DataError(
            f"y has one class only, {str(classes[0])!r}, expected two or more", "add texts of another label"
        )
    return classes, ids


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _plain(value: Any) -> Any:
    """NumPy's numbers, which searches draw, as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _summary(run: Run, *, kept: bool) -> dict[str, Any]:
    """The run's figures; without the command that names the run where its folder is about to go."""
    summary = run.summary()
    return summary if kept else summary | {"verdict": [v for v in summary["verdict"] if not v.startswith(NEXT)]}
