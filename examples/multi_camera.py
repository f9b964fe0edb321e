"""A multi-camera model: BEVFormer's spatial cross-attention (Li et al., 2022, section 3.3) with one call of the op.

    python -m examples.multi_camera

A vehicle has six cameras. The model predicts which cells of the ground around it are occupied, as a map from above
(bird's-eye view, BEV). Each cell has a query; the cell's centre, at a few heights, is projected into every camera, and
the query attends around these points in the cameras that see them. The mean over cameras and heights is its result.

With mmfs the cameras are the images of a bank, and each query has a list of what it meets: a camera's number, and where
the cell lies in that camera. A slot of the list is a camera and a height; -1 stands where the camera does not see the
cell. No query is copied for each camera, no camera is padded to the longest list, and nothing is scattered back.

The world is made up: upright posts on the ground, which each camera draws as it would see them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfs import MMFS

NUM_CAMERAS = 6
CELLS = 16
"""Of the map, in a row and in a column."""

REACH_M = 8.0
"""From the vehicle to the edge of the map."""

HEIGHTS_M = (0.2, 1.0)
"""At which a cell is projected."""

CAMERA_HEIGHT_M = 1.6
POST_HEIGHT_M = 1.2
IMAGE_SIZE = (32, 64)
FOCAL_PX = 40.0
"""64 pixels wide: 77 degrees, so neighbouring cameras overlap a little."""

WIDTH = 32


def project(points: Tensor) -> tuple[Tensor, Tensor]:
    """Where points are in each camera.

    Args:
        points: [K, 3], metres to the front, to the left and up, from the ground below the vehicle.

    Returns:
        places: [NUM_CAMERAS, K, 2], (x, y) in [0, 1] of the image.
        depths: [NUM_CAMERAS, K], metres along the camera's axis; a point is seen where its depth is above 0.3 and its
            place is inside of the image.
    """
    turn = torch.arange(NUM_CAMERAS) * (2 * math.pi / NUM_CAMERAS)
    front, left, up = points.unbind(-1)
    depths = turn.cos()[:, None] * front + turn.sin()[:, None] * left
    sideways = turn.sin()[:, None] * front - turn.cos()[:, None] * left  # to the right of the axis
    safe = depths.clamp(min=1e-3)
    height, width = IMAGE_SIZE
    x = 0.5 + FOCAL_PX / width * sideways / safe
    y = 0.5 + FOCAL_PX / height * (CAMERA_HEIGHT_M - up) / safe
    return torch.stack([x, y], dim=-1), depths


def seen(places: Tensor, depths: Tensor) -> Tensor:
    """bool [NUM_CAMERAS, K] of what `project` returns."""
    return (depths > 0.3) & ((places >= 0) & (places <= 1)).all(-1)


def cell_centres() -> Tensor:
    """[CELLS * CELLS, 2], metres to the front and to the left."""
    line = (torch.arange(CELLS) + 0.5) / CELLS * 2 * REACH_M - REACH_M
    return torch.cartesian_prod(line, line)


class SpatialCrossAttention(nn.Module):
    """BEV queries attend to the cameras that see their cell.

    Buffers, by cell and slot, a slot for each camera and height: `lists`, int [Q, K], the camera or -1, and `places`,
    [Q, K, 2], (x, y) of the cell in its image.

    Args:
        width: channels of queries and features.
        level_sizes: (h, w) of the levels of a camera's features.
    """

    lists: Tensor
    places: Tensor

    def __init__(self, width: int, level_sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.attend = MMFS(
            width,
            width,
            spatial_shapes=level_sizes,
            num_heads=4,
            num_points=4,
            base=(16, 8),
            max_age=1,  # all slots alike: equal logits make the softmax over them a mean
            null=False,
            offset_init_cells=0.5,
        )
        centres = cell_centres()
        anchors = torch.cat([F.pad(centres, (0, 1), value=height) for height in HEIGHTS_M])
        places, depths = project(anchors)  # [NUM_CAMERAS, heights * Q, 2]
        cameras = torch.arange(NUM_CAMERAS)[:, None].expand_as(depths)
        lists = torch.where(seen(places, depths), cameras, -1)
        slots = (NUM_CAMERAS * len(HEIGHTS_M), len(centres))
        self.register_buffer("lists", lists.reshape(slots).T.contiguous())
        self.register_buffer("places", places.reshape(*slots, 2).transpose(0, 1).contiguous())

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """queries [B, Q, width] and features [B, NUM_CAMERAS, S, width] -> [B, Q, width]; the bias of the
        output projection alone where no camera sees."""
        first = torch.arange(len(queries))[:, None, None] * NUM_CAMERAS  # of each row's cameras, in the bank
        lists = torch.where(self.lists >= 0, first + self.lists, -1)  # [B, Q, K]
        return self.attend(queries, self.places[None], image_indices=lists, features=features.flatten(0, 1))


class Occupancy(nn.Module):
    """Camera images to the logits of occupied cells."""

    def __init__(self) -> None:
        super().__init__()
        height, width = IMAGE_SIZE
        self.fine = nn.Sequential(nn.Conv2d(1, WIDTH, 3, stride=2, padding=1), nn.GELU())
        self.coarse = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.GELU())
        self.query = nn.Parameter(torch.randn(CELLS * CELLS, WIDTH) * 0.1)
        self.cross = SpatialCrossAttention(WIDTH, [(height // 2, width // 2), (height // 4, width // 4)])
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[B, NUM_CAMERAS, 1, h, w] -> [B, CELLS * CELLS]."""
        fine = self.fine(images.flatten(0, 1))
        levels = [fine, self.coarse(fine)]
        features = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        features = features.unflatten(0, images.shape[:2])
        queries = self.query.expand(len(images), -1, -1)
        return self.head(queries + self.cross(queries, features))[..., 0]


