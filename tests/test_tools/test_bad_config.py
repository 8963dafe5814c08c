"""Mistakes in the command and the config: one line, before training."""
import re

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn
from mmhier import apis
from mmhier.apis import MMHierError, load_config
from mmhier.engine.config_errors import naming_config_errors
from .conftest import DETECTOR


def write(tmp_path, text: str) -> str:
    path = tmp_path / 'config.py'
    path.write_text(text)
    return str(path)


@pytest.fixture
def load(tmp_path):

    def load_text(text: str, **kwargs) -> Config:
        kwargs.setdefault('work_dir', str(tmp_path / 'work'))
        return load_config(write(tmp_path, text), **kwargs)

    return load_text


def test_missing_file(tmp_path):
    with pytest.raises(MMHierError, match='config file nope.py does not exist'):
        load_config('nope.py')


@pytest.mark.parametrize('text, message', [
    ('model = dict(', r'cannot read config .*config.py: .* in line 1'),
    ("_base_ = './absent.py'", 'cannot read config .*absent.py'),
])
def test_unreadable_python(load, text, message):
    with pytest.raises(MMHierError, match=message):
        load(text)


@pytest.mark.parametrize('name, content', [('config.txt', b'model = 1'),
                                           ('config.py', b'\xff\xfe\x00')])
def test_not_python(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MMHierError, match=name):
        load_config(str(path))


@pytest.mark.parametrize('key, successor', [
    ('data', 'train_dataloader'),
    ('optimizer', 'optim_wrapper'),
    ('runner', 'train_cfg'),
    ('optimizer_config', 'clip_grad'),
    ('lr_config', 'param_scheduler'),
    ('evaluation', 'val_evaluator'),
    ('checkpoint_config', 'default_hooks'),
    ('log_config', 'default_hooks'),
    ('total_epochs', 'max_epochs'),
    ('resume_from', 'load_from'),
])
def test_legacy_keys(load, key, successor):
    with pytest.raises(MMHierError, match='OpenMMLab 2.x') as error:
        load(f"model = dict(type='MaskRCNN')\n{key} = dict(type='X')")
    assert re.search(rf'\b{key} -> [^;]*{successor}', str(error.value))


def test_all_legacy_keys_are_named_at_once(load):
    with pytest.raises(MMHierError) as error:
        load('data = dict()\noptimizer = dict()\nrunner = dict()')
    assert all(f'{k} -> ' in str(error.value)
               for k in ('data', 'optimizer', 'runner'))


def test_a_variable_named_optimizer_is_not_legacy(load):
    cfg = load("optimizer = dict(type='SGD', lr=1.)\n"
               'optim_wrapper = dict(optimizer=optimizer)')
    assert cfg.optim_wrapper.optimizer.lr == 1


def test_legacy_key_as_an_option(load):
    with pytest.raises(MMHierError, match='optimizer.lr: .*optim_wrapper'):
        load('optim_wrapper = dict()', cfg_options={'optimizer.lr': 1})


def test_option_that_does_not_fit(load):
    with pytest.raises(MMHierError, match='--cfg-options'):
        load('pipeline = [dict(a=1)]', cfg_options={'pipeline.5.a': 1})


def test_package_that_is_not_installed(load):
    with pytest.raises(MMHierError, match=r'mmabsent \(default_scope\)'):
        load("default_scope = 'mmabsent'")


