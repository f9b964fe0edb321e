"""One of the processes that `test_accumulate_fsdp.py` starts: `accumulate_under_fsdp.py STORE RANK`.

Both hold the same model, sharded, and other micro-batches, one of them without any image. Their gradients have to be
those that one process gets from all micro-batches.
"""

import sys
from dataclasses import replace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from models import Batch, MMInterleaved, MMInterleavedConfig
from rows import pack_rows
from trainer.accumulate import Chunks, accumulate, prepare_fsdp

NUM_PROCESSES = 2
ROWS = [
    [[["image", 9, 10, "draw", 11, "draw", "draw"]], [[9, 10], ["image", 12, "draw", "draw", 13]]],
    [[[9, 10]], [[9, 10, 11, 12]]],
    [[["image", 9, 10]], [[9, "draw"]]],
    [[[14, "draw", 15]], [[16]]],
]


def make_model() -> MMInterleaved:
    torch.manual_seed(0)
    model = MMInterleaved(MMInterleavedConfig.tiny()).train()
    for synchronizer in model.image_decoder.unet.synchronizers:
        torch.nn.init.normal_(synchronizer.conv.weight, std=0.3)
    return model.double()


def shard(model: MMInterleaved) -> None:
    mesh = init_device_mesh("cpu", (NUM_PROCESSES,))
    unet = model.image_decoder.unet.host
    parts = [
        *model.visual_tokenizer.adapter.vision_model.encoder.layers,
        *model.language_model.decoder.layers,
        *(*unet.down_blocks, unet.mid_block, *unet.up_blocks),
    ]
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    prepare_fsdp(model)


def make_batch(rows: list) -> Batch:
    batch = pack_rows(rows)
    return replace(batch, pixel_values=batch.pixel_values.double(), drawn_pixels=batch.drawn_pixels.double())


def main(store: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=NUM_PROCESSES)
    batches = [make_batch(rows) for rows in ROWS]
    counts = {
        "num_targets": sum(int((batch.targets >= 0).sum()) for batch in batches),
        "num_drawn": sum(len(batch.drawn) for batch in batches),
    }
    model = make_model()
    shard(model)
    mine = batches[rank::NUM_PROCESSES]
    for i, batch in enumerate(mine):
        is_last = i == len(mine) - 1
        chunks = Chunks(images=2, tokens=5)
        accumulate(model, batch, chunks=chunks, num_image_chunks=3, is_last=is_last, **counts)
    sharded = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    gradients = {name: gradient.full_tensor() for name, gradient in sharded.items()}
    if rank == 0:
        alone = make_model()
        for batch in batches:
            accumulate(alone, batch, **counts)
        expected = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
        largest = max(gradient.abs().max() for gradient in expected.values())
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12 * float(largest))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
