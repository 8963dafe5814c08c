"""CUDA code paths on tensors without storage: faults, launches, memory."""
import pytest
from mmhier.models import backbones
from ..test_models.test_contract import shallow
from . import table

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
        forward_calls=710,
        backward_calls=800,
        milliseconds=13,
        saved=1900,
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
        forward_calls=355,
        backward_calls=985,
        milliseconds=35,
        saved=1600,
        inference_peak=320),
    ('LIT', 'base'):
    dict(
        forward_calls=970,
        backward_calls=2950,
        milliseconds=140,
        saved=3550,
        inference_peak=700),
    ('LITv2', 'small'):
    dict(
        forward_calls=255,
        backward_calls=500,
        milliseconds=11,
        saved=2075,
        inference_peak=300),
    ('HVT', 's-1'):
    dict(
        forward_calls=265,
        backward_calls=445,
        milliseconds=7.4,
        saved=885,
        inference_peak=250),
    ('ACCViT', 'tiny'):
    dict(
        forward_calls=1400,
        backward_calls=2400,
        milliseconds=85,
        saved=6300,
        inference_peak=620),
}


@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    try:
        return table.compile_runtime(tmp_path_factory.mktemp('runtime'))
    except RuntimeError as error:
        pytest.skip(str(error))


def simulate(runtime, family, arch, cases):
    """Results of simulation.py by the names of the cases."""
    results = table.run(
        runtime,
        [dict(family=family, arch=arch, **case) for case in cases.values()])
    return dict(zip(cases, results))


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
                                                  ('LIT', 'small', [4]),
                                                  ('LITv2', 'small', [3, 4]),
                                                  ('HVT', 'ti-1', [1, 4]),
                                                  ('ACCViT', 'femto', [1, 4])])
def test_pictures_of_attention_end_on_the_cpu(runtime, family, arch, stages):
    cases = {s: dict(run='show_attention', stage=s) for s in stages}
    for result in simulate(runtime, family, arch, cases).values():
        assert set(result['devices']) == {'cpu'}


@pytest.mark.slow
def test_focal_loss_takes_little_beside_loss_and_gradient(runtime):
    """Of RetinaNet's 9 anchors at stride 8, two images of 800x1344."""
    case = dict(run='focal_loss', rows=2 * 9 * 100 * 168, classes=80)
    result, = table.run(runtime, [case])
    assert not result['faults']
    assert result['saved'] == pytest.approx(result['logits'], rel=0.01)
    assert result['peak'] < 2 * result['logits'] + 80


@pytest.mark.slow
@pytest.mark.parametrize('family, arch', [('HATNet', 'tiny'), ('LIT', 'tiny'),
                                          ('LITv2', 'small'), ('HVT', 'ti-1'),
                                          ('ACCViT', 'femto')])
def test_compiled_graphs_hold_no_operator_for_cpus(runtime, family, arch):
    case = dict(run='compiled_operators', arch=shallow(family, arch))
    result, = table.run(runtime, [dict(case, family=family)])
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
    cases = CASES
    if arch == 'base':
        cases = {
            k: v
            for k, v in CASES.items() if k in ('bfloat16', 'inference')
        }
    results = simulate(runtime, family, arch, cases)
    assert results.keys() == cases.keys()
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
    (row, ) = (r for r in table.read() if r['backbone'] == f'{family} {arch}')
    current = table.as_row(family, arch, training, inference)
    assert all(
        float(current[key]) == pytest.approx(float(value), rel=0.05)
        for key, value in row.items() if key != 'backbone')


def test_the_page_shows_the_table():
    """Which `python -m tests.test_cuda_simulation.table` writes."""
    rows = table.read()
    names = {
        f'{name} {arch}'
        for name in backbones.__all__
        for arch in getattr(backbones, name).arch_zoo
    }
    assert {row['backbone'] for row in rows} == names | set(table.PEERS)
    assert table.as_markdown(rows) in table.PAGE.read_text()
