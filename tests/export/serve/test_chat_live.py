"""/v1/chat/completions: a live server, asked by openai-python, equals `generate`."""

import base64
import io
import json

import openai
import pytest
from PIL import Image

from image_urls import image_at, same_image
from live_server import LiveServer
from models import MMInterleaved

PROMPT = "a snail left of a rocket on a green background"
BEGUN = "a snail left of"  # after a whole caption a model may well end at once; after half of one it writes on
STEPS = 4


def user(*parts: str | dict) -> list[dict]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def image_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def test_text_equals_generate(server: LiveServer, toy: MMInterleaved, picture: Image.Image, data_url: str):
    expected = toy.generate([picture, " a photo of"], mode="text", max_new_tokens=12)
    answer = server.client().chat.completions.create(
        model="toy", messages=user(image_part(data_url), " a photo of"), modalities=["text"], max_tokens=12
    )
    (choice,) = answer.choices
    assert choice.message.content == expected.text
    assert choice.finish_reason == {"end": "stop", "max_new_tokens": "length"}[expected.finish_reason]
    assert answer.usage.prompt_tokens == expected.num_prompt_tokens
    assert answer.usage.completion_tokens == expected.num_new_tokens
    assert answer.usage.prompt_tokens_details.image_tokens == toy.config.visual_tokenizer.num_visual_tokens
    assert answer.mmfs["finish"] == expected.finish_reason


def test_an_image_equals_generate_streamed_and_not(server: LiveServer, toy: MMInterleaved):
    options = {"num_inference_steps": STEPS}
    (expected,) = toy.generate([PROMPT], mode="image", seed=7, **options).images
    asked = {
        "model": "toy",
        "messages": [{"role": "user", "content": PROMPT}],
        "seed": 7,
        "extra_body": {"modalities": ["image"], "mmfs": {**options, "preview_every": 2}},
    }
    whole = server.client().chat.completions.create(**asked)
    message = whole.choices[0].message
    assert message.content == ""
    assert message.mmfs == {"content": [{"type": "image", "index": 0}]}
    assert same_image(image_at(message.images[0]["image_url"]["url"]), expected)
    chunks = list(server.client().chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    extras = [chunk.choices[0].delta.model_extra or {} for chunk in chunks if chunk.choices]
    steps = [
        extra["mmfs"]["progress"]["step"] for extra in extras if "mmfs" in extra and "preview" not in extra["mmfs"]
    ]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS
    (preview,) = [extra["mmfs"]["preview"]["url"] for extra in extras if "preview" in extra.get("mmfs", {})]
    assert preview.startswith("data:image/jpeg;base64,")
    (images,) = [extra["images"] for extra in extras if "images" in extra]
    assert same_image(image_at(images[0]["image_url"]["url"]), expected)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens_details.image_tokens == 1
    assert chunks[-1].mmfs["seed"] == 7


def test_history_in_four_forms_is_one_document(server: LiveServer, toy: MMInterleaved, data_url: str, picture):
    """The text and the image of the assistant, as parts, as images, in mmfs's order, and as a link."""
    client = server.client()
    drawn = client.chat.completions.create(
        model="toy:markdown",
        messages=[{"role": "user", "content": PROMPT}],
        seed=3,
        extra_body={"modalities": ["image"], "mmfs": {"num_inference_steps": STEPS}},
    )
    link = drawn.choices[0].message.content
    assert link.startswith(f"![image 1](http://127.0.0.1:{server.port}/v1/mmfs/images/")
    path = link[link.index("/v1/") : -1]
    png = server.ask("GET", path)
    assert png.headers["content-type"] == "image/png"
    url = "data:image/png;base64," + base64.b64encode(png.body).decode()
    turns = [
        {"role": "assistant", "content": f"see {link}"},
        {"role": "assistant", "content": [{"type": "text", "text": "see "}, image_part(url)]},
        {"role": "assistant", "content": "see ", "images": [image_part(url)]},
        {
            "role": "assistant",
            "content": "see ",
            "images": [image_part(url)],
            "mmfs": {"content": [{"type": "text", "text": "see "}, {"type": "image", "index": 0}]},
        },
    ]
    image = Image.open(io.BytesIO(png.body))
    expected = toy.generate([PROMPT, "see ", image, " a photo of"], mode="text", max_new_tokens=8)
    for turn in turns:
        answer = client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": PROMPT}, turn, {"role": "user", "content": " a photo of"}],
            max_tokens=8,
            modalities=["text"],
        )
        assert answer.choices[0].message.content == expected.text
        assert answer.usage.prompt_tokens == expected.num_prompt_tokens
    swapped = dict(turns[3], mmfs={"content": [{"type": "image", "index": 0}, {"type": "text", "text": "see "}]})
    answer = client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": PROMPT}, swapped], max_tokens=2, modalities=["text"]
    )
    assert (
        answer.choices[0].message.content == toy.generate([PROMPT, image, "see "], mode="text", max_new_tokens=2).text
    )


def test_seeds_and_several_continuations(server: LiveServer, toy: MMInterleaved):
    asked = {"mode": "text", "max_new_tokens": 6, "temperature": 1.0, "seed": 5}
    expected = toy.generate(["a "], num_return_sequences=3, **asked)
    answer = server.client().chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": "a "}],
        n=3,
        temperature=1.0,
        seed=5,
        max_tokens=6,
        modalities=["text"],
    )
    assert [choice.message.content for choice in answer.choices] == [one.text for one in expected]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == sum(one.num_new_tokens for one in expected)


