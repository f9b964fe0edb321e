import re

import pytest
import torch

from bench.training_compile import main


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.usefixtures("keeps_num_threads")
@pytest.mark.slow
def test_errors_stand_beside_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Small and short; what is compared is checked to be equal on the way."""
    try:
        small = ["--recipes", "tiny", "--wide", "0", "--tokens", "256", "--document", "64"]
        main([*small, "--repetitions", "1", "--backend", "eager"])
    finally:
        torch._dynamo.reset()
    models, rows = capsys.readouterr().out.strip().split("\n\n")
    assert re.search(r"\| tiny \| [\d,]+ \|.*\| compiled \d+ graphs in \d+ s \|", models)
    assert re.search(r"\| 256 \| .* \| \d\.\de-\d\d \|", rows)
