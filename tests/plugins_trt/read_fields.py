"""A process of its own: whether the plugin of a library is made again from what a plan holds of it.

    python read_fields.py LIBRARY

Prints made or refused for the fields of a plan, for a damaged image, and for a damaged attribute.
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


if __name__ == "__main__":
    main(sys.argv[1])
