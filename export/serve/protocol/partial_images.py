"""Previews as responses and images ask for them: so many of each image, where chat has one every so many steps."""

from __future__ import annotations

from export.serve.errors import invalid

MOST_PARTIAL_IMAGES = 3


def checked_partial_images(asked: int | None, place: str) -> int:
    """How many previews of an image are asked for.

    Args:
        asked: as the request has it; None: none.
        place: where it stands in the request.

    Raises:
        RequestError: there are not so many.
    """
    number = asked or 0
    if not 0 <= number <= MOST_PARTIAL_IMAGES:
        raise invalid(f"{place} is {number}; expected 0 to {MOST_PARTIAL_IMAGES}.", place)
    return number


def preview_steps(num_steps: int, partial_images: int) -> int:
    """Denoising steps between two previews, so that as many come as were asked for, spread over all steps; 0: none."""
    return max(1, num_steps // (partial_images + 1)) if partial_images else 0
