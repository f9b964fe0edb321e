import pytest
from PIL import Image

from models.generation.prompts import PROMPTS, prompt_for

PICTURE = Image.new("RGB", (8, 8))
OTHER = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("task", "document", "filled", "mode"),
    [
        ("caption", [PICTURE], [PICTURE, " a photo of"], "text"),
        (
            "question",
            ["what is it?", PICTURE],
            [
                "Based on the image, please answer the question. ",
                PICTURE,
                "what is it? Please provide an accurate answer within one word. The answer is:",
            ],
            "text",
        ),
        (
            "dialogue",
            [PICTURE, "a dog", "is it big?", "no", "what colour", "brown.", "is it sunny?"],
            [
                PICTURE,
                " caption: a dog question: is it big? answer: no. question: what colour? answer: brown."
                " question: is it sunny? answer:",
            ],
            "text",
        ),
        ("dialogue", [PICTURE, "a dog", "is it"], [PICTURE, " caption: a dog question: is it? answer:"], "text"),
        (
            "grounding",
            [PICTURE, "the snail"],
            [PICTURE, " Provide the bounding box coordinate of the region this sentence describes: the snail."],
            "text",
        ),
        ("label_map", [PICTURE, " a snail"], [PICTURE, " a snail"], "image"),
        ("story", ["one", PICTURE], ["one", PICTURE], "auto"),
        ("story", ["one", PICTURE, " two", OTHER], ["one", PICTURE, " two", OTHER], "auto"),
    ],
)
def test_documents_get_the_papers_words(task, document, filled, mode) -> None:
    assert prompt_for(task).fill(document) == filled
    assert prompt_for(task).mode == mode


@pytest.mark.parametrize("task", PROMPTS)
def test_a_document_of_something_else_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match=r"3 pictures and 0 texts; expected what fills the prompt .*: .*image"):
        prompt_for(task).fill([PICTURE] * 3)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task is 'poem'; expected one of caption, detailed_caption"):
        prompt_for("poem")
