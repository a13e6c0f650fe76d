"""A network that says what an image shows, word after word."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from harness.captioned import END, PAD, START
from models.backbone import Backbone

#: Most rows and columns of places that the decoder attends to.
GRID = 7


def places(height: int, width: int, dim: int) -> torch.Tensor:
    """Return sines and cosines of row and column for each place: ``[height * width, dim]``."""
    count = dim // 4
    rates = torch.exp(-math.log(100.0) * torch.arange(count) / count)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in (y, x)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)


class Captioner(nn.Module):
    """Say what an image shows: an encoder, and a Transformer that attends to its places.

    Args:
        encoder: Gives the features of an image.
        num_words: Words of the vocabulary.
        most_words: Most words of a caption.
        dim: Channels of the decoder, a multiple of 4 times ``heads``.
        heads: Heads of each attention.
        layers: Layers of the decoder.
        dropout: Share of the decoder's channels that is dropped.
    """

    def __init__(
        self,
        encoder: Backbone,
        num_words: int,
        *,
        most_words: int,
        dim: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = nn.Conv2d(encoder.num_channels, dim, 3, padding=1)
        self.word = nn.Embedding(num_words, dim, padding_idx=PAD)
        self.order = nn.Parameter(0.02 * torch.randn(most_words + 2, dim))
        layer = nn.TransformerDecoderLayer(
            dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(dim))
        self.head = nn.Linear(dim, num_words)

    def look(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the decoder attends to, ``[B, places, dim]``."""
        grid = self.encoder(image)
        height, width = (min(side, GRID) for side in grid.shape[2:])
        grid = self.neck(F.adaptive_avg_pool2d(grid, (height, width)))
        seen = grid.flatten(2).transpose(1, 2)
        return seen + places(height, width, seen.shape[2]).to(seen)

    def read(self, seen: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Return the logits of the word behind each of ``words`` ``[N, T]``: ``[N, T, words]``."""
        length = words.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=words.device).triu(1)
        said = self.word(words) + self.order[:length]
        return self.head(self.decoder(said, seen, tgt_mask=later))

    def forward(
        self, image: torch.Tensor, sample: torch.Tensor, words: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of the next words of captions.

        Args:
            image: Normalised images, ``[B, 3, height, width]``.
            sample: Number of the image of each caption: ``[N]`` int64.
            words: Captions so far: ``[N, T]`` int64.
        """
        return self.read(self.look(image)[sample], words)

    @torch.no_grad()
    def say(self, image: torch.Tensor) -> list[list[int]]:
        """Return the words of each image, the likeliest one after another, up to `END`."""
        seen = self.look(image)
        words = torch.full((len(image), 1), START, device=image.device)
        for _ in range(len(self.order) - 1):
            following = self.read(seen, words)[:, -1].argmax(1, keepdim=True)
            words = torch.cat([words, following], dim=1)
            if bool((words == END).any(1).all()):
                break
        return words.tolist()
