"""Configuration of the documentation: `python -m sphinx -W --keep-going -b html docs docs/_build/html`.

The build writes the pages of the API, the examples and the tables into `docs/generated`, runs the examples and
every block of code, and needs no network.
"""

import os
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)  # for programs that examples start
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # blocks run beside examples; more threads would wait
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # XLA compiles in two thirds of the time

# With -j, processes are forked after examples have used JAX: they read and write pages, and compute nothing.
warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)

from docs.extensions import algorithms, api, gallery, inventories  # noqa: E402

project = "Intro2LLM"
author = "the authors of Intro2LLM"
copyright = "the authors of Intro2LLM, MIT license"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "docs.extensions.build",
]
exclude_patterns = ["_build", "generated/sources"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
highlight_language = "text"  # of blocks that name no language: formulas

myst_heading_anchors = 3

intersphinx_mapping = inventories.write_inventories(DOCS / "_build" / "inventories")

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_inherit_docstrings = False
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
napoleon_use_param = False
napoleon_custom_sections = ["Returns", "Yields", "Steps", "Edge cases", "Source", ("Fields", "params_style")]

copybutton_prompt_text = r">>> |\.\.\. |\$ |> "
copybutton_prompt_is_regexp = True

EXAMPLES = DOCS / "generated" / "sources"
gallery.copy_examples(ROOT / "examples", EXAMPLES, DOCS / "_build" / "thumbnails")
api.write_api(ROOT, DOCS / "generated" / "api")
algorithms.write_algorithms(ROOT, DOCS / "generated", DOCS / "_build")
sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "generated/examples",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": r"/\d\d_",
    "reset_argv": "docs.extensions.gallery.choose_arguments",
    "image_scrapers": ("docs.extensions.gallery.show_pictures",),
    "reset_modules": ("docs.extensions.gallery.start_anew",),
    "ignore_pattern": gallery.missing_examples(),
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "copyfile_regex": "",
}
