"""HTTP: routes, streams, who may ask, and what is counted and logged. Nothing here computes with the model.

| file | what |
|---|---|
| `app.py` | the routes |
| `guard.py` | around every request: id, `Host`, key, headers, errors, log |
| `keys.py`, `hosts.py` | who may ask, and under which name |
| `body.py` | a request's body, within limits |
| `service.py` | what all requests share: the engine, kept images and responses, counters |
| `run.py` | one answer under way: its events, its end |
| `event_stream.py` | an answer as server-sent events |
| `metrics.py` | counters for Prometheus |
| `endpoints/` | what each route does |
"""
