import pytest
from PIL import Image

from models.generation.prompts import PROMPTS, prompt_for

IMAGE = Image.new("RGB", (8, 8))
OTHER = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("task", "document", "filled", "mode"),
    [
        ("caption", [IMAGE], [IMAGE, " a photo of"], "text"),
        (
            "question",
            ["what is it?", IMAGE],
            [
                "Based on the image, please answer the question. ",
                IMAGE,
                "what is it? Please provide an accurate answer within one word. The answer is:",
            ],
            "text",
        ),
        (
            "dialogue",
            [IMAGE, "a dog", "is it big?", "no", "what colour", "brown.", "is it sunny?"],
            [
                IMAGE,
                " caption: a dog question: is it big? answer: no. question: what colour? answer: brown."
                " question: is it sunny? answer:",
            ],
            "text",
        ),
        ("dialogue", [IMAGE, "a dog", "is it"], [IMAGE, " caption: a dog question: is it? answer:"], "text"),
        (
            "grounding",
            [IMAGE, "the snail"],
            [IMAGE, " Provide the bounding box coordinate of the region this sentence describes: the snail."],
            "text",
        ),
        ("label_map", [IMAGE, " a snail"], [IMAGE, " a snail"], "image"),
        ("story", ["one", IMAGE], ["one", IMAGE], "auto"),
        ("story", ["one", IMAGE, " two", OTHER], ["one", IMAGE, " two", OTHER], "auto"),
    ],
)
def test_documents_get_the_papers_words(task, document, filled, mode) -> None:
    assert prompt_for(task).fill(document) == filled
    assert prompt_for(task).mode == mode


@pytest.mark.parametrize("task", PROMPTS)
def test_a_document_of_something_else_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match=r"3 images and 0 texts; expected what fills the prompt .*: .*image"):
        prompt_for(task).fill([IMAGE] * 3)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task is 'poem'; expected one of caption, detailed_caption"):
        prompt_for("poem")
