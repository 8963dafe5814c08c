"""The package as users meet it: registries, imports, wheel."""
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import mmhier

ROOT = Path(__file__).parents[1]
BUILD = '''
import sys
from {package}.registry import MODELS
assert 'mmhier' not in sys.modules
for name in ('HATNet', 'LIT', 'HVT', 'ACCViT'):
    backbone = MODELS.build(dict(type='mmhier.' + name, out_indices=(0, 1)))
    assert type(backbone).__name__ == name, backbone
    assert backbone.strides == (4, 8)
    assert len(backbone.out_channels) == 2
'''


def run(code):
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code],
                            cwd='/',
                            text=True,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def test_backbones_build_where_mmhier_is_never_imported():
    processes = {
        package: run(BUILD.format(package=package))
        for package in ('mmdet', 'mmseg', 'mmpretrain')
    }
    outputs = {name: p.communicate()[0] for name, p in processes.items()}
    for package, process in processes.items():
        assert process.returncode == 0, (package, outputs[package])


@pytest.mark.parametrize('package', ['mmengine', 'mmcv'])
def test_import_without_openmmlab_says_what_to_install(package):
    process = run(f"import sys; sys.modules['{package}'] = None; "
                  'import mmhier')
    output, _ = process.communicate()
    assert process.returncode == 1
    assert output.strip().splitlines()[-1] == (
        f'ImportError: mmhier needs OpenMMLab, and {package} is not installed: '
        'run `pip install "mmhier[openmmlab]"` (or `pip install -e '
        '".[openmmlab]"` in a checkout of mmhier)')


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


def test_wheel_carries_configs_tools_and_licence(wheel):
    names = set(wheel.namelist())
    for path in ROOT.glob('configs/**/*.py'):
        assert f'mmhier/.mim/{path.relative_to(ROOT)}' in names
    for tool in ('train.py', 'test.py', 'dist_train.sh'):
        assert f'mmhier/.mim/tools/{tool}' in names
    assert 'mmhier/models/backbones/hatnet.py' in names
    assert any(name.endswith('LICENSE') for name in names)
    assert not any(name.startswith(('tests/', 'configs/')) for name in names)


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