def test_launcher_without_its_variables(load, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(MMHierError, match='tools/dist_train.sh'):
        load('model = dict()', launcher='pytorch')


def test_unwritable_work_dir(load, tmp_path):
    (tmp_path / 'file').write_text('')
    work_dir = str(tmp_path / 'file' / 'work')
    with pytest.raises(MMHierError, match=f'--work-dir {work_dir} cannot be'):
        load('model = dict()', work_dir=work_dir)


def test_work_dir_is_named_after_the_config(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load('model = dict()', work_dir=None).work_dir == 'work_dirs/config'
    own = load("work_dir = 'mine'", work_dir=None)
    assert own.work_dir == 'mine'


def test_config_that_cannot_be_trained(tmp_path):
    with pytest.raises(MMHierError, match='no train_dataloader'):
        apis.train(write(tmp_path, 'model = dict()'), work_dir=str(tmp_path))


@pytest.mark.parametrize('options, message', [
    ({
        'model.backbone.arch': 'huge'
    }, "unknown arch 'huge' of HATNet: expected one of tiny, small, medium, "
     'large'),
    ({
        'model.backbone.arch': dict(_delete_=True, embed_dims=(1, ), foo=1)
    }, r"wrong keys in the arch dict of HATNet: missing \['depths'.*unknown "
     r"\['foo'\]"),
    ({
        'model.backbone.drop_path': 0.1
    }, "unexpected keyword argument 'drop_path'"),
    ({
        'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='a.pth')
    }, 'checkpoint a.pth does not exist'),
    ({
        'model.backbone.type': 'mmhier.HATNext'
    }, 'mmhier.HATNext is not in'),
    ({
        'model.neck.inchannels': 3
    }, "unexpected keyword argument 'inchannels'"),
    ({
        'train_dataloader.dataset.pipeline.2.scale': (24, 16),
        'model.data_preprocessor.pad_size_divisor': 1
    }, 'HATNet expects images of at least 32x32 pixels, not 16x24'),
])
def test_model_and_input(options, message, coco_root, tmp_path):
    with pytest.raises(MMHierError, match=message):
        apis.train(
            DETECTOR,
            data_root=str(coco_root),
            work_dir=str(tmp_path),
            no_validate=True,
            cfg_options=options)


class Head(nn.Module):
    """Of a developer, with a bug: Linear has no argument `biased`."""

    def __init__(self, biased: bool):
        super().__init__()
        self.fc = nn.Linear(1, 1, biased=biased)


@pytest.mark.parametrize('build, error', [
    (lambda: Head(biased=True), TypeError),
    (lambda: {}['mmhier.HATNet'], KeyError),
    (lambda: int('x'), ValueError),
])
def test_a_bug_keeps_its_type(build, error):
    cfg = dict(head=dict(type=Head, biased=True), backbone='mmhier.HATNet')
    with pytest.raises(error) as raised, naming_config_errors(cfg):
        build()
    assert not isinstance(raised.value, MMHierError)


@pytest.mark.parametrize('head, message', [
    (dict(type=Head, bias=1), r"model.heads.0: Head got an unexpected "
     "keyword argument 'bias'"),
    (dict(type=Head), 'model.heads.0: Head needs the argument biased'),
    (dict(type='Haed'), 'model.heads.0.type: Haed is not in the .*::model'),
])
def test_what_cannot_be_built_is_named(head, message):
    cfg = dict(model=dict(type='Model', heads=[head]))
    with pytest.raises(MMHierError, match=message), naming_config_errors(cfg):
        MODELS.build(head)


def test_run_tool_prints_one_line(capsys):

    def main():
        raise MMHierError('what is wrong')

    with pytest.raises(SystemExit) as end:
        apis.run_tool(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: what is wrong\n'


def test_traceback_goes_to_the_log_and_on_request_to_the_screen(
        tmp_path, capsys, monkeypatch):
    log = tmp_path / 'run.log'
    MMLogger.get_instance('traceback', log_file=str(log))

    def fail():
        raise MMHierError('what is wrong')

    for shown in (False, True):
        monkeypatch.setenv('MMHIER_TRACEBACK', str(int(shown)))
        with pytest.raises(SystemExit):
            apis.run_tool(fail)
        assert ('Traceback' in capsys.readouterr().err) == shown
    assert log.read_text().count('in fail') == 2
    with pytest.raises(ZeroDivisionError):
        apis.run_tool(lambda: 1 / 0)
    assert 'ZeroDivisionError' in log.read_text()
