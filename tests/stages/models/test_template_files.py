"""`stages.models.template_files`: chat templates in every file and field that may hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.models import template_files
from stages.models.template_files import Templates


def test_one_template_is_saved_as_a_file_and_several_as_a_field() -> None:
    assert template_files.render(Templates("a")) == ({"chat_template.jinja": "a"}, {})
    assert template_files.render(Templates()) == ({}, {})
    files, field = template_files.render(Templates("a", (("rag", "b"),)))
    assert files == {}
    assert field == {
        "chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    }


@pytest.mark.parametrize(
    "templates",
    [Templates(), Templates("a"), Templates("a", (("b", "c"),)), Templates(None, (("b", "c"), ("d", "e")))],
)
def test_saved_templates_are_read_back(templates: Templates, tmp_path: Path) -> None:
    files, field = template_files.render(templates)
    for name, text in {**files, "tokenizer_config.json": json.dumps(field)}.items():
        (tmp_path / name).write_text(text)
    assert template_files.read(tmp_path) == templates


def test_template_files_override_the_field_of_tokenizer_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert template_files.read(tmp_path) == Templates("old")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("r")
    assert template_files.read(tmp_path) == Templates(None, (("rag", "r"),))
    (tmp_path / "chat_template.jinja").write_text("new")
    assert template_files.read(tmp_path) == Templates("new", (("rag", "r"),))


def test_a_template_of_chat_template_json_must_equal_the_tokenizer_s(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text('{"chat_template": "a"}')
    assert template_files.read(tmp_path) == Templates("a")
    (tmp_path / "chat_template.jinja").write_text("a")
    assert template_files.read(tmp_path) == Templates("a")
    (tmp_path / "chat_template.jinja").write_text("b")
    with pytest.raises(ValueError, match=r"chat_template\.json: its template is not the tokenizer's"):
        template_files.read(tmp_path)


@pytest.mark.parametrize("value", [5, ["a"], [{"name": "a"}], {"a": 5}])
def test_a_chat_template_field_of_another_type_is_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template must be a text, or a list"):
        template_files.read(tmp_path)


def test_templates_of_a_gguf_file_are_read() -> None:
    fields = {
        "tokenizer.chat_template": "a",
        "tokenizer.chat_template.rag": "b",
        "tokenizer.chat_templates": ["rag"],
    }
    assert template_files.from_gguf(fields) == Templates("a", (("rag", "b"),))
