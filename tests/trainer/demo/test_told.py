import pytest
from PIL import Image as PILImage

from models import MMInterleaved
from trainer.data.document import prompt_of
from trainer.demo.told import LABEL_MAPS, STORIES, Telling, tell
from trainer.evaluation.settings import Settings


@pytest.mark.parametrize("telling", [STORIES, LABEL_MAPS])
def test_a_document_goes_on_from_its_beginning(model: MMInterleaved, telling: Telling) -> None:
    first, second = tell(model, Settings(num_steps=1), telling, num_documents=2)
    assert first.document.key != second.document.key
    for told in (first, second):
        assert told.document.task == telling.task
        assert list(told.prompt) == prompt_of(told.document)
        assert all(isinstance(piece, str | PILImage.Image) for piece in told.written)
        assert sum(isinstance(piece, PILImage.Image) for piece in told.written) <= telling.num_images
