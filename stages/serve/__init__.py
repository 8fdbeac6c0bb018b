"""An HTTP server with OpenAI's API, in which a request with a seed gets the same tokens under any load."""
