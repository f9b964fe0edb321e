import pytest
import torch

from export.components.component import Port
from export.runtime.runner import ComponentRunner, Tensors
from export.runtime.value_pool import PoolFull, ValuePool

CPU = torch.device("cpu")
PORTS = {"mmfs_value_0": Port(torch.float32, ("images", 3, 2, 2))}


class Project(ComponentRunner):
    """Repeats an image's number."""

    def __init__(self) -> None:
        super().__init__("mmfs_values_llm", {"ms_features": Port(torch.float32, ("images", 1, 1))}, PORTS, CPU)
        self.num_images = 0

    def run(self, inputs: Tensors) -> Tensors:
        features = inputs["ms_features"]
        self.num_images += len(features)
        return {"mmfs_value_0": features[..., None].expand(-1, 3, 2, 2).contiguous()}


def image(number: float) -> torch.Tensor:
    return torch.full((1, 1, 1), number)


def shown(pool: ValuePool, owner: int) -> list[float]:
    first, last = pool.range_of(owner)
    return pool.banks["mmfs_value_0"][first:last, 0, 0, 0].tolist()


def test_documents_have_their_own_images_in_reading_order() -> None:
    project = Project()
    pool = ValuePool(project, PORTS, CPU, num_slots=6)
    address = pool.banks["mmfs_value_0"].data_ptr()
    pool.add(torch.cat([image(1), image(2)]), [0, 2])
    assert project.num_images == 0, "nobody has looked yet"
    assert [shown(pool, owner) for owner in range(3)] == [[1], [], [2]]
    pool.add(image(3), [2])
    pool.add(torch.cat([image(4), image(5)]), [0, 1])
    assert [shown(pool, owner) for owner in range(3)] == [[1, 4], [5], [2, 3]]
    assert project.num_images == 5
    assert (pool.banks["mmfs_value_0"].data_ptr(), pool.num_moves) == (address, 0)
    pool.add(torch.cat([image(6), image(7)]), [1, 1])
    with pytest.raises(PoolFull, match="hold 7 images; the engines were built for 6"):
        pool.range_of(1)
    pool.clear()
    assert pool.range_of(0) == (0, 0)


def test_banks_without_a_bound_grow_and_count_their_moves() -> None:
    pool = ValuePool(Project(), PORTS, CPU, num_slots=None)
    for number in range(5):
        pool.add(image(number), [0])
        assert shown(pool, 0) == list(range(number + 1))
    assert (len(pool.banks["mmfs_value_0"]), pool.num_moves) == (8, 3)


def test_a_network_without_mmfs_has_images_and_no_banks() -> None:
    pool = ValuePool(None, {}, CPU, num_slots=None)
    pool.add(torch.zeros(3, 1, 1), [0, 0, 1])
    assert (pool.range_of(0), pool.range_of(1), pool.banks) == ((0, 2), (2, 3), {})


def test_pools_join_and_keep_the_images_of_some_documents() -> None:
    pool, guest = (ValuePool(Project(), PORTS, CPU, num_slots=6) for _ in range(2))
    pool.add(torch.cat([image(1), image(2)]), [0, 2])
    pool.range_of(0)
    pool.add(image(3), [2])
    guest.add(torch.cat([image(4), image(5)]), [1, 0])
    guest.range_of(0)
    guest.add(image(6), [0])
    assert pool.can_join(guest)
    pool.join(guest, 3)
    assert [shown(pool, owner) for owner in range(5)] == [[1], [], [2, 3], [5, 6], [4]]
    assert not pool.can_join(guest)
    part = pool.of({2, 4})
    assert part.num_bytes == 3 * 3 * 2 * 2 * 4 < pool.num_bytes
    part.add(image(7), [2])
    assert [shown(part, owner) for owner in (2, 4)] == [[2, 3, 7], [4]]
    address = pool.banks["mmfs_value_0"].data_ptr()
    pool.add(torch.cat([image(8), image(9)]), [4, 0])
    pool.keep({0, 4})
    assert [shown(pool, owner) for owner in (0, 2, 4)] == [[1, 9], [], [4, 8]]
    assert (pool.banks["mmfs_value_0"].data_ptr(), pool.num_images) == (address, 4)


def test_pools_with_too_many_images_do_not_join() -> None:
    pool, guest = (ValuePool(Project(), PORTS, CPU, num_slots=2) for _ in range(2))
    for one in (pool, guest):
        one.add(torch.cat([image(1), image(2)]), [0, 0])
        one.range_of(0)
    with pytest.raises(PoolFull, match="hold 4 images; the engines were built for 2"):
        pool.join(guest, 1)
    assert shown(pool, 0) == [1, 2]


def test_the_last_images_of_a_document_are_forgotten() -> None:
    pool = ValuePool(Project(), PORTS, CPU, num_slots=6)
    pool.add(torch.cat([image(1), image(2), image(3)]), [0, 1, 1])
    assert shown(pool, 1) == [2, 3]
    pool.add(torch.cat([image(4), image(5), image(6)]), [1, 0, 1])
    pool.crop(1, 3)
    assert [shown(pool, owner) for owner in range(2)] == [[1, 5], [2, 3, 4]]
    pool.crop(1, 1)
    pool.crop(0, 2)
    pool.add(image(7), [1])
    assert [shown(pool, owner) for owner in range(2)] == [[1, 5], [2, 7]]
    pool.crop(0, 0)
    assert [shown(pool, owner) for owner in range(2)] == [[], [2, 7]]
