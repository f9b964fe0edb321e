"""The exported components, and how far each is off."""

from __future__ import annotations

from html import escape

from trainer.demo.content import Demo


def section(demo: Demo) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td>"
        f'<td class="number">{component["num_nodes"]}</td>'
        f'<td class="number">{sum(component["num_mmfs_nodes"].values()) or "–"}</td>'
        f'<td class="number">{component["onnx"]["file"]["bytes"] / 1e6:.1f} MB</td>'
        f'<td class="number">{component["validation"]["max_relative_error"]:.1e}</td></tr>'
        for name, component in demo.export["components"].items()
    )
    return (
        '<p class="note">The live-trained model as ONNX, each component run in onnxruntime and compared with PyTorch '
        f"on real input: {escape(demo.export['samples'])}. MMFS is one node with a function body.</p>"
        '<div class="panel"><table><thead><tr><th>component</th><th class="number">nodes</th>'
        '<th class="number">of them MMFS</th><th class="number">size</th>'
        '<th class="number">largest relative error</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
