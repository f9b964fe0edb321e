"""The stories: what the model was given, and what it told."""

from __future__ import annotations

from html import escape

from trainer.data.document import Text
from trainer.demo.content import Demo, Story
from trainer.demo.images import img


def section(demo: Demo) -> str:
    if not demo.stories:
        return ""
    cards = "".join(f'<div class="panel told">{_told(story)}</div>' for story in demo.stories)
    return (
        '<p class="note">The model got the first sentence only. Everything marked in blue is its own, in this order: '
        "it draws an image, reads it back, writes the next sentence, draws again, and decides itself when to draw "
        "and when to stop.</p>" + cards
    )


def _told(story: Story) -> str:
    """Images with the text before them; what the model made is marked."""
    parts, before = [], ""
    told = [(segment.text if isinstance(segment, Text) else segment.pixels, False) for segment in story.prompt]
    for segment, is_own in [*told, *((written, True) for written in story.written)]:
        mark = ' class="made"' if is_own else ""
        if isinstance(segment, str):
            before += f"<span{mark}>{escape(segment.strip())}</span> "
            continue
        image = f"<div{mark}>{img(segment, 'drawn by the model' if is_own else 'given')}</div>"
        parts.append(f"<figure><figcaption>{before}</figcaption>{image}</figure>")
        before = ""
    return "".join(parts) + (f"<figure><figcaption>{before}</figcaption></figure>" if before else "")
