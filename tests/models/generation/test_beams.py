import pytest
import torch

from models import MMInterleaved
from models.generation.beams import beam_search
from models.generation.options import GenerationOptions
from models.generation.token_sampler import TokenSampler
from models.generation.torch_state import TorchGenerationState
from rows import EOS

PROMPTS = ["a", "some words", "another prompt"]


def eager_to_end(model: MMInterleaved) -> None:
    """Random weights hardly ever say </s>: make it likely. Without images, MMFS adds nothing through a closed gate."""
    with torch.no_grad():
        model.language_model.host.get_output_embeddings().weight[EOS] *= 12
        model.language_model.host.get_output_embeddings().weight.mul_(8)
        for synchronizer in model.language_model.synchronizers:
            synchronizer.gate.zero_()


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`:UserWarning")  # as is meant
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 4, "length_penalty": 0.0},
        {"num_beams": 3, "repetition_penalty": 1.5},
        {"num_beams": 3, "min_new_tokens": 4},
        {"num_beams": 1, "min_new_tokens": 3},
    ],
    ids=["two", "no-length-penalty", "repetition-penalty", "least-length", "least-length-greedy"],
)
def test_beams_are_those_of_transformers(model: MMInterleaved, options: dict) -> None:
    eager_to_end(model)
    never = [model.config.pad_token_id, model.config.bos_token_id, model.config.image_token_id]
    lengths = set()
    for prompt in PROMPTS:
        ids = model.processor.encode_text(prompt)
        embeddings = model.language_model.embed(torch.tensor([[1, *ids]]))
        theirs = model.language_model.host.generate(
            inputs_embeds=embeddings,  # so that the prompt does not count as repeated
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
            max_new_tokens=6,
            do_sample=False,
            suppress_tokens=[*never, model.config.begin_of_image_id],
            pad_token_id=model.config.pad_token_id,
            eos_token_id=EOS,
            **options,
        )
        ours = model.generate([prompt], mode="text", max_new_tokens=6, **options)
        assert ours.text == model.processor.decode_text(theirs[0].tolist())
        lengths.add(len(theirs[0]))
    assert len(lengths) > 1, "the texts all ended alike, so that little was tested"


def test_a_search_does_not_depend_on_its_batch(model: MMInterleaved) -> None:
    eager_to_end(model)
    options = {"mode": "text", "num_beams": 3, "max_new_tokens": 6}
    together = model.generate([[prompt] for prompt in PROMPTS], **options)
    alone = [model.generate([prompt], **options) for prompt in PROMPTS]
    assert together == alone
    assert [result.finish_reason for result in together] == [result.finish_reason for result in alone]


@torch.no_grad()
def test_a_search_finds_what_greed_misses(model: MMInterleaved) -> None:
    def log_probability(num_beams: int) -> float:
        options = GenerationOptions(mode="text", max_new_tokens=5, num_beams=num_beams)
        state = TorchGenerationState(model)
        state.read([[[1, 9]]])
        search = beam_search(state, options, [TokenSampler(options, model.config, seed=0)], model.processor)
        try:
            while True:
                next(search)
        except StopIteration as end:
            [found] = end.value
        return found.log_probability

    assert log_probability(64) > log_probability(1) + 1e-4


def test_a_stop_text_ends_a_beam(model: MMInterleaved) -> None:
    head = model.language_model.host.get_output_embeddings()
    torch.nn.init.zeros_(head.weight)
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    for letter, bias in (("x", 10.0), ("y", 9.0)):
        head.bias.data[model.processor.encode_text(letter)] = bias
    options = {"mode": "text", "max_new_tokens": 5, "num_beams": 2}
    assert model.generate(["a"], **options) == ["xxxxx"]
    stopped = model.generate(["a"], stop="xxx", **options)
    assert (stopped, stopped.finish_reason) == ([], "stop")


@pytest.mark.parametrize("options", [{}, {"mode": "image"}, {"mode": "text", "temperature": 1.0}])
def test_beams_that_draw_or_sample_are_refused(model: MMInterleaved, options: dict) -> None:
    with pytest.raises(ValueError, match=r"Beam search writes text alone and does not sample: set mode='text'"):
        model.generate(["a"], num_beams=2, **options)
