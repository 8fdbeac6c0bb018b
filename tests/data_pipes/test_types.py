"""`data_pipes.types`: `stop`, the default handler of bad rows, raises."""

import pytest

from data_pipes.types import BadRow, stop


def test_stop_names_place_reason_and_on_bad() -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl:7: no text; or pass on_bad=bad\.append"):
        stop(BadRow("a.jsonl:7", "no text"))
