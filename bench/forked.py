"""Processes that begin in a second: they are forked from one that has imported the trainer already."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["trainer.run", "trainer.run_page", "trainer.pretrain"])
