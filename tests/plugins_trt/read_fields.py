"""A process of its own: whether the plugin of a library is made again from what a plan holds of it.

    python read_fields.py LIBRARY

Prints made or refused for the fields of a plan, for a damaged image, for a damaged attribute, and for attributes of any
numbers, in whatever type a plan holds them.
"""

from __future__ import annotations

import sys
import zlib

import numpy as np

from plugins_trt.tensorrt_package import open_package


def main(library: str) -> None:
    trt = open_package("rtx")
    registry = trt.get_plugin_registry()
    assert registry.load_library(library) is not None
    creator = registry.get_creator("MSDeformAttn", "1", "mmfs")
    image = zlib.compress(b"machine code" * 99)
    for sizes, data in (([4, 7, 3, 2], image), ([4, 7, 3, 2], image[:-2]), ([4, 7, 3], image)):
        # The fields refer to these.
        shapes, packed = np.array(sizes, np.int32), np.frombuffer(data, np.int8)
        fields = trt.PluginFieldCollection(
            [
                trt.PluginField("spatial_shapes", shapes, trt.PluginFieldType.INT32),
                trt.PluginField("k@sm_90", packed, trt.PluginFieldType.INT8),
            ]
        )
        plugin = creator.create_plugin("layer", fields, trt.TensorRTPhase.RUNTIME)
        print("refused" if plugin is None else "made", flush=True)
    creator = registry.get_creator("MMFS", "1", "mmfs")
    kinds = {
        np.dtype(np.int32): trt.PluginFieldType.INT32,
        np.dtype(np.int64): trt.PluginFieldType.INT64,
        np.dtype(np.float32): trt.PluginFieldType.FLOAT32,
        np.dtype(np.float64): trt.PluginFieldType.FLOAT64,
    }
    whole = {"spatial_shapes": np.array([4, 7], np.int64), "null_logit": np.zeros(1), "use_null": np.ones(1, np.int32)}
    for name, wild in (
        ("spatial_shapes", np.array([4, 7], np.float64)),
        *(("spatial_shapes", np.array([4, side], np.float64)) for side in (7.5, np.nan, np.inf, 1e300, -7)),
        *(("spatial_shapes", np.array(sides, np.int64)) for sides in ([2**32, 2**32], [2**31 - 1, 2], [0, 7])),
        *(("null_logit", np.array([logit])) for logit in (np.nan, np.inf, 1e300)),
        ("null_logit", np.zeros(2, np.float32)),
        ("use_null", np.zeros(3, np.int32)),
    ):
        given = {**whole, name: wild}
        fields = trt.PluginFieldCollection(
            [trt.PluginField(key, part, kinds[part.dtype]) for key, part in given.items()]
        )
        plugin = creator.create_plugin("layer", fields, trt.TensorRTPhase.BUILD)
        print("refused" if plugin is None else "made", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
