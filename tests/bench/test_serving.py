import re
from pathlib import Path

import pytest

from bench.serving import main

TOY = Path(__file__).parents[2] / "trainer/weights/toy"


@pytest.mark.usefixtures("keeps_num_threads")
def test_every_figure_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Few and short ones; what is compared is checked to be equal on the way."""
    few = ["--repetitions", "1", "--tokens", "6", "--steps", "2", "--turns", "2", "--conversations", "8"]
    main([str(TOY), *few])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "8 text clients together",
        "8 images together",
        "text beside a drawing",
        "3 previews of an image",
        "cancel in a drawing",
        "turn 2 kept",
        "8 conversations",
    ]
    assert all(re.search(r"\d", line.split(":")[1]) for line in lines)
