"""A process's share of a batch."""

import pytest

from trainer.errors import UsageError
from trainer.process.distributed import Processes
from trainer.step.micro_batches import rows_of_micro_batches


def test_shares_of_processes_and_micro_batches_cover_the_batch():
    def rows(num_rows, micro, rank, num):
        return rows_of_micro_batches(num_rows, micro, Processes(rank, num, rank, None, None, None))

    assert rows(8, 0, 0, 1) == [range(8)]
    assert rows(8, 3, 1, 2) == [range(4, 7), range(7, 8)]
    with pytest.raises(UsageError, match=r"3 processes cannot share a batch of 8 rows equally.*: 1, 2, 4, 8;"):
        rows(8, 0, 0, 3)
