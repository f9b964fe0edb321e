"""The layer in a model of your own: a model that is asked for a detail of the newest image it has been shown.

    python -m examples.layer

A sequence shows one image after the other and asks after each: which colour has the square at this place of the image?
An image is a grid of 6 x 6 squares in 8 colours. One model has each image as a single vector, the mean of its features,
like a model with one visual token. The other has the same vector, and looks into the feature maps with MMFS, at points
that depend on the question. The first can only guess.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfs import MMFS

GRID = 6
"""Squares in a row and in a column of an image."""

NUM_COLOURS = 8
NUM_IMAGES = 3
"""In a sequence."""

SQUARE_PX = 4
WIDTH = 64


class Reader(nn.Module):
    """Answers the question after each image.

    Args:
        with_mmfs: look into the feature maps, too.
    """

    def __init__(self, *, with_mmfs: bool) -> None:
        super().__init__()
        side = GRID * SQUARE_PX // 2
        self.fine = nn.Sequential(nn.Conv2d(3, WIDTH, 3, stride=2, padding=1), nn.GELU())
        self.coarse = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.GELU())
        self.question = nn.Embedding(GRID * GRID, WIDTH)
        self.mmfs = None
        if with_mmfs:
            self.mmfs = MMFS(
                WIDTH,
                WIDTH,
                spatial_shapes=[(side, side), (side // 2, side // 2)],  # finest first
                num_heads=8,
                num_points=8,
                base=GRID,  # an offset of 1 is one square
                offset_init="grid",
                offset_init_cells=GRID / 2,  # at first the 64 points are spread over the whole image
            )
        self.answer = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, NUM_COLOURS))

    def forward(self, images: Tensor, places: Tensor) -> Tensor:
        """images [B, T, 3, h, w] and places [B, T] -> logits [B, T, NUM_COLOURS]."""
        batch, count = places.shape
        fine = self.fine(images.flatten(0, 1))
        levels = [fine, self.coarse(fine)]
        features = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # [B*T, S, WIDTH]
        state = self.question(places) + features.mean(1).view(batch, count, WIDTH)
        if self.mmfs is not None:
            # The bank holds the images of all sequences. After its image t, a sequence sees its images 0 to t.
            first = torch.arange(batch)[:, None] * count
            visible = torch.stack([first.expand(-1, count), first + torch.arange(count) + 1], dim=-1)
            centre = torch.tensor([0.5, 0.5])
            state = state + self.mmfs(state, centre, visible, values=self.mmfs.project_values(features))
        return self.answer(state)


def sequences(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images [count, T, 3, h, w], places asked for [count, T], and the colours there [count, T]."""
    palette = torch.tensor([[r, g, b] for r in (0.0, 1.0) for g in (0.0, 1.0) for b in (0.0, 1.0)])
    colours = torch.randint(NUM_COLOURS, (count, NUM_IMAGES, GRID, GRID), generator=generator)
    images = palette[colours].movedim(-1, 2)
    images = images.repeat_interleave(SQUARE_PX, -1).repeat_interleave(SQUARE_PX, -2)
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    places = torch.randint(GRID * GRID, (count, NUM_IMAGES), generator=generator)
    return images, places, colours.flatten(2).gather(2, places[..., None])[..., 0]


def train(*, with_mmfs: bool, num_steps: int = 300, seed: int = 0) -> float:
    """Share of right answers to questions about images that were not trained on."""
    torch.manual_seed(seed)
    model = Reader(with_mmfs=with_mmfs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=num_steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        images, places, colours = sequences(32, generator)
        loss = F.cross_entropy(model(images, places).flatten(0, 1), colours.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images, places, colours = sequences(256, torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        return float((model(images, places).argmax(-1) == colours).float().mean())


def main(num_steps: int = 300) -> tuple[float, float]:
    """Train both models and print their scores: without and with MMFS."""
    without = train(with_mmfs=False, num_steps=num_steps)
    print(f"one vector for each image: {without:.0%} right")
    found = train(with_mmfs=True, num_steps=num_steps)
    print(f"and MMFS:                  {found:.0%} right (by chance {1 / NUM_COLOURS:.0%})")
    return without, found


if __name__ == "__main__":
    main()
