"""Layer-wise decay of the learning rate."""
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn
from mmhier.errors import MMHierError
from mmhier.models.backbones.base import HierarchicalBackbone
from mmhier.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall from the last block to the stem.

    The rate of a backbone's parameter is multiplied by
    ``layer_decay_rate ** (num_layers - 1 - depth)``, with depth and number of
    layers from the backbone's ``get_layer_depth``. Parameters outside of the
    backbone keep their rates. Works for any model that holds a backbone of
    mmhier.

    Args:
        optim_wrapper_cfg (dict): As mmengine's constructor takes it; the
            optimizer needs ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate``, in (0, 1], and the keys
            of mmengine's constructor, such as ``flat_decay_mult`` and
            ``custom_keys``.

    Raises:
        MMHierError: If ``layer_decay_rate`` or ``lr`` is missing, or, when
            called, the model holds no backbone of mmhier.

    Example:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='mmhier.LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.9, flat_decay_mult=0.))
    """

    def __init__(self,
                 optim_wrapper_cfg: dict,
                 paramwise_cfg: dict | None = None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.decay_rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(self.decay_rate,
                          (int, float)) or not 0 < self.decay_rate <= 1:
            raise MMHierError('optim_wrapper.paramwise_cfg.layer_decay_rate='
                              f'{self.decay_rate}: expected a number in (0, 1]')
        if self.base_lr is None:
            raise MMHierError('layer-wise decay needs optim_wrapper.optimizer.'
                              'lr')

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Wrap an optimizer of the parameters of a model."""
        self.scales = self._layer_scales(getattr(model, 'module', model))
        return super().__call__(model)

    def add_params(self,
                   params: list[dict],
                   module: nn.Module,
                   prefix: str = '',
                   **kwargs: Any) -> None:
        """Add the parameters of a module, with its children's, to a list."""
        start = len(params)
        super().add_params(params, module, prefix, **kwargs)
        if prefix == '':  # children call this method as well
            for group in params[start:]:
                scale = self.scales.get(id(group['params'][0]), 1.)
                group.setdefault('lr', self.base_lr)
                group['lr'] *= scale

    def _layer_scales(self, model: nn.Module) -> dict[int, float]:
        """Factor of the rate of each parameter of a backbone, by its id."""
        scales = {}
        for prefix, module in model.named_modules():
            if isinstance(module, HierarchicalBackbone):
                for name, parameter in module.named_parameters():
                    depth, num_layers = module.get_layer_depth(name)
                    scales[id(parameter)] = self.decay_rate**(
                        num_layers - 1 - depth)
                print_log(
                    f'learning rates of {prefix or "the model"} are those of '
                    f'paramwise_cfg times {self.decay_rate} ** k, k = 1 for '
                    f'the last block to {num_layers - 1} for the stem',
                    'current')
        if not scales:
            raise MMHierError(
                f'layer-wise decay: {type(model).__name__} holds no backbone '
                'of mmhier; take another optim_wrapper.constructor')
        return scales
