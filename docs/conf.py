"""The documentation: Markdown by MyST, the reference from docstrings, the example programs run and shown."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
os.environ.setdefault("GPUNET_DEVICE", "cpu")

from gpunet import __version__  # noqa: E402

project, author = "gpunet", "the gpunet developers"
project_copyright = "the gpunet developers, MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "_autodoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "gallery/*.ipynb", "**/README.rst", "sg_execution_times.rst"]
suppress_warnings = ["config.cache"]  # the order of the gallery is a function

templates_path = ["_templates"]
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {
    name: name for name in ("Array", "Scalar", "PathLike", "Shape", "Padding", "Backward", "Size", "Record")
}
_REQUESTS = ", ".join(f"set_{method}_request" for method in ("fit", "partial_fit", "predict", "score", "transform"))
autodoc_default_options = {"no-value": True, "exclude-members": _REQUESTS}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "gpunet"
html_static_path = ["_static"]
html_css_files = ["gpunet.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 5,
}
_NO_SUBPAGES = "tutorial", "commands", "benchmarks", "short_programs", "faq", "limits", "robustness", "results/*"
html_sidebars: dict[str, list[str]] = {page: [] for page in _NO_SUBPAGES}
html_show_sourcelink = False

sphinx_gallery_conf = {
    "examples_dirs": ["../scripts"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"(mlp_from_scratch|cnn_feature_extraction|ops_on_arrays)\.py$",
    "ignore_pattern": r"(__init__|feature_analysis|predict_with_onnxruntime|two_hosts)\.py$|study|experiments",
    "nested_sections": False,
    "reset_argv": "_gallery.arguments",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
}
