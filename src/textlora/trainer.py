"""The Trainer's side: Hugging Face's loop with our loss, batches, schedules, and checkpoints without pickle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from textlora import adapter, checkpoint, device, optim, runs, sam
from textlora.callbacks import Meter
from textlora.config import Config
from textlora.errors import UsageError
from textlora.runs import Run
from textlora.schedule import by_steps, learning_rate_factor, warmup_steps
from textlora.tokens import EqualBatches, SortedSteps, TokenBatches, Tokens

KEPT_CHECKPOINTS = 2  # the newest and the one before: if a crash damages one, the other is there


# ------------------------------------------------------------------------------------------------------------ the loss


def step_loss(texts_per_step: float, smoothing: float = 0.0, weights_C: Tensor | None = None) -> Callable[..., Tensor]:
    """The loss of an optimizer step, sum(w_i * loss_i) / M, as the Trainer's `compute_loss_func`.

    M = `texts_per_step` is the constant mean number of texts of a step, not the number in this batch: dividing by
    that would make a text count more for lying in a batch of long texts. Summed over accumulated batches; never
    divided again. `shares_B` are the parts of their texts that rows count for, where texts have several.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None, shares_B: Tensor | None = None) -> Tensor:
        logits_BC = outputs.logits.float()
        each_B = torch.nn.functional.cross_entropy(logits_BC, labels, reduction="none", label_smoothing=smoothing)
        if weights_C is not None:
            each_B = each_B * weights_C.to(labels.device)[labels]
        if shares_B is not None:
            each_B = each_B * shares_B
        return each_B.sum() / texts_per_step

    return loss


def label_weights(labels: np.ndarray, num_labels: int, kind: str) -> Tensor | None:
    """A weight for each label, their mean over the rows 1; None for kind `none`.

    `balanced` is scikit-learn's, n / (C * n_c): every label pulls alike. `sqrt` is between that and none.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=num_labels)
    weights = len(labels) / (num_labels * np.maximum(counts, 1))
    if kind == "sqrt":
        weights = np.sqrt(weights) / np.sqrt(weights)[labels].mean()
    return torch.tensor(weights, dtype=torch.float32)


# --------------------------------------------------------------------------------------------------------- the Trainer


class TextTrainer(Trainer):
    """Hugging Face's Trainer with our batches, schedules, figures, and checkpoints without pickle."""

    def __init__(
        self,
        *,
        config: Config,
        batches: TokenBatches | None,
        meter: Meter,
        measure: Callable[[], dict[str, float]],
        pace: Callable[[float, int], float] = by_steps,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config, self.batches, self.meter, self.measure, self.pace = config, batches, meter, measure, pace

    def get_train_dataloader(self) -> DataLoader[Any]:
        batches = self.batches or self._sorted_steps()
        if batches is None:
            return super().get_train_dataloader()
        loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)  # type: ignore[arg-type]
        return self.accelerator.prepare(loader)

    def _sorted_steps(self) -> SortedSteps | None:
        """The Trainer's own random order with less padding; None where it matters which rows share a batch."""
        c, rows = self.config, self.train_dataset
        if c.gradient_accumulation_steps == 1 or c.sam_rho or c.loss != "cross-entropy":
            return None
        lengths, order = rows.tokens.lengths, self._get_train_sampler()  # type: ignore[union-attr]
        return SortedSteps(order, lengths, c.per_device_train_batch_size, c.gradient_accumulation_steps)  # type: ignore[arg-type]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = optim.build(self.config.optim, model or self._peft_model(), self.config)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        c, steps = self.config, num_training_steps
        warmup = warmup_steps(steps, c.warmup_ratio, c.warmup_steps)
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,  # type: ignore[arg-type]
            lambda step: learning_rate_factor(self.pace(step, steps), steps, warmup, c.lr_scheduler_type, c.num_cycles),
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        texts = float(inputs["shares"].sum()) if "shares" in inputs else len(inputs["labels"])
        self.meter.count(texts, int(inputs["attention_mask"].sum()))
        backward = partial(super().training_step, model, inputs, num_items_in_batch)
        if not self.config.sam_rho:
            return backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]  # type: ignore[union-attr]
        return sam.add_gradient(backward, trained, self.config.sam_rho)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Our step loss; the Trainer's own version would hand `shares` on to the model."""
        labels, shares_B = inputs["labels"], inputs.get("shares")
        outputs = model(**{key: value for key, value in inputs.items() if key not in ("labels", "shares")})
        loss = self.compute_loss_func(outputs, labels, num_items_in_batch, shares_B)  # type: ignore[misc]
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Figures of the validation rows and of a sample of the training rows, through our one numbers path."""
        figures = self.measure()
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def train_from(self, start: Path | None) -> None:
        """Train, from the checkpoint `start` on if there is one; that of a last step is only loaded: the Trainer would
        make one more."""
        state = TrainerState.load_from_json(str(start / TRAINER_STATE_NAME)) if start else self.state
        if not start or state.global_step < state.max_steps:
            self.train(resume_from_checkpoint=str(start) if start else None)
            return
        self.state = state
        self._load_from_checkpoint(str(start))
        self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.callback_handler.on_train_end(self.args, self.state, self.control)

    # Checkpoints: what the Trainer would pickle goes through textlora.checkpoint, and a manifest is written last.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir or "") / f"{checkpoint.PREFIX}{self.state.global_step}"
        with runs.storing(folder):
            super()._save_checkpoint(model, trial)
            checkpoint.seal(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        adapter.save_weights(self._peft_model(), Path(output_dir or self.args.output_dir or ""))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.lr_scheduler.state_dict()}  # type: ignore[union-attr]
            checkpoint.write_state(Path(output_dir), "optimizer", state)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder:
            state = checkpoint.read_state(Path(checkpoint_folder), "optimizer")
            self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[union-attr]
            self.lr_scheduler.load_state_dict(state["scheduler"])  # type: ignore[union-attr]

    def _save_scaler(self, output_dir: str) -> None:
        if self.accelerator.scaler is not None and self.args.should_save:
            checkpoint.write_state(Path(output_dir), "scaler", self.accelerator.scaler.state_dict())

    def _load_scaler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.read_state(Path(checkpoint_folder), "scaler"))

    def _save_rng_state(self, output_dir: str) -> None:
        checkpoint.write_state(Path(output_dir), f"rng-{self.args.process_index}", checkpoint.rng_state())

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder:
            checkpoint.set_rng_state(checkpoint.read_state(Path(checkpoint_folder), f"rng-{self.args.process_index}"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model_: Any = None) -> None:
        adapter.set_adapter_tensors(self._peft_model(), adapter.read_weights(Path(resume_from_checkpoint)))

    def _load_best_model(self) -> None:
        """By the step, not by the path that the state remembers: the run's folder may have been moved since."""
        best = Path(self.args.output_dir or "") / f"{checkpoint.PREFIX}{self.state.best_global_step}"
        if self.state.best_global_step and best.is_dir():
            self._load_from_checkpoint(str(best))

    def _peft_model(self) -> PeftModel:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------- settings for it


