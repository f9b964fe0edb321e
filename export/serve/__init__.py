"""`python -m export.serve MODEL_OR_EXPORT`: a server that clients of OpenAI's interface use unchanged, and a page.

```
 HTTP, one asyncio loop                              one thread
 http/ ─► protocol/ ─► content/ ─► GenerationRequest ─► engine/ ─► the model
          JSON          images      ◄── events, Handle ──┘
```

* `engine/` knows nothing of HTTP: it takes requests and gives events (`engine/interface.py`).
* `protocol/` knows neither the engine's threads nor HTTP: JSON to documents and events to JSON.
* `content/` turns what a request names (data URLs, digests, addresses) into images, within limits.
* `http/` ties them together: routes, streams, keys, limits of time.
* `page/` is what `GET /` answers with: files, no build.
"""
