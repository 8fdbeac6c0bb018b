"""`stages.teach.report` and messages: a result survives JSON, and its text is short and translated."""

from __future__ import annotations

import string
from functools import partial

from stages.teach import messages
from stages.teach.report import Result, describe_result, fail, fill_message, from_json, to_json
from stages.teach.translate import translate


def test_a_result_survives_json() -> None:
    result = fail("f", "value", messages.VALUE, place="result")._replace(input="x = 1", step=3)
    assert from_json(to_json(result)) == result


def test_the_text_of_a_failure_has_kind_step_message_and_values() -> None:
    result = fail("f", "value", messages.VALUE, place="result")._replace(
        input="x = 1\ny = 2", expected="3", got="4", step=2
    )
    assert describe_result(result).splitlines() == [
        "f: value, at step 2",
        "  result is wrong",
        "  input:",
        "    x = 1",
        "    y = 2",
        "  expected: 3",
        "  got: 4",
    ]


def test_one_call_and_one_test_are_in_the_singular() -> None:
    text = describe_result(Result("f", True, calls=1, tests=1, seconds=2.0))
    assert text == "f: passed; 1 call equals ours, 1 test passes, 2.0 s"
    text = describe_result(Result("f", True, calls=2, seconds=2.0))
    assert text == "f: passed; 2 calls equal ours, 0 tests pass, 2.0 s"


def test_a_chinese_report_has_full_width_colons() -> None:
    result = fail("f", "value", messages.VALUE, place="result")._replace(input="1\n2", got="4", step=2)
    first, _, label, *values, got = describe_result(result, partial(translate, lang="zh")).splitlines()
    assert first.startswith("f：")
    assert (label[-1], values, got[-2:]) == ("：", ["    1", "    2"], "：4")


def test_every_sentence_is_translated_before_its_fields_are_filled_in() -> None:
    seen: list[str] = []

    def translate(text: str) -> str:
        seen.append(text)
        return text.upper() if "{" not in text else text

    failed = fail("f", "value", messages.VALUE, place="result")._replace(expected="3", got="4")
    assert "VALUE" in describe_result(failed, translate)
    describe_result(Result("f", True), translate)
    constants = {value for value in vars(messages).values() if isinstance(value, str)}
    assert set(seen) <= constants | set(messages.KINDS.values())


def test_every_message_is_a_format_with_named_fields() -> None:
    sentences = [v for k, v in vars(messages).items() if k.isupper() and isinstance(v, str)]
    for sentence in [*sentences, *messages.KINDS.values()]:
        for _, name, _, _ in string.Formatter().parse(sentence):
            assert name is None or name.isidentifier(), sentence


def test_sentences_in_fields_are_translated() -> None:
    upper = fail("f", "purity", messages.REFUSED_EVENT, function="f", action=messages.FORK)
    assert (
        fill_message(upper, lambda text: text.replace("fork", "FORK"))
        == "f tried to FORK, and an answer may not"
    )
    result = fail("f", "shape", messages.SHAPE, place="result[0]")
    assert (
        fill_message(result, lambda text: text.replace("result", "value"))
        == "value[0] should have another shape"
    )
    other = fail("f", "shape", messages.SHAPE, place="results")
    assert fill_message(other, lambda text: text.replace("result", "value")).startswith("results ")
