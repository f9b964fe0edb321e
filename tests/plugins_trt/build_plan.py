"""A process of its own: a plan of one graph by TensorRT-RTX, with the plugins of a library or with those in Python.

    python build_plan.py GRAPH OUT LIBRARY [inside]

LIBRARY "": the plugins in Python, with code for sm_80 and sm_90; inside: the library goes into the plan.

Prints the types of the network's layers. Dynamic sizes get a profile of 1 to 4.
"""

from __future__ import annotations

import sys
from pathlib import Path

from plugins_trt.plugin_kinds import open_plugin_kind
from plugins_trt.tensorrt_package import open_package


def main(graph: str, out: str, library: str, inside: str = "") -> None:
    trt = open_package("rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    architectures = ("sm_80", "sm_90")
    plugins = open_plugin_kind(
        "library" if library else "python", trt, architectures, Path(library) if library else None
    )
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(Path(graph).read_bytes()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    print(*(network.get_layer(i).type.name for i in range(network.num_layers)))
    config = builder.create_builder_config()
    if inside:
        plugins.configure(config)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [tuple(size if given == -1 else given for given in tensor.shape) for size in (1, 2, 4)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit(3)
    Path(out).write_bytes(bytes(plan))


if __name__ == "__main__":
    main(*sys.argv[1:])
