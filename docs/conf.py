"""The documentation's site: python -m sphinx -W docs build/docs."""

import os
import sys
from pathlib import Path

import smcsock

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ["COLUMNS"] = "80"  # for the usage of commands

project = "smcsock"
author = "the smcsock developers"
copyright = f"2026, {author}"
release = version = smcsock.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "commands",
    "public",
    "schemas",
]
exclude_patterns = ["README.md"]

# Pages are read on code forges, too: no markup that only Sphinx knows where plain will do.
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
nitpicky = False
smartquotes = False  # options begin with two hyphens
python_use_unqualified_type_names = True

# Links into the standard library's documentation need its index from the network.
if os.environ.get("DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {"python": ("https://docs.python.org/3", None)}

html_theme = "furo"
html_title = f"smcsock {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
copybutton_exclude = ".linenos, .gp, .go"
