import torch

from models.generation.image_bank import ImageBank

FEATURES = torch.arange(6.0).view(6, 1, 1)


def test_images_of_a_document_are_neighbours_and_projected_once() -> None:
    projected: list[int] = []

    def project(features: torch.Tensor) -> list[torch.Tensor]:
        projected.append(len(features))
        return [features * 10, -features]

    bank = ImageBank(project, FEATURES[:0])
    assert bank.range_of(4) == (0, 0)
    bank.add(FEATURES[:2], [1, 0])
    bank.add(FEATURES[2:3], [1])
    assert projected == [0], "nobody has looked yet"
    assert [values.flatten().tolist() for values in bank.values()] == [[10, 0, 20], [-1, 0, -2]]
    bank.add(FEATURES[3:], [0, 3, 0])
    assert bank.range_of(0) == (0, 3)
    assert bank.range_of(1) == (3, 5)
    assert bank.range_of(2) == (5, 5)
    assert bank.range_of(3) == (5, 6)
    assert bank.values()[0].flatten().tolist() == [10, 30, 50, 0, 20, 40]
    assert projected == [0, 3, 3]


def test_images_that_documents_share_are_projected_once() -> None:
    projected: list[int] = []

    def project(features: torch.Tensor) -> list[torch.Tensor]:
        projected.append(len(features))
        return [features * 10]

    bank = ImageBank(project, FEATURES[:0])
    bank.add(FEATURES[:2], [0, 1, 1, 2], [1, 1, 0, 1])
    bank.add(FEATURES[2:4], [0, 2])
    assert bank.values()[0].flatten().tolist() == [10, 20, 10, 0, 10, 30]
    bank.add(FEATURES[4:5], [1, 0], [0, 0])
    assert bank.values()[0].flatten().tolist() == [10, 20, 40, 10, 0, 40, 10, 30]
    assert projected == [0, 4, 1]
    assert [bank.range_of(owner) for owner in range(3)] == [(0, 3), (3, 6), (6, 8)]


def test_a_model_without_synchronizers_has_a_bank_too() -> None:
    bank = ImageBank(lambda _features: [], FEATURES[:0])
    bank.add(FEATURES, [0, 1, 0, 1, 0, 1])
    assert bank.values() == []
    assert bank.range_of(1) == (3, 6)


def test_banks_join_and_keep_the_images_of_some_documents() -> None:
    projected: list[int] = []

    def project(features: torch.Tensor) -> list[torch.Tensor]:
        projected.append(len(features))
        return [features * 10]

    bank, guest = ImageBank(project, FEATURES[:0]), ImageBank(project, FEATURES[:0])
    bank.add(FEATURES[:2], [0, 2])
    bank.values()
    bank.add(FEATURES[2:3], [2])
    guest.add(FEATURES[3:4], [0])
    guest.values()
    guest.add(FEATURES[4:], [1, 1, 0], [1, 0, 1])
    bank.join(guest, 3)
    part = bank.of({2, 4})
    assert bank.values()[0].flatten().tolist() == [0, 10, 20, 30, 50, 50, 40]
    assert [bank.range_of(owner) for owner in range(5)] == [(0, 1), (1, 1), (1, 3), (3, 5), (5, 7)]
    part.add(FEATURES[:1], [2])
    assert part.values()[0].flatten().tolist() == [10, 20, 0, 50, 40]
    assert bank.range_of(2) == (1, 3), "what is added to a part is not added to the whole"
    assert bank.of({1}).values()[0].flatten().tolist() == []
    assert bank.of({0}).num_bytes == 4


def test_the_last_images_of_a_document_are_forgotten() -> None:
    bank = ImageBank(lambda features: [features * 10], FEATURES[:0])
    bank.add(FEATURES[:3], [0, 1, 1])
    bank.values()
    bank.add(FEATURES[3:5], [1, 0, 1], [0, 0, 1])  # document 1 has read 1, 2 | 3, 4 and document 0 has read 0 | 3
    other = bank.of({0, 1})
    bank.crop(1, 3)
    assert bank.values()[0].flatten().tolist() == [0, 30, 10, 20, 30]
    bank.crop(1, 1)
    bank.crop(0, 2)
    bank.add(FEATURES[5:], [1])
    assert bank.values()[0].flatten().tolist() == [0, 30, 10, 50]
    bank.crop(0, 0)
    assert (bank.values()[0].flatten().tolist(), bank.range_of(1)) == ([10, 50], (0, 2))
    other.crop(1, 0)
    assert other.values()[0].flatten().tolist() == [0, 30]
