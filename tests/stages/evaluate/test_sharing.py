"""`group_contexts` and `cut_batches`: contexts grouped by a common prefix, and cut into batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.sharing import cut_batches, group_contexts

contexts = st.lists(  # each begins with one of three prefixes, of 0, 20 and 40 tokens
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 1), min_size=1, max_size=5)).map(
        lambda pair: (pair[0],) * 20 * pair[0] + tuple(pair[1])
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@given(contexts)
def test_each_context_is_in_one_group_whose_members_share_a_prefix(
    given_contexts: list[tuple[int, ...]],
) -> None:
    groups = group_contexts(given_contexts)
    members = [context for group in groups for context in group.contexts]
    assert sorted(members) == sorted(set(given_contexts))
    for group in groups:
        assert len({context[: group.shared] for context in group.contexts}) == 1
        assert group.shared < min(map(len, group.contexts))


@given(contexts, st.integers(1, 60))
def test_each_context_is_in_one_batch_with_its_continuations(
    given_contexts: list[tuple[int, ...]], tokens: int
) -> None:
    continuations = {context: [(1,), (2, 3)] for context in given_contexts}
    for group in group_contexts(given_contexts):
        batches = list(cut_batches(group, continuations, 50, tokens))
        members = [context for batch in batches for context in batch.contexts]
        assert sorted(members) == sorted(group.contexts)
        for batch in batches:
            assert batch.length <= 50
            assert batch.length >= max(map(len, batch.contexts)) + 1
            pairs = [
                (batch.contexts[row], text)
                for row, text in zip(batch.row_of, batch.continuations, strict=True)
            ]
            assert pairs == [(context, text) for context in batch.contexts for text in continuations[context]]


def test_contexts_with_a_short_common_prefix_are_two_groups() -> None:
    first, second = (1,) * 5 + (2,) * 50, (1,) * 5 + (3,) * 50
    groups = group_contexts([(*first, i) for i in range(4)] + [(*second, i) for i in range(4)])
    assert [(len(group.contexts), group.shared) for group in groups] == [(4, 55), (4, 55)]
