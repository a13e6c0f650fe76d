"""Two encoders, of images and of captions, whose vectors are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from harness.captioned import PAD
from models.backbone import Backbone


class Pairs(nn.Module):
    """Compare images with captions.

    Args:
        encoder: Gives the features of an image.
        num_words: Words of the vocabulary.
        most_words: Most words of a caption.
        dim: Numbers of the vector of an image or a caption, a multiple of 4.
    """

    def __init__(self, encoder: Backbone, num_words: int, most_words: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = nn.Sequential(
            nn.Conv2d(encoder.num_channels, dim, 3, stride=2, padding=1),
            nn.ReLU(),
            # Where an animal stands counts: 4 x 4 places, and not their mean.
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * dim, dim),
        )
        self.word = nn.Embedding(num_words, dim, padding_idx=PAD)
        self.order = nn.Parameter(0.02 * torch.randn(most_words + 2, dim))
        self.layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.1, batch_first=True)
        self.head = nn.Linear(dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # as CLIP's

    def of_images(self, image: torch.Tensor) -> torch.Tensor:
        """Return vectors of length 1 of images ``[B, 3, height, width]``: ``[B, dim]``."""
        return F.normalize(self.neck(self.encoder(image)).float(), dim=1)

    def of_captions(self, words: torch.Tensor) -> torch.Tensor:
        """Return vectors of length 1 of captions ``[N, T]``: ``[N, dim]``."""
        is_word = words != PAD
        said = self.word(words) + self.order[: words.shape[1]]
        said = self.layer(said, src_key_padding_mask=~is_word) * is_word[..., None]
        return F.normalize(self.head(said.sum(1) / is_word.sum(1, keepdim=True)).float(), dim=1)

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return the scaled cosines of images and captions, ``[B, N]``."""
        scale = self.log_scale.exp().clamp(max=100)  # as CLIP's
        return scale * self.of_images(image) @ self.of_captions(words).T
