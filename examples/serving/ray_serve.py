"""Servers of `export.serve` as replicas of Ray Serve, behind its proxy. `pip install 'ray[serve]'`, then from the root:

serve run examples.serving.ray_serve:app
"""

from __future__ import annotations

from pathlib import Path

from ray import serve

from export.serve.engine.batching import BatchingEngine
from export.serve.http.app import make_app
from export.serve.http.keys import Keys
from export.serve.http.service import Service
from export.serve.opening import Source, open_model
from export.serve.settings import Settings


def served() -> object:
    """The application of one replica, with a model of its own."""
    settings = Settings(name="toy")
    service, model = Service(settings), open_model(Source(Path("trainer/weights/toy").resolve()))
    service.serve(model, BatchingEngine(model, settings.engine))
    return make_app(service, Keys({}))


replicas = serve.deployment(num_replicas=2, max_ongoing_requests=80)(serve.ingress(served)())
app = replicas.bind()
