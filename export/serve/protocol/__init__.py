"""JSON to documents, and events to JSON, in the forms of OpenAI's interface. Pure functions: no threads, no HTTP.

| file | what |
|---|---|
| `json_body.py` | a request's body, bounded before it is parsed |
| `content.py` | the parts of a message: text and images |
| `validation.py` | what is wrong with a body's types, as a sentence |
| `options.py` | the object `mmfs`, and OpenAI's own names for the same options |
| `templates.py` | turns as one document |
| `partial_images.py` | previews by their number |
| `answer.py` | what all endpoints say of an answer |
| `chat.py`, `responses.py`, `images.py`, `score.py` | an endpoint each |
"""
