"""Memory of loaded annotations, in fresh processes."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from mmhier.datasets.memory import call_in_child, release_parsed_annotations
from mmhier.errors import MMHierError
from mmhier.files import split_at_marks
from ..commands import ROOT, load_tool

LOAD = '''
import re, sys
from pathlib import Path
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope
from mmhier.engine.runner import Runner

init_default_scope('mmdet')

def memory():
    text = Path('/proc/self/smaps_rollup').read_text()
    return 1024 * int(re.search(r'Rss: +(\\d+)', text)[1])

def load(folder):
    return Runner.build_dataloader(dict(
        batch_size=1,
        sampler=dict(type='DefaultSampler'),
        dataset=dict(
            type='CocoDataset',
            data_root=folder,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            pipeline=[])))

small = load(sys.argv[1])
before = memory()
large = load(sys.argv[2])
data = large.dataset
print((memory() - before) / (data.data_bytes.nbytes + data.data_address.nbytes))
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_annotations_take_little_more_than_their_serialized_form(tmp_path):
    """Without the release, they take about five times as much."""
    tool = load_tool('tools/annotation_memory.py')
    for name, number in ('small', 50), ('large', 12000):
        tool.generate(tmp_path / name, number)
    done = subprocess.run([
        sys.executable, '-c', LOAD,
        str(tmp_path / 'small'),
        str(tmp_path / 'large')
    ],
                          cwd=ROOT,
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1.3


def describe_process(*args):
    return os.getpid(), args


def fail(message):
    raise MMHierError(message)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != 'linux', reason='no fork')
def test_functions_are_called_in_a_child():
    pid, args = call_in_child(describe_process, 1, ('a', None))
    assert pid != os.getpid() and args == (1, ('a', None))
    with pytest.raises(MMHierError, match='^of the child$'):
        call_in_child(fail, 'of the child')
    with pytest.raises(MMHierError, match='was killed'):
        call_in_child(die)


def test_ids_stay_the_same():

    class Dataset:
        cat_img_map = {1: [7, 3000], 2: [], 3: ['a']}

    class Wrapper:
        datasets = [Dataset()]

    class Outer:
        dataset = Wrapper()

    release_parsed_annotations(Outer())
    found = Wrapper.datasets[0].cat_img_map
    assert isinstance(found[1], np.ndarray) and found[3] == ['a']
    assert {k: list(v) for k, v in found.items()} == Dataset.cat_img_map
    assert set(found[1]) & {3000} == {3000}


def test_table_of_the_tool():
    tool = load_tool('tools/annotation_memory.py')
    found = dict(mmhier=tool.Memory(3_000_000, 1_200_000, 1_000_000))
    text = tool.table(found, 100, 4)
    assert '| mmhier | 3 | 1 | 1 | 1.20 |' in text
    assert '100 images, 727 annotations, 4 workers' in text
    assert split_at_marks(tool.PAGE.read_text(), tool.START, tool.END,
                          tool.PAGE)[1]
