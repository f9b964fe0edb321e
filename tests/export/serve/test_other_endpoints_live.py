"""/v1/responses, /v1/images/generations, scores, models, health, metrics and the page: a live server."""

import base64

import openai
import pytest
from PIL import Image

from image_urls import data_url as data_url_of
from image_urls import image_of, same_image
from live_server import LiveServer
from models import MMInterleaved
from server_process import TOY

PROMPT = "a snail left of a rocket on a green background"
TOOL = {"type": "image_generation", "partial_images": 2}
STEPS = {"mmfs": {"num_inference_steps": 6, "seed": 2}}


def test_responses_tell_in_openai_s_order(server: LiveServer):
    client = server.client()
    drawing = client.responses.create(
        model="toy",
        input=PROMPT,
        tools=[TOOL],
        tool_choice={"type": "image_generation"},
        stream=True,
        extra_body=STEPS,
    )
    events = list(drawing)
    head = "response.image_generation_call."
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        f"{head}in_progress",
        f"{head}generating",
        f"{head}partial_image",
        f"{head}partial_image",
        f"{head}completed",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.partial_image_index for event in events[5:7]] == [0, 1]
    assert image_of(events[5].partial_image_b64).size == (32, 32)
    assert events[-1].response.output[0].result == events[-2].item.result
    with Image.open(TOY / "samples/caption_0.png") as image:  # after a prompt that is no question, it writes on and on
        caption = [{"type": "input_image", "image_url": data_url_of(image), "detail": "auto"}]
    caption.append({"type": "input_text", "text": " a photo of"})
    asked = [{"role": "user", "content": caption}]
    with client.responses.stream(model="toy", input=asked, max_output_tokens=60) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert kinds[2:4] == ["response.output_item.added", "response.content_part.added"]
    assert final.usage.input_tokens_details.cached_tokens < final.usage.input_tokens
    half_a_caption = "a snail left of"  # it writes on, where it may well end after a whole one
    cut = client.responses.create(model="toy", input=half_a_caption, max_output_tokens=1)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_responses_go_on_from_what_is_kept_and_from_what_is_sent_back(
    server: LiveServer, toy: MMInterleaved, data_url: str, picture: Image.Image
):
    client = server.client()
    items = [
        {"type": "input_image", "image_url": data_url, "detail": "auto"},
        {"type": "input_text", "text": " a photo of"},
    ]
    question = [{"role": "user", "content": items}]
    first = client.responses.create(model="toy", input=question, max_output_tokens=20)
    expected = toy.generate([picture, " a photo of"], mode="text", max_new_tokens=20)
    assert first.output_text == expected.text
    kept = client.responses.create(model="toy", input=" and", previous_response_id=first.id, max_output_tokens=4)
    sent = client.responses.create(
        model="toy",
        input=[*question, *[item.to_dict() for item in first.output], {"role": "user", "content": " and"}],
        max_output_tokens=4,
    )
    whole = toy.generate([picture, " a photo of", expected.text, " and"], mode="text", max_new_tokens=4)
    assert kept.output_text == sent.output_text == whole.text
    assert client.responses.retrieve(kept.id).output_text == whole.text
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.create(model="toy", input="x", previous_response_id=kept.id)
    unkept = client.responses.create(model="toy", input="x", store=False, max_output_tokens=1)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_a_drawn_image_comes_back_as_an_item(server: LiveServer, toy: MMInterleaved):
    client = server.client()
    drawn = client.responses.create(
        model="toy", input=PROMPT, tools=[{"type": "image_generation"}], tool_choice="required", extra_body=STEPS
    )
    image = image_of(drawn.output[0].result)
    input = [{"role": "user", "content": PROMPT}, drawn.output[0].to_dict(), {"role": "user", "content": " a photo of"}]
    answer = client.responses.create(model="toy", input=input, max_output_tokens=5)
    expected = toy.generate([PROMPT, image, " a photo of"], mode="text", max_new_tokens=5)
    assert answer.output_text == expected.text


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "image_generation"}}, "tools"),
        ({"tools": [{"type": "image_generation", "partial_images": 4}]}, "tools[0].partial_images"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
    ],
)
def test_responses_refuse_what_is_not_there(server: LiveServer, changes: dict, param: str):
    answer = server.ask("POST", "/v1/responses", {"model": "toy", "input": "a", **changes})
    assert (answer.status, answer.error["param"]) == (400, param), answer.body


