"""The package as users meet it: imports, registries, wheel."""
import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import mmhier
from mmhier import registry

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmhier'
SCOPES = ('mmdet', 'mmseg', 'mmpretrain')


def module_name(path: Path) -> str:
    """'mmhier.apis' of mmhier/apis/__init__.py."""
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    return name.removesuffix('.__init__')


MODULES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob('*.py')) if '.mim' not in path.parts
}
# Makes some packages broken or, with ModuleNotFoundError, absent.
BLOCK = '''
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {names}:
            raise {error}(f'{{name}} is blocked')
sys.meta_path.insert(0, Blocker())
'''
BUILD = '''
from {package}.registry import MODELS
assert 'mmhier' not in sys.modules
for name in ('HATNet', 'LIT', 'LITv2', 'HVT', 'ACCViT'):
    backbone = MODELS.build(dict(type='mmhier.' + name, out_indices=(0, 1)))
    assert type(backbone).__name__ == name, backbone
    assert backbone.strides == (4, 8)
    assert len(backbone.out_channels) == 2
loaded = {{name.split('.')[0] for name in sys.modules}}
assert not loaded & {names}, loaded & {names}
'''


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          cwd='/',
                          text=True,
                          env=dict(os.environ, **environment),
                          capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    'package, error',
    [
        ('mmengine', 'ImportError'),
        ('mmdet', 'ImportError'),
        ('mmseg', 'ModuleNotFoundError'),  # mmseg itself fails on the other
        ('mmpretrain', 'ImportError'),
    ])
def test_backbones_build_where_the_other_packages_are_broken(package, error):
    names = {*SCOPES} - {package}
    if package == 'mmpretrain':
        names.remove('mmdet')  # which mmpretrain imports itself
    done = run(
        (BLOCK + BUILD).format(package=package, names=names, error=error))
    assert done.returncode == 0, done.stderr


def registered_types() -> Iterator[tuple[str, str, str]]:
    """Registry, name and module of each class with register_module()."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                for decorator in map(ast.unparse, node.decorator_list):
                    if decorator.endswith('.register_module()'):
                        yield decorator.split('.')[0], node.name, module


@pytest.mark.parametrize('kind, name, module', list(registered_types()))
def test_every_type_is_found_in_its_module(kind, name, module):
    own = getattr(registry, kind)
    # Through mmengine's registry, as from any other scope.
    found = own.parent.get(f'mmhier.{name}')
    assert (found.__module__, found.__name__) == (module, name)
    assert own.get(name) is found
    if not module.startswith('mmhier.models.backbones'):
        assert own.modules[name] == module.removeprefix('mmhier.')


def test_a_type_whose_package_is_missing_names_it():
    code = BLOCK + '''
from mmhier.registry import MODELS
MODELS.get('mmhier.SegTTAModel')
'''
    done = run(code.format(names={'mmseg'}, error='ImportError'))
    assert done.stderr.splitlines()[-1] == 'ImportError: mmseg is blocked'


def test_import_loads_neither_torch_nor_openmmlab():
    done = run("""
