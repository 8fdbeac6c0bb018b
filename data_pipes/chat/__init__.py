"""Chat: messages, templates, and the tokens that are trained on.

Reading order: `messages` (the records), `presets` (named templates), `chat` (render and encode, the public
functions), `rendering` (control tokens hidden from the template), `assistant_spans` (the trained text),
`span_encoding` and `batch_encoding` (spans to ids); then the checks `template_checks` and `reasoning`, the
sandbox `template`, `template_budget` and `template_costs`, and `stop` for generation.
"""
