"""Settings of the documentation: `make docs`."""

from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "modula"
author = "modula contributors"
copyright = f"2026, {author}"
release = version = installed_version("modula")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "modula"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"


def as_written(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Show a docstring as it stands: formulas aligned with their shapes, |x| and x_* untouched."""
    if any(lines):
        lines[:] = ["::", "", *("    " + line for line in lines), ""]


def setup(app: Sphinx) -> None:
    """Called by sphinx."""
    app.connect("autodoc-process-docstring", as_written)
