"""Good and bad calls, as commands, of the tools whose own tests have none."""
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from .conftest import CONFIGS, DETECTOR

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
SCRIPTS = dict(
    dist_train=['config.py'],
    dist_test=['config.py', 'epoch_12.pth'],
    slurm_train=['gpu', 'job', 'config.py'],
    slurm_test=['gpu', 'job', 'config.py'])
# Stands in for gradio: the page is shown by printing its address.
GRADIO = '''
class Page:
    def launch(self, server_name, server_port):
        print(f'http://{server_name}:{server_port}')

def Interface(*_, title, **__):
    print(title)
    return Page()

JSON = Image = lambda *_, **__: None
'''


def call(*command, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command],
                          capture_output=True,
                          text=True,
                          timeout=300,
                          env=dict(
                              os.environ, OMP_NUM_THREADS='1', **environment))


def with_modules(folder: Path) -> dict:
    """PYTHONPATH with a folder before what it holds."""
    path = os.environ.get('PYTHONPATH')
    return dict(PYTHONPATH=os.pathsep.join(filter(None, [str(folder), path])))


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_tell_their_arguments(name):
    shown = call('bash', TOOLS / f'{name}.sh', '--help')
    assert shown.returncode == 0 and not shown.stderr
    assert shown.stdout.count(f'bash tools/{name}.sh ') >= 2
    assert 'Examples:' in shown.stdout and 'set -' not in shown.stdout
    ended = call('bash', TOOLS / f'{name}.sh', *SCRIPTS[name])
    assert ended.returncode == 2
    assert ended.stderr == shown.stdout and not ended.stdout


@pytest.mark.parametrize('name', ['dist_train', 'dist_test'])
def test_number_of_processes_in_the_wrong_place(name):
    ended = call('bash', TOOLS / f'{name}.sh', *SCRIPTS[name], 'other.pth')
    assert ended.returncode == 2
    assert ended.stderr == ('error: other.pth is not a number of processes\n')


@pytest.mark.parametrize('command, message', [
    (['test.py', 'none.py', 'none.pth'
      ], 'error: config file none.py does not exist'),
    (['leaderboard.py', '/none'
      ], 'error: /none is not a folder: name work dirs of tools/test.py, or a '
     'folder that holds some'),
    (['model_tables.py', '--chekc'
      ], 'model_tables.py: error: unrecognized arguments: --chekc'),
])
def test_mistakes_end_with_one_line(command, message):
    ended = call(sys.executable, TOOLS / command[0], *command[1:])
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == message
    assert 'Traceback' not in ended.stderr


def test_web_page(detector_run, tmp_path):
    checkpoint = Path(detector_run.work_dir) / 'epoch_1.pth'
    command = [
        sys.executable, TOOLS / 'web_demo.py', DETECTOR, checkpoint, '--port',
        '7861', '--device', 'cpu'
    ]
    (tmp_path / 'gradio.py').write_text(GRADIO)
    served = call(*command, **with_modules(tmp_path))
    assert served.returncode == 0, served.stderr
    assert served.stdout.splitlines()[-2:] == [
        DETECTOR, 'http://127.0.0.1:7861'
    ]
    (tmp_path / 'gradio.py').write_text("raise ImportError('no gradio')")
    ended = call(*command, **with_modules(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        'error: the web page needs gradio, which is not installed: run pip '
        'install "mmhier[web]"')


def test_visualize(tmp_path):
    photo = tmp_path / 'photo.png'
    cv2.imwrite(str(photo), np.full((64, 96, 3), 80, np.uint8))
    drawn = call(sys.executable, TOOLS / 'visualize.py', 'features', photo,
                 '--configs', CONFIGS / 'segmentor.py', '--size', '64', '--out',
                 tmp_path / 'out.png')
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.splitlines()[-1] == f'drawn to {tmp_path}/out.png'
    assert cv2.imread(str(tmp_path / 'out.png')) is not None
