"""`source.splits`: splits of a folder are those of `datasets`; ambiguous ones are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from datasets.data_files import DataFilesDict, get_data_patterns

from data_pipes.source.path import documents, rows
from data_pipes.source.splits import all_name_splits, select_split
from data_pipes.source.text import files


def write_files(top: Path, *names: str) -> list[Path]:
    """Write files of one row, the file's own name, and return those in JSONL."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f'{{"text": "{name}"}}\n')
    return [file for file in files(top) if file.suffix == ".jsonl"]


def reference_splits(top: Path) -> dict[str, list[str]]:
    """Files of each split, as `datasets` reads them."""
    splits = DataFilesDict.from_patterns(get_data_patterns(str(top)), base_path=str(top))
    return {
        split: sorted({Path(file).relative_to(top).as_posix() for file in names})
        for split, names in splits.items()
    }


LAYOUTS = {
    "files": ("train.jsonl", "test.jsonl"),
    "shards": (
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/dev-00000-of-00001.jsonl",
    ),
    "other names": ("data/train_sft-00000-of-00001.jsonl", "data/test_gen-00000-of-00001.jsonl"),
    "folders": ("train/a.jsonl", "train/b/c.jsonl", "validation/d.jsonl"),
    "words in folders": ("my-eval-1/a.jsonl", "x.training/b.jsonl"),
    "words in names": ("x_train_1.jsonl", "x_train_2.jsonl", "x val 1.jsonl", "testing.jsonl"),
    "a folder in a folder": ("a/train.jsonl", "b/c/valid.jsonl"),
    "no splits": ("a.jsonl", "b/trainer.jsonl", "latest.jsonl", "contest.jsonl"),
    "one split": ("dev.jsonl",),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_split_as_by_datasets(tmp_path: Path, names: tuple[str, ...]) -> None:
    paths = write_files(tmp_path, *names)
    for split, expected in reference_splits(tmp_path).items():
        assert [
            file.relative_to(tmp_path).as_posix() for file in select_split(tmp_path, paths, split)
        ] == expected


def test_random_layouts_are_split_as_by_datasets_or_refused(tmp_path: Path) -> None:
    """A split that is not refused has the files that `datasets` gives it."""
    rng = random.Random(0)
    words = ("train", "training", "test", "eval", "dev", "val", "valid", "data", "a", "x1", "trainer", "en")
    read = refused = 0
    for number in range(150):
        top = tmp_path / f"{number}x"

        def random_part() -> str:
            return rng.choice(("-", "_", ".", " ")).join(rng.choices(words, k=rng.randint(1, 2)))

        names = [
            "/".join(random_part() for _ in range(rng.randint(1, 2))) + ".jsonl"
            for _ in range(rng.randint(1, 3))
        ]
        paths = write_files(top, *names)
        expected = reference_splits(top)
        for split in ("train", "validation", "test"):
            try:
                ours = [file.relative_to(top).as_posix() for file in select_split(top, paths, split)]
            except ValueError:
                refused += 1
                continue
            read += 1
            # If all files are in "train", the split "test" may be all files too.
            one_split = list(expected) == ["train"] and len(expected["train"]) == len(paths)
            name = "train" if one_split and split == "test" else split
            assert ours == expected[name], (names, split)
    assert min(read, refused) > 50


def test_synonyms_select_their_split(tmp_path: Path) -> None:
    paths = write_files(tmp_path, "train.jsonl", "dev.jsonl", "Eval.jsonl")
    for split, name in (
        ("val", "dev"),
        ("validation", "dev"),
        ("dev", "dev"),
        ("test", "Eval"),
        ("training", "train"),
    ):
        assert [file.stem for file in select_split(tmp_path, paths, split)] == [name]


def test_a_split_with_a_custom_name(tmp_path: Path) -> None:
    paths = write_files(tmp_path, "train_sft.jsonl", "train_gen.jsonl", "test_sft.jsonl")
    assert [file.stem for file in select_split(tmp_path, paths, "train_sft")] == ["train_sft"]
    assert [file.stem for file in select_split(tmp_path, paths, "train")] == ["train_gen", "train_sft"]


@pytest.mark.parametrize(
    ("names", "split", "words"),
    [
        (
            ("train.jsonl", "test.jsonl"),
            "validation",
            "has no split 'validation'; it has test, train; pass --split",
        ),
        (("dev/train.jsonl",), "train", "has no split 'train'; it has validation"),
        (("test.jsonl",), "train", "has no split 'train'; it has test"),
        (("data/train_sft-00000-of-00001.jsonl",), "train", "has no split 'train'; it has train_sft"),
        (
            ("a.jsonl",),
            "validation",
            "has no split 'validation', as no file name in it has a split; leave --split out",
        ),
        (
            ("train.jsonl", "more.jsonl", "z.jsonl"),
            "train",
            r"more.jsonl and 1 others belong to none of the splits",
        ),
        (("test_train.jsonl", "train.jsonl"), "train", "test_train.jsonl has words of two splits"),
    ],
)
def test_ambiguous_splits_are_refused(tmp_path: Path, names: tuple[str, ...], split: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        select_split(tmp_path, write_files(tmp_path, *names), split)


DATASET_CARD = """---
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: en/part-*.jsonl
  - split: test
    path: [en/held.jsonl]
- config_name: de
  data_files: de/*.jsonl
- config_name: fr
  data_dir: fr
---
# A card
"""


def test_a_data_set_card_with_configurations_decides_the_files(tmp_path: Path) -> None:
    paths = write_files(
        tmp_path, "en/part-1.jsonl", "en/part-2.jsonl", "en/held.jsonl", "de/x.jsonl", "fr/test.jsonl"
    )
    (tmp_path / "README.md").write_text(DATASET_CARD)

    def names(split: str, subset: str | None = None) -> list[str]:
        return [file.stem for file in select_split(tmp_path, paths, split, subset)]

    assert (names("train"), names("test"), names("train", "de")) == (["part-1", "part-2"], ["held"], ["x"])
    assert names("test", "fr") == ["test"]
    with pytest.raises(ValueError, match=r"has no subset 'it'; README\.md lists en, de, fr"):
        names("train", "it")
    with pytest.raises(ValueError, match="has no split 'validation'; it has test, train"):
        names("validation")
    (tmp_path / "README.md").write_text(DATASET_CARD.replace("  default: true\n", ""))
    with pytest.raises(ValueError, match=r"several subsets; README\.md lists en, de, fr; pass --subset"):
        names("train")
    (tmp_path / "README.md").write_text(DATASET_CARD.replace("held", "lost"))
    with pytest.raises(ValueError, match="names files of the split 'test' that do not exist"):
        names("test")


@pytest.mark.parametrize(
    "card", ["", "# No YAML", "---\n[\n---\n", "---\nconfigs: 3\n---\n", "---\nlicense: mit\n---\n"]
)
def test_a_data_set_card_without_configurations_is_ignored(tmp_path: Path, card: str) -> None:
    paths = write_files(tmp_path, "train.jsonl", "en/train.jsonl")
    (tmp_path / "README.md").write_text(card)
    assert len(select_split(tmp_path, paths, "train")) == 2
    assert [file.parent.name for file in select_split(tmp_path, paths, "train", "en")] == ["en"]
    with pytest.raises(ValueError, match="has no subset 'de'"):
        select_split(tmp_path, paths, "train", "de")


def test_files_that_are_no_data_are_ignored(tmp_path: Path) -> None:
    write_files(tmp_path, "data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl")
    for name in (
        "README.md",
        "LICENSE",
        "dataset_infos.json",
        "plot.png",
        ".gitattributes",
        ".cache/x.jsonl",
        "__pycache__/train.jsonl",
        "CITATION.cff",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\0")
    for split in ("train", "test"):
        expected = [f"data/{split}-00000-of-00001.jsonl"]
        assert [row.values["text"] for row in rows(tmp_path, split=split)] == expected
        assert [document.text for document in documents(tmp_path, split=split)] == expected


def test_a_folder_of_texts_with_a_file_of_rows_is_read_whole(tmp_path: Path) -> None:
    write_files(tmp_path, "rows.jsonl")
    for name in ("README.md", "main.py", "setup.toml", "config.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\0")
    assert [d.text for d in documents(tmp_path)] == [
        "README.md",
        "config.json",
        "main.py",
        "rows.jsonl",
        "setup.toml",
    ]


def test_a_folder_of_texts_has_splits_only_if_every_name_has_one(tmp_path: Path) -> None:
    for name in ("wiki.train.txt", "wiki.test.txt"):
        (tmp_path / name).write_text(name)
    assert all_name_splits(tmp_path, files(tmp_path))
    assert [document.text for document in documents(tmp_path)] == ["wiki.train.txt"]
    (tmp_path / "book.txt").write_text("book")
    (tmp_path / "train.py").write_text("train")
    assert len(list(documents(tmp_path))) == 4
    (tmp_path / "book.txt").unlink()
    assert [document.text for document in documents(tmp_path, split="test")] == ["train", "wiki.test.txt"]


def test_the_same_rows_in_two_formats_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "train.jsonl")
    (tmp_path / "train.csv").write_text("text\nx\n")
    for read in (rows, documents):
        with pytest.raises(ValueError, match=r"train\.csv and .*train\.jsonl would both be read"):
            list(read(tmp_path))


def test_links_are_followed_and_cycles_end(tmp_path: Path) -> None:
    write_files(tmp_path / "big", "a.jsonl")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data").symlink_to(tmp_path / "big")
    (tmp_path / "big" / "back").symlink_to(tmp_path / "set")
    assert [row.values["text"] for row in rows(tmp_path / "set")] == ["a.jsonl"]


def test_a_single_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    write_files(tmp_path, "train.jsonl", "test.jsonl")
    assert [row.values["text"] for row in rows(tmp_path / "test.jsonl", split="train")] == ["test.jsonl"]


def test_a_link_whose_file_is_gone_is_refused(tmp_path: Path) -> None:
    """Of the Hub's cache, where files are links: a part of the rows would be missing."""
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: part*.jsonl\n---\n")
    (tmp_path / "part0.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "part1.jsonl").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(FileNotFoundError, match=r"part1\.jsonl is a link to .*gone, which is not there"):
        list(rows(tmp_path))