import sys
before = set(sys.modules)
import mmhier, mmhier.errors, mmhier.zoo, mmhier.cli.__main__
from mmhier.cli import train, doctor
new = {name.split('.')[0] for name in set(sys.modules) - before}
print(*sorted(new - sys.stdlib_module_names))
""")
    assert done.stdout.split() == ['mmhier'], done


@pytest.mark.parametrize('package', ['mmengine', 'mmcv'])
def test_models_without_openmmlab_say_what_to_install(package):
    done = run(f"import sys; sys.modules['{package}'] = None; "
               'import mmhier.models')
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f'ModuleNotFoundError: mmhier needs OpenMMLab, and {package} is not '
        'installed: run `pip install "mmhier[openmmlab]"` (or `pip install -e '
        '".[openmmlab]"` in a checkout of mmhier)')
    done = run(f"import sys; sys.modules['{package}'] = None; "
               'from mmhier.cli.__main__ import main; main(["check", "a.py"])')
    assert done.returncode == 2
    assert done.stderr == (f'error: {package} is not installed: run pip '
                           'install "mmhier[openmmlab]"\n')


def imported(module: str, path: Path) -> Iterator[str]:
    """Modules of mmhier that a module imports when it is imported."""

    def statements(nodes: list) -> Iterator[ast.stmt]:
        for node in nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield node
            elif isinstance(node, ast.If) and ast.unparse(
                    node.test).endswith('TYPE_CHECKING'):
                yield from statements(node.orelse)
            elif not isinstance(node, (ast.FunctionDef, ast.Lambda)):
                yield from statements(list(ast.iter_child_nodes(node)))

    for node in statements(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            package = module.split('.')
            if path.name != '__init__.py':
                package = package[:-1]
            package = package[:len(package) + 1 - node.level]
            base = '.'.join(package * (node.level > 0) + [node.module or ''])
            base = base.rstrip('.')
            names = [
                name if (name := f'{base}.{alias.name}') in MODULES else base
                for alias in node.names
            ]
        for name in names:
            # Python imports the packages around a module before it.
            while name in MODULES:
                if name != module and not module.startswith(f'{name}.'):
                    yield name
                name = name.rpartition('.')[0]


def test_no_module_imports_itself_through_others():
    graph = {name: set(imported(name, path)) for name, path in MODULES.items()}
    assert 'mmhier.registry' in graph['mmhier.models.backbones.lit']
    assert 'mmhier.engine.runner' in graph['mmhier.apis.testing']
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


@pytest.fixture(scope='module')
def import_errors() -> dict[str, str]:
    """Errors of all imports in a process, by the name of the module."""
    # Windows lacks both.
    done = run(
        (BLOCK + '''
import json
from importlib import import_module
errors = {{}}
for name in {modules}:
    try:
        import_module(name)
    except Exception as error:
        errors[name] = repr(error)
print(json.dumps(errors))
''').format(names={'fcntl', 'resource'},
            error='ModuleNotFoundError',
            modules=list(MODULES)))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', MODULES)
def test_every_module_imports(name, import_errors):
    assert name not in import_errors, import_errors[name]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('mmhier', 'configs', 'tools'):
        shutil.copytree(
            ROOT / name,
            source / name,
            ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    subprocess.run([
        sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps',
        '--no-build-isolation', '--wheel-dir', folder, source
    ],
                   check=True)
    path, = folder.glob('*.whl')
    return zipfile.ZipFile(path)


@pytest.fixture(scope='module')
def unpacked(wheel, tmp_path_factory) -> Path:
    """Folder to which the wheel is installed."""
    folder = tmp_path_factory.mktemp('site-packages')
    wheel.extractall(folder)
    return folder


@pytest.mark.slow
def test_wheel_carries_configs_tools_and_licence(wheel):
    names = set(wheel.namelist())
    for path in ROOT.glob('configs/**/*.py'):
        assert f'mmhier/.mim/{path.relative_to(ROOT)}' in names
    for tool in ('train.py', 'test.py', 'dist_train.sh'):
        assert f'mmhier/.mim/tools/{tool}' in names
    assert 'mmhier/models/backbones/hatnet.py' in names
    assert any(name.endswith('LICENSE') for name in names)
    assert not any(name.startswith(('tests/', 'configs/')) for name in names)


@pytest.mark.slow
def test_wheel_metadata(wheel):
    name, = (n for n in wheel.namelist() if n.endswith('METADATA'))
    metadata = wheel.read(name).decode()
    assert f'Version: {mmhier.__version__}\n' in metadata
    core = [
        line for line in metadata.splitlines()
        if line.startswith('Requires-Dist') and 'extra ==' not in line
    ]
    packages = {line.split()[1].split('>')[0].split('<')[0] for line in core}
    assert packages == {
        'torch', 'torchvision', 'numpy', 'pycocotools', 'filelock', 'jinja2'
    }
    for package in ('mmengine', 'mmcv', 'mmdetection', 'mmsegmentation',
                    'mmpretrain'):
        assert f'Requires-Dist: onedl-{package}' in metadata


@pytest.mark.slow
def test_wheel_has_the_command(wheel):
    name, = (n for n in wheel.namelist() if n.endswith('entry_points.txt'))
    assert wheel.read(name).decode().split('\n')[:2] == [
        '[console_scripts]', 'mmhier = mmhier.cli.__main__:main'
    ]


@pytest.mark.slow
def test_commands_find_configs_in_the_wheel(unpacked, tmp_path):
    name = 'mask-rcnn_hatnet-tiny_fpn_1x_coco'

    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *map(str, arguments)],
                              cwd=tmp_path,
                              text=True,
                              capture_output=True,
                              env=dict(os.environ, PYTHONPATH=str(unpacked)))

    listed = command('-m', 'mmhier', 'configs', '--path', name)
    file = f'.mim/configs/hatnet/{name}.py'
    assert listed.stdout.strip() == str(unpacked / 'mmhier' / file)
    # The config is found; its data is not.
    for tool in ['-m', 'mmhier',
                 'train'], [unpacked / 'mmhier/.mim/tools/train.py']:
        trained = command(*tool, name, '--from-scratch')
        assert trained.returncode == 2
        assert 'error: train_dataloader.dataset' in trained.stderr
        assert (tmp_path / 'work_dirs' / name).is_dir()
