"""/v1/mmfs/sampling_locations: what is recorded of an answer is what the library records; only its client sees it."""

import pytest
import torch
from PIL import Image

from export.serve.engine.batching import BatchingEngine
from export.serve.http.keys import Keys
from export.serve.http.service import Service
from export.serve.settings import Settings
from live_server import LiveServer, live
from models import MMInterleaved
from models.generation.query_locations import QueryLocations

STEPS = {"num_inference_steps": 3, "seed": 1}


def body_of(data_url: str, text: str, mode: str, **more: object) -> dict:
    content = [{"type": "image_url", "image_url": {"url": data_url}}, {"type": "text", "text": text}]
    mmfs = {"sampling_locations": True, "mode": mode, **STEPS, **more}
    return {"model": "toy", "messages": [{"role": "user", "content": content}], "max_tokens": 8, "mmfs": mmfs}


def check_query(found: dict, expected: QueryLocations) -> None:
    assert [layer["name"] for layer in found["layers"]] == list(expected.layers)
    shares = [one["share"] for one in found["shares"]]
    assert shares == pytest.approx([expected.share(image) for image in expected.images], abs=1e-3)
    for number, layer in enumerate(found["layers"]):
        weights, locations = expected.attention_weights[number], expected.sampling_locations[number]
        assert layer["null_weights"] == pytest.approx(expected.null_weights[number].tolist(), abs=1e-3)
        assert [one["image"] for one in layer["images"]] == list(expected.images)
        for place, one in enumerate(layer["images"]):
            num_points = torch.zeros(weights.shape[1:3], dtype=torch.int64)  # they come in order
            assert len(one["points"]) == weights[place].numel()
            for x, y, weight, head, level in one["points"]:
                point = int(num_points[head, level])
                assert (x, y) == pytest.approx(locations[place, head, level, point].tolist(), abs=1e-3)
                assert weight == pytest.approx(float(weights[place, head, level, point]), abs=1e-3)
                num_points[head, level] += 1


def test_tokens_words_and_pixels_are_those_of_the_library(
    server: LiveServer, toy: MMInterleaved, data_url: str, picture: Image.Image
) -> None:
    asked = server.ask("POST", "/v1/chat/completions", body_of(data_url, " a picture of", "text")).json
    place = f"/v1/mmfs/sampling_locations/{asked['id']}"
    result = toy.generate([picture, " a picture of"], mode="text", max_new_tokens=8, sampling_locations=True)
    locations = result.sampling_locations
    assert locations is not None
    whole = server.ask("GET", place).json
    assert "".join(token["text"] for token in whole["tokens"]) == asked["choices"][0]["message"]["content"]
    assert whole["images"] == [{"index": 0, "drawn": None, "box": pytest.approx([0, 4 / 48, 1, 44 / 48], abs=1e-4)}]
    check_query(server.ask("GET", f"{place}/tokens/1").json, locations.of_token(1))
    length = len("".join(token["text"] for token in whole["tokens"][:2]))
    check_query(server.ask("GET", f"{place}/text?start=0&end={length}").json, locations.of_text(0, length))

    asked = server.ask("POST", "/v1/chat/completions", body_of(data_url, " a snail", "image")).json
    place = f"/v1/mmfs/sampling_locations/{asked['id']}"
    drawn = toy.generate([picture, " a snail"], mode="image", sampling_locations=True, **STEPS)
    assert drawn.sampling_locations is not None
    whole = server.ask("GET", place).json
    assert whole["drawings"] == [{"index": 0, "image": 1, "steps": [3]}]
    assert [one["drawn"] for one in whole["images"]] == [None, 0]
    assert whole["tokens"] == [{"index": 0, "text": "", "image": 1}]
    expected = drawn.sampling_locations.of_pixel(0, 0.3, 0.9)
    check_query(server.ask("GET", f"{place}/images/0?x=0.3&y=0.9").json, expected)
    check_query(server.ask("GET", f"{place}/images/0?x=0.3&y=0.9&step=3").json, expected)


def test_what_is_not_recorded_is_refused_in_a_sentence(server: LiveServer, data_url: str) -> None:
    plain = body_of(data_url, " a", "text", sampling_locations=False)
    id = server.ask("POST", "/v1/chat/completions", plain).json["id"]
    nothing = server.ask("GET", f"/v1/mmfs/sampling_locations/{id}")
    assert nothing.status == 404
    assert "recorded for requests with mmfs.sampling_locations" in nothing.error["message"]
    id = server.ask("POST", "/v1/chat/completions", body_of(data_url, " a", "text")).json["id"]
    for path, status, message in (
        ("tokens/99", 404, "tokens were written"),
        ("text?start=0&end=x", 400, "end is 'x'; expected a whole number"),
        ("images/0?x=0.5&y=0.5", 404, "0 were drawn"),
        ("images/0?x=nan&y=0.5", 400, "x is 'nan'; expected a share"),
        ("tokens/-1", 404, "nothing at this address"),
    ):
        refused = server.ask("GET", f"/v1/mmfs/sampling_locations/{id}/{path}")
        assert refused.status == status, path
        assert message in refused.error["message"]
    many = body_of(data_url, " a", "image", sampling_locations_steps=[1, 2, 3, 4, 5], num_inference_steps=6)
    refused = server.ask("POST", "/v1/chat/completions", many)
    assert refused.status == 400
    assert "at most 4" in refused.error["message"]


def test_only_who_asked_sees_it_and_memory_is_bounded(toy: MMInterleaved, data_url: str) -> None:
    settings = Settings(name="toy", max_kept_bytes=60_000)
    keys = {name: f"{name}-secret" for name in ("ann", "bob")}
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in keys.values())
    service = Service(settings)
    with live(service, toy, BatchingEngine(toy, settings.engine), Keys(keys)) as server:
        body = body_of(data_url, " a", "text")
        ids = [server.ask("POST", "/v1/chat/completions", body, ann).json["id"] for _ in range(6)]
        oldest, *_, newest = (f"/v1/mmfs/sampling_locations/{id}" for id in ids)
        assert server.ask("GET", newest, headers=ann).status == 200
        assert server.ask("GET", newest, headers=bob).status == 404
        assert server.ask("GET", newest).status == 401
        assert server.ask("GET", oldest, headers=ann).status == 404, "it made room"
        kept = service.locations.get(ids[-1])
        assert kept is not None
        assert 10_000 < kept.num_bytes < 30_000


def test_props_say_whether_it_can_be_asked_for(server: LiveServer) -> None:
    assert server.ask("GET", "/v1/mmfs/props").json["sampling_locations"] is True
