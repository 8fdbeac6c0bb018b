"""Chat: messages, templates, and the tokens that are trained on."""
