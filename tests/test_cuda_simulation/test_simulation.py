"""CUDA code paths on tensors without storage: faults, launches, memory."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ..conftest import ROOT

FOLDER = Path(__file__).parent
# The settings that take other code paths, beside each dtype in training.
CASES = {
    'float32': {},
    'float16': dict(dtype='float16'),
    'bfloat16': dict(dtype='bfloat16'),
    'with_cp': dict(dtype='bfloat16', with_cp=True),
    'frozen stem': dict(dtype='bfloat16', frozen_stages=0),
    'frozen stages': dict(frozen_stages=2),
    'one map': dict(dtype='bfloat16', out_indices=[2]),
    'two maps': dict(dtype='float16', out_indices=[0, 3], frozen_stages=1),
    'inference': dict(dtype='bfloat16', training=False),
    'float32 inference': dict(training=False),
}
# Upper limits under bfloat16: milliseconds of forward and backward pass,
# memory in MiB.
BUDGETS = {
    ('HATNet', 'tiny'):
    dict(
        forward_calls=910,
        backward_calls=907,
        milliseconds=14,
        saved=1950,
        inference_peak=300),
    ('LIT', 'tiny'):
    dict(
        forward_calls=300,
        backward_calls=510,
        milliseconds=12,
        saved=1700,
        inference_peak=345),
    ('LIT', 'small'):
    dict(
        forward_calls=440,
        backward_calls=1200,
        milliseconds=40,
        saved=1600,
        inference_peak=320),
    ('LITv2', 'small'):
    dict(
        forward_calls=390,
        backward_calls=630,
        milliseconds=11.6,
        saved=2075,
        inference_peak=300),
    ('HVT', 's-1'):
    dict(
        forward_calls=344,
        backward_calls=523,
        milliseconds=7.8,
        saved=885,
        inference_peak=250),
    ('ACCViT', 'tiny'):
    dict(
        forward_calls=2300,
        backward_calls=2850,
        milliseconds=90,
        saved=7500,
        inference_peak=700),
}


@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    """Library in the place of CUDA's runtime and driver."""
    compiler = shutil.which('c++') or shutil.which('g++')
    if compiler is None or sys.platform != 'linux':
        pytest.skip('needs Linux and a C++ compiler')
    path = tmp_path_factory.mktemp('runtime') / 'libcuda.so.1'
    subprocess.run([
        compiler, '-std=c++17', '-shared', '-fPIC', f'-Wl,-soname,{path.name}',
        '-o', path, FOLDER / 'runtime.cpp'
    ],
                   check=True)
    return path


def simulate(runtime, family, arch, cases):
    """Results of simulation.simulate, by the names of the cases."""
    run = subprocess.run(
        [
            sys.executable, '-W', 'ignore', '-m',
            'tests.test_cuda_simulation.simulation',
            *(json.dumps(dict(family=family, arch=arch, **case))
              for case in cases.values())
        ],
        cwd=ROOT,
        env={
            **os.environ, 'LD_PRELOAD': str(runtime),
            'LD_LIBRARY_PATH': str(runtime.parent),
            'PYTHONPATH': str(ROOT),
            'PYTORCH_JIT': '0',
            'OMP_NUM_THREADS': '1'
        },
        capture_output=True,
        text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(zip(cases, map(json.loads, run.stdout.splitlines())))


def test_a_small_pass_has_no_fault(runtime):
    cases = {
        name: dict(case, size=[96, 128])
        for name, case in CASES.items() if name in ('bfloat16', 'inference')
    }
    for name, result in simulate(runtime, 'HATNet', 'tiny', cases).items():
        assert not result['faults'], name
        assert result['calls']['forward'] > 100


@pytest.mark.slow
@pytest.mark.parametrize('family, arch, stages', [('HATNet', 'tiny', [1, 4]),
                                                  ('LIT', 'tiny', [4]),
                                                  ('LIT', 'small', [4])])
def test_pictures_of_attention_end_on_the_cpu(runtime, family, arch, stages):
    cases = {s: dict(run='show_attention', stage=s) for s in stages}
    for result in simulate(runtime, family, arch, cases).values():
        assert set(result['devices']) == {'cpu'}


@pytest.mark.slow
def test_compiled_graphs_hold_no_operator_for_cpus(runtime):
    cases = {'graph': dict(run='compiled_operators')}
    result = simulate(runtime, 'HATNet', 'tiny', cases)['graph']
    assert len(result['operators']) > 10
    assert not [
        name
        for name in result['operators'] if 'mmhier' in name or 'mkldnn' in name
    ]


@pytest.mark.slow
@pytest.mark.parametrize('family, arch', BUDGETS)
def test_passes_have_no_fault_and_keep_to_budgets(runtime, family, arch):
    """At 800x1344: no wait for the device, no tensor or operator of the CPU,
    a gradient of its own dtype for each parameter that is trained."""
    results = simulate(runtime, family, arch, CASES)
    assert results.keys() == CASES.keys()
    for name, result in results.items():
        assert not result['faults'], name
    training, inference = results['bfloat16'], results['inference']
    budget = BUDGETS[family, arch]
    found = dict(
        forward_calls=training['calls']['forward'],
        backward_calls=training['calls']['backward'],
        milliseconds=sum(training['milliseconds'].values()),
        saved=training['saved'],
        inference_peak=inference['peak'])
    assert budget.keys() == found.keys()
    assert not {
        key: value
        for key, value in found.items() if value > budget[key]
    }
