from pathlib import Path

from trainer.benchmarks.batches import batches_of, groups_of, share_of
from trainer.benchmarks.sample import DrawnBefore, ImageFile, Sample


def question(number: int, image: int, length: int = 5) -> Sample:
    return Sample(str(number), (ImageFile(Path(f"{image}.jpg")), "x" * length))


def story(name: str) -> list[Sample]:
    return [
        Sample(f"{name}-{i}", (*(DrawnBefore(f"{name}-{j}") for j in range(i)), "t"), {"story": name}) for i in range(3)
    ]


def ids(batches) -> list[list[str]]:
    return [[sample.id for sample in batch] for batch in batches]


def test_questions_on_an_image_stay_together_and_short_ones_come_first() -> None:
    samples = [question(1, 1, 50), question(2, 2), question(3, 1), question(4, 3), question(5, 2)]
    assert ids(batches_of(groups_of(samples), 3)) == [["2", "5", "4"], ["1", "3"]]


def test_no_batch_is_too_large_and_nothing_is_lost() -> None:
    samples = [question(number, number % 3) for number in range(20)]
    for size in (1, 4, 100):
        batches = list(batches_of(groups_of(samples), size))
        assert max(map(len, batches)) <= size
        assert sorted(sample.id for batch in batches for sample in batch) == sorted(sample.id for sample in samples)


def test_images_of_a_story_are_drawn_after_each_other() -> None:
    samples = [*story("a"), *story("b"), *story("c")]
    assert ids(batches_of(groups_of(samples), 2)) == [
        ["a-0", "b-0"],
        ["a-1", "b-1"],
        ["a-2", "b-2"],
        ["c-0"],
        ["c-1"],
        ["c-2"],
    ]


def test_processes_share_groups() -> None:
    groups = groups_of([question(number, number // 2) for number in range(10)])
    shares = [share_of(groups, rank, 3) for rank in range(3)]
    assert sorted(len(share) for share in shares) == [1, 2, 2]
    assert sorted(sample.id for share in shares for group in share for sample in group) == [str(n) for n in range(10)]


def test_nothing_to_do() -> None:
    assert list(batches_of([], 4)) == []
