"""Pages, links and the API reference; `make docs` builds the site."""
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from .test_tools.pages import ROOT, blocks, commands
from .test_tools.test_readme import FAMILIES

PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ('*.md', 'docs/*.md', 'configs/*/README.md')
    for path in ROOT.glob(pattern))
PACKAGES = re.findall(r'^\.\. automodule:: (\S+)$',
                      (ROOT / 'docs/api.md').read_text(), re.MULTILINE)
# For the backbones, where a line may say enough.
INTERNAL = 'mmhier.models.layers'
PUBLIC = [(package, name) for package in PACKAGES
          for name in import_module(package).__all__]


def anchors(path: Path) -> set:
    """What GitHub and MyST call the headings of a page."""
    text = re.sub(r'```.*?```', '', path.read_text(), flags=re.DOTALL)
    return {
        re.sub(r'[^\w\- ]', '', title.lower()).strip().replace(' ', '-')
        for title in re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    }


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r'```.*?```', '', (ROOT / page).read_text(), flags=re.DOTALL)
    links = re.findall(r'\]\(([^)\s]+)\)', text)
    for link in links:
        if re.match(r'https?://', link):
            continue
        name, _, anchor = link.partition('#')
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_that_are_named_exist():
    """Paths of this repository in the text, such as `tools/train.py`."""
    for page in PAGES:
        for path in re.findall(
                r'`((?:tools|docs|mmhier|requirements|configs)/'
                r'[\w./-]+)`', (ROOT / page).read_text()):
            if 'mixnet' in path or 'plug_in' in page:
                continue  # files that the reader writes
            assert (ROOT / path).exists(), (page, path)


def test_index_names_every_page():
    index = (ROOT / 'docs/README.md').read_text()
    contents = (ROOT / 'docs/conf.py').read_text()
    for path in (ROOT / 'docs').glob('*.md'):
        if path.name != 'README.md':
            assert f'[{path.name}]({path.name})' in index
            assert f'\n{path.stem}\n' in contents
    for path in ROOT.glob('configs/*/README.md'):
        assert f'\n../configs/{path.parent.name}/README\n' in contents


def test_commands_of_every_page_are_run():
    """Each page with commands is read by a test, which runs them all."""
    tests = ''.join(path.read_text()
                    for path in (ROOT / 'tests').rglob('test_*.py'))
    for page in PAGES:
        if commands(page) or blocks(page, 'python'):
            folder, _, name = page.rpartition('/')
            if folder.startswith('configs'):
                assert folder.removeprefix('configs/') in FAMILIES
            else:
                assert (f"'{page}'" in tests
                        or f"'{folder}' / '{name}'" in tests), page


def test_reference_holds_every_package():
    """A module with `__all__` is public, and documented."""
    named = {
        str(path.relative_to(ROOT).with_suffix('')).replace(
            '/', '.').removesuffix('.__init__')
        for path in ROOT.glob('mmhier/**/*.py')
        if re.search('^__all__ =', path.read_text(), re.MULTILINE)
    }
    assert named - {'mmhier'} == set(PACKAGES)


@pytest.mark.parametrize('package, name', PUBLIC)
def test_public_names_are_documented(package, name):
    value = getattr(import_module(package), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    text = inspect.getdoc(value)
    assert text and text.splitlines()[0].endswith('.')
    if package == INTERNAL or inspect.isclass(value) and issubclass(
            value, Exception):
        return
    arguments = list(inspect.signature(value).parameters.values())
    assert not arguments or re.search('^(Args|Attributes):$', text,
                                      re.MULTILINE)
    for argument in arguments:
        if argument.kind is not argument.VAR_KEYWORD:
            assert re.search(rf'^ +\*?{argument.name} \(|``{argument.name}``',
                             text, re.MULTILINE), argument.name


def test_make_docs_builds_the_site():
    rule = re.search(r'^docs: .*\n((?:\t.+\n)+)',
                     (ROOT / 'Makefile').read_text(), re.MULTILINE)[1]
    needed, = re.findall(r'-r (\S+)', rule)
    names = {
        line.split('==')[0]
        for line in (ROOT / needed).read_text().splitlines()
    }
    assert names == {'sphinx', 'myst-parser', 'furo'}
    assert '-c docs . build/docs' in rule
    assert (ROOT / 'docs/conf.py').is_file()
    assert '/build/' in (ROOT / '.gitignore').read_text().split()
