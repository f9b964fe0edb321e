"""Images that are being drawn together: the interface, whoever computes.

Letters: M images, c x h x w their latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

from torch import Tensor

from mmfs.arguments import MMFSAttentionArguments
from models.denoising import Step


class Drawings(ABC):
    """M images, each at a step of its own and with options of its own. Others join them at any step, and they leave at
    any step; what an image becomes does not depend on the others, except for rounding.

    All belong to one model.
    """

    sampled: Sequence[MMFSAttentionArguments] | None = None
    """Of the last step, if it is recorded; see `Step.sampled`."""

    @property
    @abstractmethod
    def done(self) -> list[int]:
        """Denoising steps of each image so far."""

    @property
    @abstractmethod
    def num_steps(self) -> list[int]:
        """Denoising steps that each image takes; it has to leave after them."""

    @property
    @abstractmethod
    def latents(self) -> Tensor:
        """[M, c, h, w]; of an image that has taken its steps, the image."""

    @property
    @abstractmethod
    def estimate(self) -> Tensor:
        """[M, c, h, w], what each image would be if its last prediction were right; undefined before the first step."""

    @abstractmethod
    def step(self) -> None:
        """Take the next step of every image: one call of the U-Net for all of them."""

    def steps(self) -> Iterator[Step]:
        """Take all steps of images that began together, which nobody joins or leaves."""
        for done in range(1, 1 + self.num_steps[0]):
            self.step()
            yield Step(done, self.latents, self.estimate, self.sampled)

    def can_join(self, other: Drawings) -> bool:
        """Whether there is room for the images of both; a PyTorch model has no bound."""
        return True

    @abstractmethod
    def join(self, other: Drawings) -> None:
        """Append the images of another one, which is used up.

        Raises:
            ValueError: there is no room (`can_join`).
        """

    @abstractmethod
    def leave(self, places: Collection[int]) -> None:
        """Images at these places are drawn no further; the others keep their order."""
