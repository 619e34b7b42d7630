"""Training texts that are remembered: a text's nearest neighbours among them have a say in its label.

News come in stories, and which label a story has is in no linear model and no smooth one. So the adapter may keep texts
themselves, each as the signs of its vector (the mean of the base's embeddings): one bit for each of D features, 48
bytes for MiniLM. A text that is judged attends to them, softmax(sharpness * cosine), and the labels that this finds
are a voice beside the head's (a k-nearest-neighbour head as in kNN-LM, arXiv 1911.00172; signs as keys as in random
hyperplane hashing, Charikar 2002; the text's own vector stays exact). What it is worth: docs/decisions/0017.

Nothing here receives gradients. N texts kept, D features, W = D / 32 rounded up, B texts judged, T tokens, C labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from textlora.counts import BITS, memory_words

DOUBT = 0.02  # share of the labels' probability that is spread over all: else no neighbour could ever be outvoted
# Tried when training is over, one is kept. On AG News 50 to 90 were as good as each other (docs/log.md, 2026-11-29).
SHARPNESS = (30.0, 60.0, 100.0)


class Memory(nn.Module):
    """Texts and their labels; it is empty before `keep`."""

    codes: Tensor  # (N, W) int32: a bit is 1 where the feature is above the mean; texts of one label are together
    counts: Tensor  # (C,) int32: texts of each label, in the order of `codes`
    mean: Tensor  # (D,) of the texts kept
    weights: Tensor  # (2,) sharpness, and what the voice weighs beside the head

    def __init__(self, rows: int, width: int, num_labels: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(rows, memory_words(width), dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(num_labels, dtype=torch.int32))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("weights", torch.zeros(2))
        self._unpacked: tuple[tuple[int, int], Tensor, Tensor] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it remembers nothing yet: it is silent then."""
        return not len(self._table()[1])

    def forward(self, vectors_BD: Tensor) -> Tensor:
        """What the neighbours of texts with these vectors say: (B, C) in fp32, to be added to logits."""
        signs_ND, labels_NC = self._table()
        sharpness, share = self.weights.float().unbind()
        query_BD = normalize(vectors_BD.float() - self.mean.float(), dim=1)
        near_BN = query_BD @ signs_ND.T * (sharpness / signs_ND.shape[1] ** 0.5)
        found_BC = near_BN.softmax(1) @ labels_NC
        return share * ((1 - DOUBT) * found_BC + DOUBT / labels_NC.shape[1]).log()

    def keep(self, vectors_ND: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Remember texts by their vectors and labels, as many as it was made for: by lot, where there are more.

        Raises ValueError for fewer.
        """
        rows = len(self.codes)
        if len(labels) < rows:
            raise ValueError(f"{len(labels)} texts for a memory of {rows}")
        drawn = np.sort(np.random.default_rng(0).permutation(len(labels))[:rows])
        drawn = drawn[np.argsort(labels[drawn], kind="stable")]
        mean_D = vectors_ND.mean(0, dtype=np.float64).astype(np.float32)
        self.mean.copy_(torch.from_numpy(mean_D))
        self.codes.copy_(torch.from_numpy(_packed(vectors_ND[drawn] > mean_D)))
        self.counts.copy_(torch.from_numpy(np.bincount(labels[drawn], minlength=len(self.counts))))

    def says(self, vectors_ND: NDArray[np.floating], batch: int = 256) -> NDArray[np.float32]:
        """What it says of many texts, (N, C)."""
        place = self.codes.device
        with torch.inference_mode():
            parts = [
                self(torch.from_numpy(vectors_ND[i : i + batch]).to(place)) for i in range(0, len(vectors_ND), batch)
            ]
        return torch.cat(parts).cpu().numpy()

    def weigh(self, sharpness: float, share: float) -> None:
        """How near a neighbour must be, and what its label weighs in the logits."""
        self.weights.copy_(torch.tensor([sharpness, share]))

    def _table(self) -> tuple[Tensor, Tensor]:
        """(signs (N, D) of 1 and -1, labels (N, C)), unpacked once for each state of the codes: 4 bytes a feature."""
        state = (self.codes._version, self.codes.data_ptr())
        if self._unpacked is None or self._unpacked[0] != state:
            width = len(self.mean)
            places = torch.arange(BITS, dtype=torch.int32, device=self.codes.device)
            bits_NWK = (self.codes.unsqueeze(-1) >> places) & 1
            signs_ND = bits_NWK.flatten(1)[:, :width].float() * 2 - 1
            label_of_N = torch.repeat_interleave(self.counts.long())
            labels_NC = one_hot(label_of_N, len(self.counts)).float()  # of no text before `keep`
            self._unpacked = (state, signs_ND, labels_NC)
        return self._unpacked[1:]


def _packed(bits_ND: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(N, W): feature i is bit i % 32 of number i // 32."""
    padded = np.zeros((len(bits_ND), memory_words(bits_ND.shape[1]) * BITS), bool)
    padded[:, : bits_ND.shape[1]] = bits_ND
    return np.packbits(padded, axis=1, bitorder="little").view("<i4").astype(np.int32)
