from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from export.components.check_inputs import Case, pack
from export.components.component import Component
from export.graph.kv_cache import lower_attention
from export.graph.precision import lower_precision
from export.graph.quantization import write_quantized
from export.store.job import NEUTRAL_DIR
from export.store.samples import load_samples
from export.validate import eight_bit
from export.validate.eight_bit import (
    check_perplexity,
    check_quantized,
    compare_greedy,
    compare_seen,
    log_likelihoods,
)
from export.validate.half_precision import Run, Tensors
from export.validate.parity import ParityError
from export.validate.validate import run_of
from models import MMInterleaved
from models.images.image_file import open_image


@pytest.fixture
def quantized(exported: Path, components: dict[str, Component], tmp_path: Path) -> Callable[..., Run]:
    """The tiny language model with weights of eight bits; its scales may be wrong by a factor."""

    def open_(kind: str, precision: str, factor: float = 1.0) -> Run:
        neutral = onnx.load(exported / NEUTRAL_DIR / "llm.onnx")
        proto = lower_precision(lower_attention(neutral, "trt_split"), precision)
        file = tmp_path / "onnx/llm.onnx"
        file.parent.mkdir()
        write_quantized(proto, kind, precision, tmp_path, file.with_suffix(".data"))
        for tensor in proto.graph.initializer:
            if tensor.name.endswith("_scale"):
                scales = numpy_helper.to_array(tensor)
                tensor.raw_data = (scales * scales.dtype.type(factor)).tobytes()
        onnx.save(proto, file)
        return run_of(components["llm"], file, precision)

    return open_


@pytest.fixture
def input_ids(unchanged_model: MMInterleaved, model_dir: Path) -> torch.Tensor:
    return pack(unchanged_model, load_samples(model_dir).documents).input_ids


@pytest.mark.parametrize(("kind", "precision"), [("int8", "float32"), ("fp8", "float16"), ("int8", "bfloat16")])
def test_eight_bits_pass(
    unchanged_model: MMInterleaved,
    components: dict[str, Component],
    cases: dict[str, list[Case]],
    quantized: Callable[..., Run],
    input_ids: torch.Tensor,
    kind: str,
    precision: str,
) -> None:
    llm, run = components["llm"], quantized(kind, precision)
    results = check_quantized(llm, run, cases["llm"])
    worst = max(result.worst for result in results)
    assert 1e-3 < worst < (0.02 if kind == "int8" else 0.08), "a weight of eight bits is not exact"
    found = check_perplexity(llm, run, cases["llm"][0], input_ids, unchanged_model.config.image_token_id)
    assert found.num_tokens == int((input_ids[:, 1:] != unchanged_model.config.image_token_id).sum()) - int(
        (input_ids[:, 1:] == unchanged_model.config.pad_token_id).sum()
    )
    assert found.perplexity != found.pytorch_perplexity


def test_scales_that_are_wrong_by_two_are_refused(
    components: dict[str, Component], cases: dict[str, list[Case]], quantized: Callable[..., Run]
) -> None:
    with pytest.raises(ParityError, match=r"llm, case '3 whole documents': output \w+ (has a cosine of|is longer)"):
        check_quantized(components["llm"], quantized("int8", "float32", factor=2.0), cases["llm"])


def test_likelihoods_are_those_of_reading_all_at_once(
    unchanged_model: MMInterleaved, components: dict[str, Component], cases: dict[str, list[Case]]
) -> None:
    words = cases["llm"][3].inputs
    ids = torch.tensor([7, 8, 9, 8, 11, 12, 13])[: words["inputs_embeds"].shape[1]]
    logs = log_likelihoods(components["llm"], components["llm"].run, words, ids, silent=9)
    hidden = components["llm"].run(words)["hidden_states"]
    with torch.no_grad():
        expected = unchanged_model.language_model.logits(hidden)[0].log_softmax(-1)
    scored = [place for place in range(1, len(ids)) if ids[place] != 9]
    torch.testing.assert_close(logs, torch.stack([expected[place - 1, ids[place]] for place in scored]))


def test_another_perplexity_is_refused(
    unchanged_model: MMInterleaved,
    components: dict[str, Component],
    cases: dict[str, list[Case]],
    input_ids: torch.Tensor,
) -> None:
    llm, silent = components["llm"], unchanged_model.config.image_token_id

    def sure(inputs: Tensors) -> Tensors:
        outputs = llm.run(inputs)
        return {**outputs, "logits": outputs["logits"] * 1.5}

    assert check_perplexity(llm, llm.run, cases["llm"][0], input_ids, silent).num_tokens > 10
    with pytest.raises(ParityError, match=r"the perplexity of \d+ tokens is .*: a change of .* where 1% is allowed"):
        check_perplexity(llm, sure, cases["llm"][0], input_ids, silent)


def test_greedy_texts_stand_beside_each_other(
    unchanged_model: MMInterleaved, components: dict[str, Component], cases: dict[str, list[Case]]
) -> None:
    llm, calls = components["llm"], 0

    def third_is_another(inputs: Tensors) -> Tensors:
        nonlocal calls
        outputs, calls = llm.run(inputs), calls + 1
        if calls == 3:
            outputs["logits"][0, 0, outputs["logits"][0, 0].argmax()] -= 100.0
        return outputs

    words = cases["llm"][3]
    case = Case("words", {**words.inputs})
    (found,) = compare_greedy(llm, third_is_another, unchanged_model.language_model.embed, str, case, num_tokens=4)
    assert (found.num_equal, found.num_tokens) == (2, 4)
    assert found.text != found.pytorch_text
    assert found.text.split(",")[:2] == found.pytorch_text.split(",")[:2]


def test_the_tolerances_are_those_of_eight_bits() -> None:
    assert (eight_bit.LEAST_COSINE, eight_bit.MOST_NORM_CHANGE) == (0.99, 0.05)
    assert eight_bit.MOST_PERPLEXITY_CHANGE == 0.01


def test_images_are_alike_where_the_model_sees_the_same(
    unchanged_model: MMInterleaved, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (open_image(model_dir / f"samples/{number}.png") for number in (0, 1))
    cosine = eight_bit.LEAST_SEEN_COSINE
    assert cosine == 0.98
    assert compare_seen(unchanged_model, ["a", first], ["b", first]) is None, "words are judged elsewhere"
    monkeypatch.setattr(eight_bit, "LEAST_SEEN_COSINE", 1 - 1e-9)  # random weights hardly see a difference
    difference = compare_seen(unchanged_model, [first, first], [first, second])
    assert difference is not None
    assert difference.startswith("the visual tokens of image 1 have a cosine of ")
