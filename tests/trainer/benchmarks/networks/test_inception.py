import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inception_weights import formula_weights
from official_scores import read_official
from trainer.benchmarks.networks.inception import Inception, load_inception
from trainer.benchmarks.networks.resizing import from_pixels
from trainer.errors import UsageError


@pytest.fixture(scope="module")
def official():
    return read_official("inception")


@pytest.fixture(scope="module")
def network(official):
    network = Inception()
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == official["keys"]
    network.load_state_dict(formula_weights(official["keys"]))
    return network.eval()


def test_features_are_those_of_pytorch_fid(network, official) -> None:
    first = network.Conv2d_1a_3x3.conv.weight.flatten()[:5]
    np.testing.assert_allclose(first.detach().numpy(), official["first_conv_weights"], rtol=1e-6)
    y, x, channel = np.meshgrid(np.arange(40), np.arange(52), np.arange(3), indexing="ij")
    images = [
        np.floor(127.5 + 127.5 * np.sin(0.37 * (x + 1) * (channel + 1) + 0.23 * (y + 1) * (number + 1)))
        for number in range(2)
    ]
    y, x, channel = np.meshgrid(np.arange(299), np.arange(299), np.arange(3), indexing="ij")
    images.append(np.floor(127.5 + 127.5 * np.sin(0.11 * x + 0.07 * y + channel)))
    with torch.no_grad():
        features = network(torch.stack([from_pixels(image.astype(np.uint8)) for image in images])).numpy()
    step = official["feature_index_step"]
    expected = [*official["picture_40x52"]["pytorch_fid"], official["picture_299"]["pytorch_fid"]]
    # random weights magnify rounding
    np.testing.assert_allclose(features[:, ::step], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        features.sum(1), [*official["sums"]["pytorch_fid_40x52"], official["sums"]["pytorch_fid_299"]], rtol=1e-5
    )


def test_weights_come_from_a_file(network, tmp_path) -> None:
    file = tmp_path / "inception.safetensors"
    save_file(network.state_dict(), file)
    loaded, digest = load_inception(file, torch.device("cpu"))
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_inception(tmp_path / "none.pth", torch.device("cpu"))
    (tmp_path / "a.pth").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"--inception .*a\.pth"):
        load_inception(tmp_path / "a.pth", torch.device("cpu"))
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match=r"other tensors .* pt_inception-2015-12-05-6726825d\.pth"):
        load_inception(tmp_path / "b.safetensors", torch.device("cpu"))