def test_stop_texts_and_limits_have_their_reasons(server: LiveServer, toy: MMInterleaved):
    client = server.client()
    text = toy.generate([BEGUN], mode="text", max_new_tokens=20).text
    stop = text.strip().split()[2]
    ask = {"model": "toy", "messages": [{"role": "user", "content": BEGUN}], "modalities": ["text"]}
    stopped = client.chat.completions.create(**ask, stop=[stop], max_tokens=20)
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert (stopped.choices[0].finish_reason, stopped.mmfs["finish"]) == ("stop", "stop")
    cut = client.chat.completions.create(**ask, max_tokens=1)
    assert (cut.choices[0].finish_reason, cut.mmfs["finish"]) == ("length", "max_new_tokens")


def test_parts_hold_text_and_images_in_order(server: LiveServer):
    answer = server.client().chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": PROMPT}],
        extra_body={"modalities": ["image"], "mmfs": {"num_inference_steps": 2, "image_format": "parts"}},
    )
    (part,) = answer.choices[0].message.content
    assert part["type"] == "image_url"
    assert image_at(part["image_url"]["url"]).size == (32, 32)


@pytest.mark.parametrize(
    ("changes", "status", "param", "words"),
    [
        ({"mmfs": {"schedular": "ddim"}}, 400, "mmfs.schedular", "has no option 'schedular'. Expected scheduler"),
        ({"mmfs": {"scheduler": "euler"}}, 400, "mmfs.scheduler", "expected one of ddim, dpm, ddpm"),
        ({"mmfs": {"num_inference_steps": 0}}, 400, "mmfs.num_inference_steps", "at least 1"),
        ({"max_tokens": -1}, 400, "max_tokens", "max_new_tokens is -1; expected a whole number of at least 0"),
        ({"max_tokens": 10**6}, 400, "max_tokens", "allows at most 4096"),
        ({"temperature": "hot"}, 400, "temperature", "expected a finite number"),
        ({"seed": [1, 2]}, 400, "seed", "expected a whole number"),
        ({"temprature": 0.5}, 400, "temprature", "Did you mean temperature?"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "no such option"),
        ({"logprobs": True}, 400, "logprobs", "no such option"),
        ({"modalities": ["audio"]}, 400, "modalities", "'text' and 'image'"),
        ({"modalities": ["text"], "mmfs": {"mode": "image"}}, 400, "mmfs.mode", "Give one"),
        ({"model": "gpt-9"}, 404, "model", "Expected 'toy'"),
        ({"messages": "hello"}, 400, "messages", "expected: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role", "'user'"),
        ({"messages": user({"type": "text"})}, 400, "messages[0].content[0].text", "is missing"),
        ({"messages": user({"type": "video", "url": "x"})}, 400, "messages[0].content[0]", "'image_url'"),
        ({"messages": user(image_part("cat.png"))}, 422, "messages[0].content[0].image_url", "a data URL"),
        ({"messages": user(image_part("file:///etc/passwd"))}, 422, "messages[0].content[0].image_url", "a data URL"),
        (
            {"messages": user(image_part("http://127.0.0.1/a"))},
            400,
            "messages[0].content[0].image_url",
            "fetches nothing",
        ),
        ({"messages": user(image_part("data:image/png;base64,AAAA"))}, 422, "messages[0].content[0].image_url", "PNG"),
        ({"mmfs": {"task": "caption"}}, 400, "mmfs.task", "1 texts"),
        ({"messages": user("a " * 2000), "modalities": ["text"]}, 400, None, "the language model reads 512"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(server: LiveServer, changes: dict, status: int, param: str, words: str):
    body = {"model": "toy", "messages": [{"role": "user", "content": "a snail"}], **changes}
    answer = server.ask("POST", "/v1/chat/completions", body)
    assert answer.status == status, answer.body
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["param"] == param
    assert words in answer.error["message"], answer.error


def test_openai_python_knows_the_errors(server: LiveServer):
    client = server.client()
    with pytest.raises(openai.NotFoundError, match="Expected 'toy'"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(model="toy", messages=user(image_part("data:image/png;base64,AAAA")))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="toy", messages=[{"role": "user", "content": "a"}], extra_body={"mmfs": {"looks": 1}}
        )
    assert caught.value.param == "mmfs.looks"


def test_the_shapes_that_clients_send(server: LiveServer):
    """Open WebUI asks for streams with parts and fields of its own; LibreChat with OpenAI's neutral values."""
    open_webui = {
        "stream": True,
        "model": "toy",
        "messages": [{"role": "system", "content": "x "}, *user("a snail")],
        "max_tokens": 3,
        "chat_id": "1",
        "files": None,
        "stream_options": {"include_usage": True},
    }
    answer = server.ask("POST", "/v1/chat/completions", open_webui)
    lines = [line.removeprefix(b"data: ") for line in answer.body.split(b"\n\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    assert json.loads(lines[-2])["mmfs"]["ignored"] == ["chat_id"]
    libre_chat = {
        "model": "toy:markdown",
        "user": "65f",
        "stream": False,
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 3,
        "messages": [{"role": "user", "content": "a snail"}],
    }
    assert server.ask("POST", "/v1/chat/completions", libre_chat).status == 200
