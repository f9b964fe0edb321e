"""One tiny model, exported once for all tests (and once for all workers of pytest-xdist)."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from tokenizers import Tokenizer

from export.components.all import check_cases, components_of
from export.components.check_inputs import Case
from export.components.component import Component
from export.store.manifest import MANIFEST_FILE
from export.store.samples import SAMPLES_DIR, SAMPLES_FILE, load_samples
from export.trt import main
from mmfs.kernels.nvrtc import find_nvrtc
from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor
from models.generation.torch_state import TorchGenerationState
from plugins_trt.tensorrt_package import why_not

TOKENIZER = Path(__file__).parents[2] / "trainer/data/emoji/tokenizer.json"
CUE = "draw"
"""After this text the model wants to draw."""


def lively_model(config: MMInterleavedConfig) -> MMInterleaved:
    """Random weights, also where training starts from zero: gates are open and offsets depend on their queries."""
    torch.manual_seed(0)
    model = MMInterleaved(config, MMInterleavedProcessor(Tokenizer.from_file(str(TOKENIZER)), image_size=32)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    state = TorchGenerationState(model)
    with torch.no_grad():
        wish = state.read([[[config.bos_token_id, *model.processor.encode_text(CUE)]]])[0, -1]
        head = model.language_model.host.get_output_embeddings()
        head.weight[config.begin_of_image_id] = wish / wish.square().sum() * (state.logits.max() + 1)
    return model


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def config() -> MMInterleavedConfig:
    """`tiny()` without the VAE and with less depth: tracing takes half the time. The slow test exports all of it."""
    tiny = MMInterleavedConfig.tiny()
    encoder = {**tiny.visual_tokenizer.vision_encoder, "num_hidden_layers": 1}
    tokenizer = dataclasses.replace(
        tiny.visual_tokenizer,
        adapter_blocks=1,
        vision_encoder=encoder,
    )
    language_model = dataclasses.replace(
        tiny.language_model, mmfs_every=1, transformer={**tiny.language_model.transformer, "num_hidden_layers": 2}
    )
    unet = {
        **tiny.image_decoder.unet,
        "in_channels": 12,
        "out_channels": 12,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),  # the middle block still reads the context
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    image_decoder = dataclasses.replace(tiny.image_decoder, vae=None, pixel_fold=2, unet=unet)
    return dataclasses.replace(
        tiny, visual_tokenizer=tokenizer, language_model=language_model, image_decoder=image_decoder
    )


@pytest.fixture(scope="session")
def model_dir(scratch: Path, config: MMInterleavedConfig) -> Path:
    """A saved model with sample documents beside it."""
    directory = scratch / "model"
    with FileLock(scratch / "model.lock"):
        if not directory.is_dir():
            lively_model(config).save_pretrained(scratch / "model.partial")
            folder = scratch / "model.partial" / SAMPLES_DIR
            folder.mkdir()
            for i in range(3):
                image(i).save(folder / f"{i}.png")
            documents = [
                [{"image": "0.png"}, {"text": "one"}, {"image": "1.png"}],
                [{"text": "a longer text, and then"}, {"image": "2.png"}],
                [{"text": "no image"}],
            ]
            (folder / SAMPLES_FILE).write_text(json.dumps(documents))
            (scratch / "model.partial").rename(directory)
    return directory


@pytest.fixture(scope="session")
def exported(scratch: Path, model_dir: Path) -> Path:
    """What the command writes for that model."""
    out = scratch / "exported"
    with FileLock(scratch / "exported.lock"):
        if not (out / MANIFEST_FILE).is_file():
            assert main([str(model_dir), "--out", str(out)]) == 0
    return out


@pytest.fixture
def model(model_dir: Path) -> MMInterleaved:
    """A copy to change at will."""
    return MMInterleaved.from_pretrained(model_dir)


@pytest.fixture(scope="session")
def unchanged_model(model_dir: Path) -> MMInterleaved:
    return MMInterleaved.from_pretrained(model_dir)


@pytest.fixture(scope="session")
def components(unchanged_model: MMInterleaved) -> dict[str, Component]:
    return components_of(unchanged_model)


@pytest.fixture(scope="session")
def cases(unchanged_model: MMInterleaved, components: dict[str, Component], model_dir: Path) -> dict[str, list[Case]]:
    return check_cases(unchanged_model, components, load_samples(model_dir).documents)


@pytest.fixture
def make_model() -> Callable[[MMInterleavedConfig], MMInterleaved]:
    """Makes a model whose weights all count."""
    return lively_model


@pytest.fixture
def rtx() -> None:
    """Skip where TensorRT-RTX cannot build engines with plugins."""
    if (reason := why_not("rtx")) is not None:
        pytest.skip(reason)
    if find_nvrtc() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc): it compiles the kernels without a GPU")
