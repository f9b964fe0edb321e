import pytest

from models import MMInterleaved, MMInterleavedConfig
from trainer.data.document import Image
from trainer.data.emoji.tasks import documents
from trainer.demo.sampling_locations import NUM_POINTS, located_answer, located_word
from trainer.evaluation.answers import to_model
from trainer.evaluation.tasks import EVALUATION_TASKS


@pytest.mark.parametrize("task", ["ground_steps", "compare_steps"])
def test_every_word_has_its_places_in_every_image(model: MMInterleaved, task: str) -> None:
    [document] = documents(task, "val", 0, 1)
    located = located_answer(model, document, 12)
    definition = EVALUATION_TASKS[task]
    prompt = definition.prompt(document)
    written = model.generate(
        to_model(prompt, model.config.image_size[0]),
        mode="text",
        max_new_tokens=definition.max_new_tokens,
        sampling_locations=True,
    )
    assert [word.text for word in located.words] == written.text.split()
    assert located.answered.document is document
    assert located.answered.answer == written.text.strip()
    assert located.answered.scores == definition.score(written.text.strip(), document, 12)
    images = [segment for segment in prompt if isinstance(segment, Image)]
    assert len(images) == len(written.sampling_locations.images)
    assert len(images) > (task == "compare_steps")
    for word in located.words:
        assert len(word.points) == len(word.shares) == len(images)
        assert sum(word.shares) <= 1 + 1e-4
        assert 0 < sum(map(len, word.points)) <= NUM_POINTS, "also of a word of many tokens"
        for points, share in zip(word.points, word.shares, strict=True):
            assert sum(weight for _, _, weight in points) <= share + 1e-4
    first = written.text.index(located.words[0].text)
    looked = written.sampling_locations.of_text(first, first + len(located.words[0].text))
    assert located_word(located.words[0].text, looked) == located.words[0]


def test_what_cannot_be_looked_at_is_refused(model: MMInterleaved) -> None:
    [story] = documents("story", "val", 0, 1)
    with pytest.raises(ValueError, match="answered with an image"):
        located_answer(model, story, 12)
    blind = MMInterleaved(MMInterleavedConfig.tiny().without_mmfs(), model.processor)
    [document] = documents("read", "val", 0, 1)
    with pytest.raises(ValueError, match="no MMFS layers"):
        located_answer(blind, document, 12)
