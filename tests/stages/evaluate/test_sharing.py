"""Groups and batches of contexts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.sharing import cut_batches, group_contexts

contexts = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 1), min_size=1, max_size=5)).map(
        lambda pair: (pair[0],) * 20 * pair[0] + tuple(pair[1])
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@given(contexts)
def test_each_context_is_in_one_group_and_begins_as_it(found: list[tuple[int, ...]]) -> None:
    made = group_contexts(found)
    members = [context for group in made for context in group.contexts]
    assert sorted(members) == sorted(set(found))
    for group in made:
        assert len({context[: group.shared] for context in group.contexts}) == 1
        assert group.shared < min(map(len, group.contexts))


@given(contexts, st.integers(1, 60))
def test_each_context_is_in_one_batch_with_its_endings(found: list[tuple[int, ...]], tokens: int) -> None:
    continuations = {context: [(1,), (2, 3)] for context in found}
    for group in group_contexts(found):
        made = list(cut_batches(group, continuations, 50, tokens))
        assert sorted(c for batch in made for c in batch.contexts) == sorted(group.contexts)
        for batch in made:
            assert batch.length <= 50
            assert batch.length >= max(map(len, batch.contexts)) + 1
            pairs = [
                (batch.contexts[row], text)
                for row, text in zip(batch.row_of, batch.continuations, strict=True)
            ]
            assert pairs == [(context, text) for context in batch.contexts for text in continuations[context]]


def test_two_subjects_with_a_few_words_in_common_are_two_groups() -> None:
    first, second = (1,) * 5 + (2,) * 50, (1,) * 5 + (3,) * 50
    made = group_contexts([(*first, i) for i in range(4)] + [(*second, i) for i in range(4)])
    assert [(len(group.contexts), group.shared) for group in made] == [(4, 55), (4, 55)]
