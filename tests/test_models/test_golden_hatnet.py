"""HAT-Net agrees with its authors' code."""
import pytest
import torch
from mmhier.checkpoints import load_backbone_weights
from mmhier.models.backbones import HATNet
from mmpretrain.registry import MODELS
from tests import golden


@pytest.mark.parametrize('variant', ['tiny', 'small'])
def test_features_and_logits_equal_the_authors(variant):
    weights = golden.official_state_dict(f'hatnet_{variant}')
    dims = HATNet.arch_zoo[variant]['embed_dims']
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmhier.HATNet', arch=variant),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='mmhier.DropoutClsHead',
                num_classes=1000,
                in_channels=dims[-1]))).eval()
    converted = HATNet.convert_official(weights)
    model.load_state_dict(converted, strict=True)
    for run in golden.runs(f'hatnet_{variant}'):
        images = golden.image(*run['input'])
        with torch.no_grad():
            if run['kind'] == 'logits':
                outputs = (model(images), )
            else:
                outputs = model.backbone(images)
        assert golden.largest_difference(f'hatnet_{variant}', run,
                                         outputs) < 1e-4
    report = load_backbone_weights(HATNet(variant), weights)
    assert report.fraction == 1 and not report.missing