def test_images_are_those_of_generate(server: LiveServer, toy: MMInterleaved):
    client = server.client()
    answer = client.images.generate(model="toy", prompt=PROMPT, n=2, extra_body={"seed": 2, **STEPS})
    expected = toy.generate([PROMPT], mode="image", num_inference_steps=6, seed=2, num_return_sequences=2)
    drawn = [image_of(one.b64_json) for one in answer.data]
    for one, other in zip(drawn, expected, strict=True):
        assert same_image(one, other.images[0])
    streamed = list(client.images.generate(model="toy", prompt=PROMPT, stream=True, partial_images=2, extra_body=STEPS))
    kinds = [event.type.removeprefix("image_generation.") for event in streamed]
    assert kinds == ["partial_image", "partial_image", "completed"]
    assert streamed[-1].b64_json == answer.data[0].b64_json
    assert streamed[-1].size == "32x32"
    link = client.images.generate(model="toy", prompt=PROMPT, response_format="url", extra_body=STEPS).data[0].url
    assert server.ask("GET", link[link.index("/v1/") :]).body == base64.b64decode(answer.data[0].b64_json)
    with pytest.raises(openai.BadRequestError, match="'32x32'"):
        client.images.generate(model="toy", prompt=PROMPT, size="1024x1024")


def test_scores_are_those_of_the_library(server: LiveServer, toy: MMInterleaved):
    candidates = [" a snail", " a rocket on a hill"]
    body = {"messages": [{"role": "user", "content": "this is"}], "candidates": candidates, "rank_by": "mean"}
    answer = server.ask("POST", "/v1/mmfs/score", body)
    expected = toy.score(["this is"], candidates, rank_by="mean")
    assert [one["rank"] for one in answer.json["data"]] == [one.rank for one in expected]
    found = [one["log_probability"] for one in answer.json["data"]]
    assert found == pytest.approx([one.log_probability for one in expected], abs=1e-3)
    refused = server.ask("POST", "/v1/mmfs/score", {**body, "candidates": []})
    assert (refused.status, refused.error["param"]) == (400, "candidates")


def test_models_health_and_counters(server: LiveServer):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["toy", "toy:markdown"]
    assert client.models.retrieve("toy").owned_by == "mmfs"
    assert server.ask("GET", "/health").json == {"status": "ok"}
    client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "a"}], max_tokens=1)
    counters = server.ask("GET", "/metrics").body.decode()
    for name in ("num_requests_running", "request_success_total", "time_to_first_token_seconds_bucket"):
        assert f"\nmmfs:{name}" in counters
    props = server.ask("GET", "/v1/mmfs/props").json
    assert props["drawn_image_size"] == [32, 32]
    options = {one["name"]: one for one in props["options"]}
    assert options["scheduler"]["choices"] == ["ddim", "dpm", "ddpm"]
    assert options["max_new_tokens"]["most"] == props["limits"]["max_new_tokens"]


def test_an_answer_can_be_cancelled_by_its_id(server: LiveServer):
    client = server.client()
    stream = client.chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": PROMPT}],
        stream=True,
        extra_body={"modalities": ["image"], "mmfs": {"num_inference_steps": 500}},
    )
    chunks = iter(stream)
    first = next(chunks)
    assert server.ask("DELETE", f"/v1/mmfs/requests/{first.id}").json["cancelled"] is True
    rest = list(chunks)
    assert rest[-1].choices[0].finish_reason == "stop"
    assert rest[-1].mmfs["finish"] == "cancelled"
    assert len(rest) < 100, "it went on"
    assert server.ask("DELETE", f"/v1/mmfs/requests/{first.id}").status == 404


def test_the_page_comes_with_headers_that_keep_it_to_itself(server: LiveServer):
    page = server.ask("GET", "/")
    if page.status == 200:
        assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("../service.py", "..%2f__init__.py", "%2e%2e/app.py"):
        assert server.ask("GET", f"/page/{name}").status == 404
    assert server.ask("PUT", "/v1/models").status == 405
    assert server.ask("GET", "/v1/nothing").error["message"].startswith("There is nothing at this address")
