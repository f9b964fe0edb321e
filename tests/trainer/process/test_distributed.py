import os
import signal
import sys
import time

import torch
from torch.distributed import TCPStore

from bench.agents import rank_variables
from bench.forked import CONTEXT
from trainer.process.distributed import joined
from trainer.process.interrupt import Interrupt
from trainer.process.rendezvous import Rendezvous

PATIENCE_S = 120.0


def join(port: int) -> None:
    os.environ.update(rank_variables(0, 2, port), TORCHELASTIC_USE_AGENT_STORE=str(True))
    with Interrupt(echoes=True) as interrupt, joined(torch.device("cpu"), interrupt=interrupt):
        sys.exit(0)


def test_sigterm_ends_the_wait_for_a_process_that_has_died_while_groups_were_made():
    """`torchrun` sends it to those that are left, and starts nobody again before they have ended."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    left = CONTEXT.Process(target=join, args=(store.port,))
    left.start()
    try:
        attempt = Rendezvous(store, 1, 2).meet(PATIENCE_S)  # and dies
        give_up = time.monotonic() + PATIENCE_S
        while not any(key.startswith(f"{attempt.name}/training") for key in store.list_keys()):
            assert time.monotonic() < give_up, store.list_keys()
            time.sleep(0.1)
        left.terminate()
        left.join(20.0)
        assert left.exitcode == -signal.SIGTERM
    finally:
        left.kill()
        left.join()
