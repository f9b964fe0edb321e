import json
import os
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from models import MMInterleaved
from trainer.demo.export_samples import SAMPLE_TASKS, write_samples
from trainer.evaluation.settings import Settings


def test_samples_are_real_documents_in_the_form_that_the_export_reads(model: MMInterleaved, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "samples.json").write_text("of an earlier model")
    os.link(folder / "samples.json", tmp_path / "earlier.json")
    write_samples(model, Settings(), folder)
    assert (tmp_path / "earlier.json").read_text() == "of an earlier model", "the list is put in its place whole"
    listed = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert len(listed) == len(SAMPLE_TASKS)
    assert listed[0][1] == {"text": " a photo of"}
    kinds = [kind for document in listed for segment in document for kind in segment]
    assert kinds.count("image") == 8
    for document in listed:
        for segment in document:
            if "image" in segment:
                with PILImage.open(tmp_path / "samples" / segment["image"]) as image:
                    assert image.size == (64, 64)
                    assert np.asarray(image).std() > 0
