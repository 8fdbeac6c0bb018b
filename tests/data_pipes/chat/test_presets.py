"""Our own templates: what they learn, and that a prompt is what they have learned from. (Texts:
`tests/outside`.)"""

from __future__ import annotations

import pytest

from data_pipes.chat.chat import chat_template, encode_completions, encode_prompt_chats, render
from data_pipes.chat.messages import Message
from data_pipes.chat.presets import NAMED
from data_pipes.tokenizer.trainer import train

CONTROLS = [
    "<s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜end▁of▁sentence｜>",
]
WORDS = train(["the user asks"], 300, special_tokens=CONTROLS)
TALK = [Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("answer", ["d", "<think>\nhm\n</think>\n\nd", "\nd"])
def test_a_prompt_is_that_of_training(name: str, answer: str) -> None:
    template = chat_template(NAMED[name], bos_token="<s>", eos_token="<｜end▁of▁sentence｜>")
    prompt = encode_prompt_chats(template, WORDS, [TALK])[0].tokens.tolist()
    whole, marks = encode_completions(template, WORDS, [(TALK, [Message("assistant", answer)])])[0]
    first = int(marks.argmax())
    if name == "deepseek-r1":  # its prompt opens thoughts
        assert WORDS.decode(whole[:first]).endswith("<｜Assistant｜>" + "<think>\n" * ("<think>" in answer))
        assert WORDS.decode(whole[marks]) == answer.removeprefix("<think>\n") + "<｜end▁of▁sentence｜>"
        return
    assert whole[: len(prompt)].tolist() == prompt
    assert first == len(prompt)
    assert answer.strip() in WORDS.decode(whole[first:])


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"chatml"}))
def test_presets_mark_the_trained_tokens(name: str) -> None:
    assert chat_template(NAMED[name]).program.marked


def test_empty_thoughts_are_the_prompts_where_thinking_is_off() -> None:
    source = NAMED["qwen3"]
    for silent, learned in ((True, "d<|im_end|>"), (False, "<think>\n\n</think>\n\nd<|im_end|>")):
        template = chat_template(source, variables=[("enable_thinking", not silent)])
        tokens, marks = encode_completions(template, WORDS, [(TALK, [Message("assistant", "d")])])[0]
        assert WORDS.decode(tokens[marks]) == learned
        assert WORDS.decode(tokens[: marks.argmax()]) == render(template, TALK, add_generation_prompt=True)


def test_a_second_system_message_of_deepseek_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the first"):
        render(chat_template(NAMED["deepseek-r1"]), [TALK[1], TALK[0]])
