"""The losses of the runs, side by side on shared axes."""

from __future__ import annotations

from html import escape

from trainer.demo.content import Demo
from trainer.logging.charts import loss_chart, shared_range


def section(demo: Demo) -> str:
    rows = []
    for kind, title in (("text", "text loss, nats a token"), ("image", "image loss, squared error")):
        curves = [(run.title, getattr(run, kind)) for run in demo.runs if getattr(run, kind).values]
        if not curves:
            continue
        y_range = shared_range([curve for _, curve in curves])
        rows += [
            f"<figure><figcaption>{escape(run)}: {title}</figcaption>{loss_chart(curve, y_range=y_range)}</figure>"
            for run, curve in curves
        ]
    if not rows:
        return ""
    return (
        '<p class="note">Each step faintly, the running mean over 2 % of the run on top; logarithmic, over steps.</p>'
        f'<div class="panel charts">{"".join(rows)}</div>'
    )