def scenes(count: int, generator: torch.Generator, num_posts: int = 6) -> tuple[Tensor, Tensor]:
    """Images [count, NUM_CAMERAS, 1, h, w] and occupied cells, bool [count, CELLS * CELLS]."""
    height, width = IMAGE_SIZE
    centres = cell_centres()
    far = (centres.norm(dim=-1) > 2.0).nonzero()[:, 0]  # not below the vehicle itself
    images = torch.zeros(count, NUM_CAMERAS, 1, height, width)
    occupied = torch.zeros(count, len(centres), dtype=torch.bool)
    up = torch.linspace(0, POST_HEIGHT_M, 24)
    for scene in range(count):
        cells = far[torch.randperm(len(far), generator=generator)[:num_posts]]
        occupied[scene, cells] = True
        post = torch.cat([centres[cells].repeat_interleave(len(up), 0), up.repeat(num_posts)[:, None]], dim=1)
        places, depths = project(post)
        camera, point = seen(places, depths).nonzero(as_tuple=True)
        x, y = (places[camera, point] * torch.tensor([width, height])).long().unbind(-1)
        images[scene, camera, 0, y.clamp(max=height - 1), x.clamp(max=width - 1)] = 1.0
    return images + 0.1 * torch.randn(images.shape, generator=generator), occupied


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Area below precision over recall, of all cells of all scenes together."""
    hit = truth.flatten()[scores.flatten().argsort(descending=True)].float()
    precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / hit.sum())


def main(num_steps: int = 150, *, batch_size: int = 8) -> tuple[float, float]:
    """Train the model; returns and prints its average precision on new scenes, and that of guessing."""
    torch.manual_seed(0)
    model = Occupancy()
    pairs = int((model.cross.lists >= 0).sum())
    print(f"{CELLS * CELLS} cells at {len(HEIGHTS_M)} heights and {NUM_CAMERAS} cameras: {pairs} pairs meet", end=" ")
    print(f"(of {CELLS * CELLS * len(HEIGHTS_M) * NUM_CAMERAS})")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        images, occupied = scenes(batch_size, generator)
        loss = F.binary_cross_entropy_with_logits(model(images), occupied.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, occupied = scenes(32, torch.Generator().manual_seed(1))
    with torch.no_grad():
        precision = average_precision(model(images), occupied)
    chance = float(occupied.float().mean())
    print(f"occupied cells of new scenes: average precision {precision:.2f} (by chance {chance:.2f})")
    return precision, chance


if __name__ == "__main__":
    main()
