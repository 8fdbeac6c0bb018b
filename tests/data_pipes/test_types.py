"""Types of documents, rows and batches."""

import pytest

from data_pipes.types import BadRow, stop


def test_stop_names_place_reason_and_way_out() -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl:7: no text; or pass on_bad=bad\.append"):
        stop(BadRow("a.jsonl:7", "no text"))