def arguments(config: Config, run: Run, dtype: torch.dtype) -> TrainingArguments:
    """The run's settings in the Trainer's words. Raises UsageError when launched as several processes."""
    every = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if config.eval_steps:
        every = {
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "eval_steps": config.eval_steps,
            "save_steps": config.eval_steps,
        }
    args = TrainingArguments(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=config.per_device_train_batch_size or 1,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",  # never asked for: `TextTrainer.create_optimizer` makes ours
        use_cpu=device.pick_device().type == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that isn't a number must be seen, not averaged away
        load_best_model_at_end=True,
        metric_for_best_model=config.metric_for_best_model,
        greater_is_better=True,
        save_total_limit=KEPT_CHECKPOINTS,
        seed=config.seed,
        report_to=list(config.report_to) or "none",
        run_name=run.folder.name,  # in trackers
        label_names=["labels"],
        remove_unused_columns=False,
        disable_tqdm=True,
        **every,  # type: ignore[arg-type]
    )
    if args.world_size > 1:
        raise UsageError(f"training takes one process, this is one of {args.world_size}", "start it without a launcher")
    args._n_gpu = min(1, args.n_gpu)  # DataParallel over several GPUs would scale the loss by their number
    return args


def batches_of(config: Config, tokens: Tokens, world_size: int) -> tuple[TokenBatches | None, float]:
    """The batch sampler (None: the Trainer's own random order) and the mean number of texts of an optimizer step."""
    per_step = config.gradient_accumulation_steps * world_size
    if not config.batch_tokens:
        rows = min(len(tokens), config.per_device_train_batch_size * per_step)
        return None, rows * tokens.texts / len(tokens)
    kind = TokenBatches if config.loss == "cross-entropy" else EqualBatches
    batches = kind(tokens.lengths, config.batch_tokens, config.seed, world_size)
    return batches, tokens.texts / len(batches) * per_step
