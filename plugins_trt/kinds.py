"""The kinds of plugins by name. No other module is imported, so that a command can list them quickly."""

from __future__ import annotations

from typing import Final

PLUGIN_KINDS: Final = ("aot", "python", "library")
"""aot: the kernels are in the plan, and nothing is needed to load it. python: the kernels are in the plan, which needs
`plugin.Plugins` to load. library: the compiled C++ plugin, which goes into the plan itself."""

USUAL_PLUGIN_KIND: Final = {"tensorrt": "aot", "rtx": "python"}
"""By builder: the one that needs least besides the plan."""
