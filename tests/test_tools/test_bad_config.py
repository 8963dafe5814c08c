"""Mistakes in the command and the config: one line, before training."""
import re

import pytest
from mmengine.config import Config
from mmhier import apis
from mmhier.apis import MMHierError, load_config
from mmhier.errors import mistakes_as_user_errors
from mmhier.models import HATNet
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
    with pytest.raises(MMHierError, match=f'work_dir {work_dir} cannot be'):
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


def test_a_bug_keeps_its_type():
    with pytest.raises(ValueError) as error, mistakes_as_user_errors():
        int('x')
    assert not isinstance(error.value, MMHierError)
    with pytest.raises(TypeError), mistakes_as_user_errors():
        load_config(nonsense=1)


def test_run_tool_prints_one_line(capsys):

    def main():
        raise MMHierError('what is wrong')

    with pytest.raises(SystemExit) as end:
        apis.run_tool(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: what is wrong\n'


def test_registry_of_the_original_line_raises_again():
    """It adds the class at each level, so mmhier's error is the context."""
    with pytest.raises(MMHierError, match='class `MaskRCNN`: unknown arch'):
        with mistakes_as_user_errors():
            try:
                HATNet('huge')
            except ValueError as error:
                raise type(error)(f'class `MaskRCNN`: {error}')
