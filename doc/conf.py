"""Sphinx configuration."""

import os
import sys
from pathlib import Path

import skddvi

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the gallery shares its machine

project = "skddvi"
author = "skddvi developers"
copyright = "2026, skddvi developers"
release = version = skddvi.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
    "numpydoc",
    "coded",
]
exclude_patterns = ["_build", "_templates", "auto_examples/*.ipynb", "auto_examples/*.py"]
templates_path = ["_templates"]
default_role = "py:obj"

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say it
numpydoc_show_class_members = False  # autosummary lists them
numpydoc_class_members_toctree = False

math_eqref_format = "({number})"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,  # a page with a traceback is worse than none
    "download_all_examples": False,
    "capture_repr": (),  # pictures and what is printed; a display's repr says nothing
    "reset_modules": ("matplotlib",),
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skddvi {version}"
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]
# Pages without pages below them, whose navigation would be an empty column.
html_sidebars = {"*": []}
html_show_sourcelink = False
toc_object_entries_show_parents = "hide"  # the column is narrow
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "header_links_before_dropdown": 3,  # titles are long, and the bar would be of two lines
}
