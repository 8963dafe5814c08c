"""Classification heads of the four papers that mmpretrain does not have."""
from typing import Any

from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn
from mmhier.registry import MODELS

__all__ = ['ACCViTClsHead', 'DropoutClsHead']


@MODELS.register_module()
class DropoutClsHead(LinearClsHead):
    """Dropout and a linear layer, HAT-Net's classifier.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels of the pooled features.
        dropout_rate (float): Defaults to 0.2, fixed in the authors' code.
        **kwargs: Of mmpretrain's ``LinearClsHead``.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 dropout_rate: float = 0.2,
                 **kwargs: Any):
        super().__init__(num_classes, in_channels, **kwargs)
        self.dropout = nn.Dropout(dropout_rate)

    def pre_logits(self, feats: tuple[Tensor]) -> Tensor:
        """(B, in_channels) features of the last stage, dropout applied."""
        return self.dropout(super().pre_logits(feats))


@MODELS.register_module()
class ACCViTClsHead(LinearClsHead):
    """LayerNorm, a hidden layer with tanh, and a linear layer without bias.

    MaxViT's classifier, with which ACC-ViT's published parameter counts are
    met.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels of the pooled features.
        init_cfg (dict, optional): Initialization. Defaults to
            ``dict(type='Normal', layer='Linear', std=0.02)``.
        **kwargs: Of mmpretrain's ``LinearClsHead``.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 init_cfg: dict | None = dict(
                     type='Normal', layer='Linear', std=0.02),
                 **kwargs: Any):
        super().__init__(num_classes, in_channels, init_cfg, **kwargs)
        self.norm = nn.LayerNorm(in_channels)
        self.hidden = nn.Linear(in_channels, in_channels)
        self.fc = nn.Linear(in_channels, num_classes, bias=False)

    def pre_logits(self, feats: tuple[Tensor]) -> Tensor:
        """(B, in_channels) hidden features of the pooled last stage."""
        return self.hidden(self.norm(super().pre_logits(feats))).tanh()
