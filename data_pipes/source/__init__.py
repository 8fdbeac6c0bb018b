"""Sources: text files, JSONL, Parquet and data sets, as a stream of documents or rows."""

from data_pipes.source.arrow import arrow_rows, parquet_rows, saved_rows
from data_pipes.source.path import documents, rows
from data_pipes.source.tables import as_documents, dataset_rows, json_rows, jsonl_rows
from data_pipes.source.text import files, text_documents

__all__ = [
    "arrow_rows",
    "as_documents",
    "dataset_rows",
    "documents",
    "files",
    "json_rows",
    "jsonl_rows",
    "parquet_rows",
    "rows",
    "saved_rows",
    "text_documents",
]
