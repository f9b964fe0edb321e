import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models import MMInterleaved, MMInterleavedConfig, MMInterleavedProcessor


def byte_tokenizer() -> Tokenizer:
    """Every byte is a token, after the five special ones."""
    special = ["<pad>", "<s>", "</s>", "<BoI>", "<image>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


@pytest.fixture
def processor() -> MMInterleavedProcessor:
    return MMInterleavedProcessor(byte_tokenizer(), image_size=32)


@pytest.fixture
def model(processor: MMInterleavedProcessor) -> MMInterleaved:
    """A tiny model whose synchronizers do something."""
    model = MMInterleaved(MMInterleavedConfig.tiny(), processor).eval()
    for synchronizer in model.image_decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
    for synchronizer in model.language_model.synchronizers:
        torch.nn.init.normal_(synchronizer.mmfs.sampling_offsets.weight, std=0.1)
    return model
