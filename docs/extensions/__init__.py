"""Parts of the documentation's build: docstrings, the API, examples, blocks of code, and tables from tests/laws."""
