"""Sphinx settings of `make docs`: guides and API reference in one site."""
from pathlib import Path

from mmhier import __version__

project = 'mmhier'
release = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']

# The pages link to each other as on GitHub, so the root of the checkout is
# the source folder, and only Markdown pages are taken from it.
root_doc = 'docs/README'
include_patterns = ['*.md', 'docs/*.md', 'configs/*/README.md']
exclude_patterns = ['.*', 'build', 'data', 'tests', 'work_dirs']
myst_heading_anchors = 3

html_theme = 'furo'
html_title = f'mmhier {__version__}'
html_show_copyright = False
autodoc_default_options = {'members': True}
autodoc_member_order = 'bysource'


def add_table_of_contents(_, name: str, source: list) -> None:
    """Give the index the table of contents that GitHub would not render."""
    if name == root_doc:
        source[0] += '''
```{toctree}
:hidden:
../README
install
training
weights
own_data
plug_in
evaluation
inference
export
speed
api
../CONTRIBUTING
../CHANGELOG
../configs/hatnet/README
../configs/lit/README
../configs/litv2/README
../configs/hvt/README
../configs/accvit/README
```
'''


def add_start_page(app, _) -> None:
    """Lead index.html to the index of the guides."""
    Path(app.outdir, 'index.html').write_text(
        f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n')


def setup(app) -> None:
    app.connect('source-read', add_table_of_contents)
    app.connect('build-finished', add_start_page)
