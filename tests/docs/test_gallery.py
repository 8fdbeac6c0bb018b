"""The gallery: titles from file names, and a thumbnail with the first sentence of an example without a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.extensions.gallery import copy_examples, with_title

pytest.importorskip("matplotlib", reason="matplotlib is not installed (README)")


@pytest.mark.parametrize(
    ("stem", "title"),
    [
        ("04_per_sample_gradients", "4. Per-sample gradients"),
        ("13_grpo_of_a_hugging_face_module", "13. GRPO of a Hugging Face module"),
        ("20_dp_sgd", "20. DP-SGD"),
        ("07_dpo", "7. DPO"),
        ("25_meta_gradients", "25. Meta-gradients"),
    ],
)
def test_titles_have_the_terms_of_the_field(stem: str, title: str) -> None:
    assert with_title(stem, '"""First sentence.\n"""\n').split("\n")[1] == title


def test_examples_that_draw_no_picture_get_a_thumbnail(tmp_path: Path) -> None:
    source, folder, thumbnails = (
        tmp_path / "examples",
        tmp_path / "sources",
        tmp_path / "_build" / "thumbnails",
    )
    source.mkdir()
    (source / "01_plain.py").write_text('"""One `sentence`.\n\nMore.\n"""\n')
    (source / "02_drawn.py").write_text('"""Draws."""\n\nPICTURE = "drawn.png"\n')
    copy_examples(source, folder, thumbnails)
    assert [path.name for path in thumbnails.iterdir()] == ["01_plain.png"]
    assert (
        "# sphinx_gallery_thumbnail_path = '_build/thumbnails/01_plain.png'"
        in (folder / "01_plain.py").read_text()
    )
    assert "thumbnail" not in (folder / "02_drawn.py").read_text()
