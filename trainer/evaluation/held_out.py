"""The documents that a model is evaluated with."""

from __future__ import annotations

from models import MMInterleaved
from trainer.data.document import Document
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.stream import rendered_side
from trainer.evaluation.settings import Settings


def held_out(model: MMInterleaved, settings: Settings, task: str, num_documents: int) -> list[Document]:
    """The first validation documents of a family, with images of the size that the model was trained on."""
    image_side = rendered_side(model.config.image_size[0])
    options = TaskOptions(settings.num_concepts, image_side, settings.num_sprites)
    return documents(task, "val", 0, num_documents, seed=settings.data_seed, options=options)
