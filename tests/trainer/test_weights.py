"""The weights that travel with the repository fit the code they travel with."""

from pathlib import Path

from models import MMInterleaved
from trainer.data.emoji.tasks import TaskOptions, documents
from trainer.data.emoji.tokenizer import load_tokenizer
from trainer.evaluation.answers import to_model
from trainer.evaluation.tasks import EVALUATION_TASKS
from trainer.recipes import toy

ROOT = Path(__file__).parents[2]


def test_the_toy_recipe_goes_on_from_them() -> None:
    recipe = toy()
    assert recipe.init is not None
    model = MMInterleaved.from_pretrained(ROOT / recipe.init)
    assert model.config.to_dict() == recipe.model.to_dict()
    assert model.processor is not None
    assert model.processor.tokenizer.get_vocab() == load_tokenizer().get_vocab()
    assert (ROOT / recipe.init / "model.safetensors").stat().st_size <= 12e6


def test_they_see_what_is_in_a_image() -> None:
    """Of the sprites in eight held-out images they name more than half; guessing names one in eleven."""
    recipe = toy()
    model = MMInterleaved.from_pretrained(ROOT / "trainer" / "weights" / "toy")
    options = TaskOptions(recipe.data.num_concepts, 64, recipe.data.num_sprites)
    named = []
    for document in documents("caption", "val", 0, 8, options=options):
        prompt = to_model(document.segments[: document.prompt], 64)
        [written] = model.generate(prompt, mode="text", max_new_tokens=24)
        assert isinstance(written, str)
        named.append(EVALUATION_TASKS["caption"].score(written, document, recipe.data.num_concepts)["sprites"])
    assert sum(named) / len(named) > 0.5
