"""Places of processes, from the environment variables of torchrun."""

from __future__ import annotations

import pytest

from stages.run.world import World, read_world

pytestmark = pytest.mark.processes

PLACE = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


def test_the_variables_of_torchrun_are_a_place() -> None:
    local = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert read_world(PLACE | local) == World(3, 4, 1, 2, "node0", 29500)
    assert read_world(PLACE) == World(3, 4, 3, 4, "node0", 29500)


@pytest.mark.parametrize("size", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}])
def test_one_process_is_alone(size: dict[str, str]) -> None:
    assert read_world(size) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MASTER_ADDR": ""},
            "WORLD_SIZE is 4, and MASTER_ADDR is not set; start the processes with torchrun",
        ),
        ({"RANK": "", "MASTER_PORT": ""}, "and RANK, MASTER_PORT are not set"),
        ({"RANK": "4"}, "RANK: expected a whole number from 0 to 3, got '4'"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT: expected a whole number from 1 to 65535, got 'http'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a whole number"),
        ({"LOCAL_RANK": "7"}, "LOCAL_RANK: expected a whole number from 0 to 3"),
    ],
)
def test_variables_without_a_meaning_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_world(PLACE | changes)
