"""`trained_length`: a field of tokenizer_config.json that is kept through training and other libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from stages.models import language_model
from tests.stages.models.test_language_model import make_model


def test_the_length_of_the_training_rows_is_kept_by_us_and_by_transformers(tmp_path: Path) -> None:
    model, path = make_model()._replace(trained_length=24), tmp_path / "model" / "tokenizer_config.json"
    loaded = language_model.load(language_model.save(tmp_path / "model", model))
    again = language_model.load(language_model.save(tmp_path / "again", loaded))
    assert loaded.trained_length == again.trained_length == 24
    assert language_model.load(language_model.save(tmp_path / "other", make_model())).trained_length is None
    transformers.AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert language_model.load(tmp_path / "again").trained_length == 24
    for wrong in ("true", '"24"', "0", "33"):
        path.write_text(path.read_text().replace('_length": 24', f'_length": {wrong}'))
        with pytest.raises(ValueError, match=r"model: tokenizer_config.json: trained_length .* 1 \.\. 32"):
            language_model.load(tmp_path / "model")
        path.write_text(path.read_text().replace(f'_length": {wrong}', '_length": 24'))
