"""Where MMFS sampled the images for an answer, as JSON.

A request with `"mmfs": {"sampling_locations": true}` is recorded. `ID` is the id of its answer; with several
continuations it is that id, a hyphen and the number of the continuation.

`GET /v1/mmfs/sampling_locations/ID` lists what can be asked for:

    {"object": "mmfs.sampling_locations", "id": "chatcmpl-1",
     "images": [                                    all images of the document in reading order, but for those cut off
       {"index": 0, "drawn": null, "box": [0.0, 0.125, 1.0, 0.875]},  what the model sees of it: left, top, right
                                                                      and bottom in shares of the image
       {"index": 1, "drawn": 0, "box": [0.0, 0.0, 1.0, 1.0]}],        the first one that was drawn
     "tokens": [                                    their texts together are the text of the answer
       {"index": 0, "text": " a", "image": null},
       {"index": 1, "text": "", "image": 1}],       here image 1 of the document was begun
     "drawings": [                                  the drawn images
       {"index": 0, "image": 1, "steps": [30]}]}    image 1 of the document; the steps of which locations are kept

`GET .../ID/tokens/5`, `GET .../ID/text?start=4&end=9` (the characters of a word) and
`GET .../ID/images/0?x=0.4&y=0.6&step=30` (a place of a drawn image, by its number among the drawn ones; without `step`
the last that is kept) answer with the queries of one token, of a word's tokens together, or of a pixel:

    {"object": "mmfs.sampling_locations.query",
     "shares": [{"image": 0, "share": 0.84}],       of all attention, mean of layers and heads; the rest goes nowhere
     "null_share": 0.16,
     "layers": [
       {"name": "language_model.0", "num_heads": 4, "num_levels": 2,
        "null_weights": [0.1, 0.2, 0.1, 0.3],       of each head, the share of its attention that goes to no image
        "images": [{"image": 0,
                    "points": [[0.41, 0.62, 0.08, 0, 1], ...]}]}]}        x, y, weight, head, level

x and y are shares of the part of the image that the model sees (`box`), from its left and top edge; outside of 0 to 1
nothing is sampled. Of each head, the weights of all images and the null weight sum to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models.generation.query_locations import QueryLocations
from models.generation.sampling_locations import SamplingLocations

DIGITS = 5
"""Behind the point."""


@dataclass(frozen=True, eq=False)
class RecordedAnswer:
    """What was recorded of an answer, and whose it is."""

    client: str
    locations: SamplingLocations

    @property
    def num_bytes(self) -> int:
        """The memory that it takes."""
        return self.locations.num_bytes


def answer_json(id: str, locations: SamplingLocations) -> dict[str, Any]:
    """What can be asked for of an answer."""
    num_given = len(locations.given)
    return {
        "object": "mmfs.sampling_locations",
        "id": id,
        "images": [
            {"index": index, "drawn": index - num_given if index >= num_given else None, "box": _rounded(box)}
            for index, box in enumerate(locations.boxes)
        ],
        "tokens": [
            {"index": index, "text": token.text, "image": token.image} for index, token in enumerate(locations.tokens)
        ],
        "drawings": [
            {"index": index, "image": num_given + index, "steps": sorted(one.steps)}
            for index, one in enumerate(locations.drawn)
        ],
    }


def query_json(looked: QueryLocations) -> dict[str, Any]:
    """Where queries sampled."""
    null_share = float(torch.stack([weights.mean() for weights in looked.null_weights]).mean())
    return {
        "object": "mmfs.sampling_locations.query",
        "shares": [{"image": image, "share": round(looked.share(image), DIGITS)} for image in looked.images],
        "null_share": round(null_share, DIGITS),
        "layers": [_layer(looked, number) for number in range(len(looked.layers))],
    }


def _layer(looked: QueryLocations, number: int) -> dict[str, Any]:
    locations, weights = looked.sampling_locations[number], looked.attention_weights[number]
    num_heads, num_levels = weights.shape[1:3]
    head, level = torch.meshgrid(torch.arange(num_heads), torch.arange(num_levels), indexing="ij")
    heads, levels = (one[..., None].expand(weights.shape[1:]).flatten().tolist() for one in (head, level))
    images = []
    for place, image in enumerate(looked.images):
        x, y = locations[place].flatten(0, -2).unbind(-1)
        numbers = zip(
            _rounded(x.tolist()),
            _rounded(y.tolist()),
            _rounded(weights[place].flatten().tolist()),
            heads,
            levels,
            strict=True,
        )
        images.append({"image": image, "points": [list(point) for point in numbers]})
    return {
        "name": looked.layers[number],
        "num_heads": num_heads,
        "num_levels": num_levels,
        "null_weights": _rounded(looked.null_weights[number].tolist()),
        "images": images,
    }


def _rounded(numbers: Any) -> list[float]:
    return [round(number, DIGITS) for number in numbers]
