"""Data of a run: documents and rows read, held out, encoded, and written down."""
