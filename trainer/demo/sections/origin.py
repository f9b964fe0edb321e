"""How everything on the page was made: weights, commands, settings, machine and time."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from trainer.demo.content import Demo


def section(demo: Demo) -> str:
    facts = {
        "Live-trained weights": f"<code>{demo.live.weights['sha256'][:16]}</code> trained by this demo, "
        + ("going on from the shipped ones" if demo.shipped is not None else "from random weights"),
    }
    if demo.shipped is not None:
        facts["Shipped weights"] = f"<code>{demo.shipped.weights['sha256'][:16]}</code>"
    for name, value in (demo.made_by or {}).items():
        words = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        facts[f"Their {escape(name.replace('_', ' '))}"] = f"<code>{escape(words)}</code>"
    if demo.without_mmfs is not None:
        facts["Without MMFS"] = f"<code>{escape(str(demo.without_mmfs.training['command']))}</code>"
    facts["Which weights answered"] = (
        "in all sections before the scores: the live-trained weights; the scores and the held-out documents say which."
    )
    settings = demo.live.settings
    facts["Evaluation"] = (
        f"validation documents 0 to {settings.num_texts - 1} (text) and 0 to {settings.num_images - 1} (images) of "
        f"each family; greedy text; images with {settings.num_steps} denoising steps, guidance "
        f"{settings.guidance_scale:g}, noise seeds from {settings.seed}"
    )
    facts["Machine and versions"] = ", ".join(f"{escape(k)} {escape(str(v))}" for k, v in demo.environment.items())
    facts["Time"] = ", ".join(f"{escape(what)} {_duration(spent)}" for what, spent in demo.wall_times_s.items())
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<dl class="facts">{listed}</dl><h3>Commands of this run</h3>{_commands(demo.commands)}'


def _commands(commands: Mapping[str, str]) -> str:
    return f"<pre>{escape(chr(10).join(commands.values()))}</pre>"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
