"""Weights are loaded with a report, and files are converted once for all."""
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmhier.checkpoints import (
    convert_checkpoint_file,
    load_backbone_weights,
    read_checkpoint,
)
from mmhier.errors import MMHierError
from mmhier.models.backbones import HATNet
from mmhier.registry import MODELS
from tests import golden

ROOT = Path(__file__).parents[2]
OFFICIAL = {
    'hatnet_tiny': ('HATNet', 'tiny'),
    'lit_ti': ('LIT', 'tiny'),
    'lit_small_cls': ('LIT', 'small'),
    'lit_small_det': ('LIT', 'small'),
    'litv2_s_cls': ('LITv2', 'small'),
    'litv2_s_cls_alpha0.5': ('LITv2', 'small'),
    'litv2_s_det_ws4': ('LITv2', 'small'),
    'hvt_ti_1': ('HVT', 'ti-1'),
    'hvt_s_2': ('HVT', 's-2'),
}


def test_report_lists_what_became_of_each_name():
    weights = golden.official_state_dict('hatnet_tiny')
    weights.pop('ds2.conv.weight')
    weights['patch_embed.0.weight'] = torch.zeros(16, 4, 3, 3)
    weights['more'] = torch.zeros(2)
    model = HATNet('tiny')
    report = load_backbone_weights(model, weights)
    assert report.missing == ['ds2.conv.weight', 'patch_embed.0.weight']
    assert report.mismatched == [
        'patch_embed.0.weight (16, 4, 3, 3) for (16, 3, 3, 3)'
    ]
    assert set(report.unused) == {'more', 'head.fc.weight', 'head.fc.bias'}
    assert len(report.matched) == 265
    assert 'blocks.0.0.attn.proj_norm.weight' in report.converted
    lost = 96 * 48 * 9 + 16 * 27
    assert report.fraction == pytest.approx(1 - lost / 12_265_152)
    for text in ('265 tensors matched', 'missing 2', 'unused 3',
                 'mismatched 1'):
        assert text in str(report)
    assert torch.equal(model.ds2.conv.bias, weights['ds2.conv.bias'])


def test_too_few_matches_are_refused_and_change_nothing():
    model = HATNet('tiny')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = golden.official_state_dict('hatnet_small')
    with pytest.raises(
            MMHierError,
            match='of 267 tensors matched, .* '
            'at least 95 % are needed'):
        load_backbone_weights(model, weights)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert load_backbone_weights(model, weights, min_matched=0).matched


def test_pretrained_init_cfg_loads_files_of_either_kind(tmp_path):
    weights = golden.official_state_dict('hatnet_tiny')
    official = tmp_path / 'official.pth'
    torch.save(dict(model=weights), official)
    converted, _ = convert_checkpoint_file(official, tmp_path / 'own.pth')
    for path in (official, converted):
        model = MODELS.build(
            dict(
                type='HATNet',
                out_indices=(0, 2),
                init_cfg=dict(type='Pretrained', checkpoint=str(path))))
        model.init_weights()
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name])
    other = tmp_path / 'resnet.pth'
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7)}, other)
    model = HATNet(init_cfg=dict(type='Pretrained', checkpoint=str(other)))
    with pytest.raises(match='0 of 267 tensors matched'):
        model.init_weights()


@pytest.mark.parametrize('variant', OFFICIAL)
def test_family_and_variant_are_found(tmp_path, variant):
    source = tmp_path / 'official.pth'
    torch.save(golden.official_state_dict(variant), source)
    target, report = convert_checkpoint_file(source, tmp_path / 'own.pth')
    assert report.fraction == 1 and not report.missing
    content = read_checkpoint(target)
    family, arch = OFFICIAL[variant]
    assert content['meta']['family'] == family
    assert content['meta']['arch'] == arch
    assert content['meta']['source'] == 'official.pth'
    assert content['meta']['source_size'] == source.stat().st_size
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert content['meta']['source_sha256'] == digest
    options = content['meta']['arguments']
    if variant == 'lit_small_det':
        options['bias_size'] = 50
    model = MODELS.build(dict(type=family, arch=arch, **options))
    assert not load_backbone_weights(model, target).resized
    assert set(tmp_path.iterdir()) == {source, target}


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / 'tools' / 'convert_checkpoint.py', *arguments],
        capture_output=True,
        text=True)


def test_tool_converts_and_explains_its_refusals(tmp_path):
    source = tmp_path / 'official.pth'
    torch.save(golden.official_state_dict('hvt_ti_1'), source)
    done = run_tool(source, tmp_path / 'weights' / 'own.pth')
    assert done.returncode == 0, done.stderr
    assert '100.0 % of the parameters' in done.stdout
    target, = (tmp_path / 'weights').iterdir()
    assert 'converted' in done.stdout and f'wrote {target}' in done.stdout
    before = target.read_bytes()
    digest = hashlib.sha256(before).hexdigest()
    assert target.name == f'own-{digest[:8]}.pth'

    # The same source gives the same bytes, and so the same name.
    again = run_tool(source, tmp_path / 'weights' / 'own.pth')
    assert again.returncode == 2 and 'Traceback' not in again.stderr
    assert f'error: {target} exists' in again.stderr
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == before


def test_conversion_refuses_foreign_and_incomplete_weights(tmp_path):
    source, target = tmp_path / 'source.pth', tmp_path / 'own.pth'
    torch.save({'layer1.0.conv1.weight': torch.zeros(1)}, source)
    with pytest.raises(match='no family .*layer1.0.conv1'):
        convert_checkpoint_file(source, target)
    weights = golden.official_state_dict('hatnet_tiny')
    half = dict(list(weights.items())[:150])
    torch.save(half, source)
    with pytest.raises(
            MMHierError, match="fits no variant of HATNet, "
            "'tiny' comes closest"):
        convert_checkpoint_file(source, target)
    assert list(tmp_path.iterdir()) == [source]
    _, report = convert_checkpoint_file(source, target, min_matched=0.1)
    assert report.missing
