"""SetFit on a few rows, by a Python that has it: few_rows.py starts this, for its needs may differ from ours.

    python benchmarks/setfit_worker.py JOB.json ANSWER.json

The job names the base's folder, the training texts with their label ids, the texts to predict, and a seed. The recipe:
20 pairs alike and 20 unlike for each row, one pass in batches of 16 pairs, as published (Tunstall et al. 2022, arXiv
2209.11055); the rate (2e-5), the head (logistic regression) and all else are the library's defaults, but for two things
that only make it faster on a CPU: products in bf16 where the machine has them, and attention without fusing. Imports
nothing of textlora.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

PAIRS = 20  # of each kind for each row


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # products only; weights and the rest stay in fp32
    eager = {"attn_implementation": "eager"}  # torch's fused attention is slow on its way back on a CPU
    model = SetFitModel.from_pretrained(job["base"], local_files_only=True, model_kwargs=eager)
    rows = Dataset.from_dict({"text": job["texts"], "label": job["labels"]})
    wall, processor = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            batch_size=16,
            num_epochs=1,
            num_iterations=PAIRS,
            seed=job["seed"],
            report_to="none",
            save_strategy="no",
        )
        Trainer(model=model, args=args, train_dataset=rows).train()
    wall, processor = time.monotonic() - wall, time.process_time() - processor
    found = [int(label) for label in model.predict(job["held"])]
    Path(sys.argv[2]).write_text(json.dumps({"predicted": found, "wall": wall, "processor": processor}))


if __name__ == "__main__":
    main()
