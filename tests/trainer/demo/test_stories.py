from PIL import Image as PILImage

from models import MMInterleaved
from trainer.demo.stories import tell
from trainer.evaluation.settings import Settings


def test_a_story_goes_on_from_its_first_sentence(model: MMInterleaved) -> None:
    stories = list(tell(model, Settings(num_steps=1), num_stories=2))
    assert len(stories) == 2
    assert stories[0].prompt != stories[1].prompt
    for story in stories:
        assert len(story.prompt) == 1
        assert all(isinstance(piece, str | PILImage.Image) for piece in story.written)
