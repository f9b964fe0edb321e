import torch

from models import MMInterleavedConfig
from trainer.data.config import DataConfig
from trainer.data.labelled_scenes import LabelledScenes

TOY = MMInterleavedConfig.toy()


def test_a_step_is_pure_and_steps_differ():
    scenes = LabelledScenes(DataConfig(), TOY, seed=1)
    first, again = scenes(4, range(8)), LabelledScenes(DataConfig(), TOY, seed=1)(4, range(8))
    for name in ("pixel_values", "classes", "numbers", "present", "centres"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(scenes(5, range(8)).classes, first.classes)


def test_shapes_at_the_models_size():
    for model, size in ((TOY, 64), (MMInterleavedConfig.tiny(), 32)):
        images = LabelledScenes(DataConfig(), model, seed=1)(0, range(3))
        assert images.pixel_values.shape == (3, 3, size, size)
        assert images.classes.shape == images.numbers.shape == (3, size, size)
        assert images.classes.dtype == images.numbers.dtype == torch.int16
        assert images.present.shape == (3, 32)
        assert images.centres.shape == (3, 32, 2)


def test_a_sprite_stands_out_from_the_background_that_surrounds_it():
    images = LabelledScenes(DataConfig(), TOY, seed=1)(4, range(8))
    assert 0 == images.classes.min() < images.classes.max() < 1 + 32 + 10
    for pixels, classes in zip(images.pixel_values, images.classes, strict=True):
        plain = pixels[:, classes == 0].median(1).values
        assert (pixels[:, classes > 0] - plain[:, None]).abs().mean() > 0.1


def test_classes_numbers_and_layout_tell_the_same():
    images = LabelledScenes(DataConfig(), TOY, seed=2)(0, range(24))
    numbered = 0
    for classes, numbers, present, centres in zip(
        images.classes, images.numbers, images.present, images.centres, strict=True
    ):
        assert set((classes[(classes > 0) & (classes <= 32)] - 1).tolist()) == set(present.nonzero().flatten().tolist())
        assert not centres[~present].any()
        for sprite in present.nonzero().flatten().tolist():
            rows, columns = (classes == 1 + sprite).nonzero(as_tuple=True)
            x, y = centres[sprite].tolist()
            assert columns.min() / 64 < x < (columns.max() + 1) / 64
            assert rows.min() / 64 < y < (rows.max() + 1) / 64
            [number] = set(numbers[rows, columns].tolist())
            numbered += number >= 0
        assert (numbers[(classes == 0)] == -1).all()
    assert numbered > 10
