"""Our files of the student edition: modules with bodies left out, and pages. Nothing of ours is imported."""

from __future__ import annotations

from pathlib import Path

from stages.teach.course import COURSE, course_modules, exercises_of_module, module_path
from stages.teach.files import read_original
from stages.teach.markdown import translate_markdown
from stages.teach.prose import translate_source
from stages.teach.source import Level, leave_out
from stages.teach.translate import read_catalogues

PAGES = Path(__file__).resolve().parent / "pages"
CHAPTERS = Path(__file__).resolve().parent / "chapters"


def render_module(module: str, lang: str, level: Level) -> str:
    """Returns a module as a learner gets it: every exercise of the course in it is left out.

    Raises:
        ValueError: for a language without catalogues.
    """
    functions = {exercise.function: exercise.name for exercise in exercises_of_module(module)}
    return translate_source(leave_out(read_original(module), functions, level), read_catalogues(lang))


def plan_files(lang: str, level: Level) -> dict[str, str]:
    """Returns all files of an edition: path -> text.

    Args:
        lang: language of the texts.
        level: parts of a body that stay.

    Raises:
        ValueError: for a language without catalogues.
    """
    catalogue = read_catalogues(lang)
    files = {module_path(module): render_module(module, lang, level) for module in course_modules()}
    for page in ("README.md", "AGENTS.md"):
        files[page] = translate_markdown((PAGES / page).read_text(encoding="utf-8"), catalogue)
    for chapter in COURSE:
        if chapter.exercises:
            name = f"{chapter.number:02}-{chapter.name}.md"
            page = (CHAPTERS / name).read_text(encoding="utf-8")
            files[f"chapters/{name}"] = translate_markdown(page, catalogue)
    return files
