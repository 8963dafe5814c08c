"""Pretrained weights of any module, read without executing code."""
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit, update_init_info
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from mmhier.errors import MMHierError
from mmhier.registry import WEIGHT_INITIALIZERS
from .reading import read_checkpoint, unwrap_state_dict
from .sources import has_own_loader, load_checkpoint, locate_checkpoint

_SCOPE = 'mmhier'


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class SafePretrainedInit(PretrainedInit):
    """Initializer that reads its checkpoint without unpickling.

    ``dict(type='Pretrained', _scope_='mmhier', ...)`` selects it: mmengine
    loads configs of exactly the type 'Pretrained' last.

    Args:
        checkpoint (str): See :func:`load_checkpoint`.
        prefix (str, optional): Prefix of the weights in the checkpoint that
            are loaded. Defaults to None, all of them.
        map_location (str): As in ``torch.load``. Defaults to 'cpu'.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module; names may differ.

        Raises:
            MMHierError: If the checkpoint cannot be read, or holds
                nothing under the prefix.
        """
        print_log(f'load weights from: {self.checkpoint}', logger='current')
        content = load_checkpoint(self.checkpoint, self.map_location)
        weights: dict[str, Any] = content.get('state_dict', content)
        if self.prefix is not None:
            prefix = self.prefix.rstrip('.') + '.'
            weights = {
                name[len(prefix):]: value
                for name, value in unwrap_state_dict(content).items()
                if name.startswith(prefix)
            }
            if not weights:
                raise MMHierError(f'checkpoint {self.checkpoint} holds no '
                                  f'weights under prefix={self.prefix!r}')
        _load_checkpoint_to_model(
            module, weights, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def use_safe_initializers(cfg: Any) -> Any:
    """Let every ``init_cfg`` of type 'Pretrained' load without unpickling.

    Args:
        cfg (dict | list | Any): Config of a model.

    Returns:
        dict | list | Any: Copy in which :class:`SafePretrainedInit` is named.
    """
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(use_safe_initializers(item) for item in cfg)
    if not isinstance(cfg, dict):
        return cfg
    copy = type(cfg)({
        key: use_safe_initializers(value)
        for key, value in cfg.items()
    })
    if _is_pretrained(copy.get('type')) and 'checkpoint' in copy:
        copy.update(type='Pretrained', _scope_=_SCOPE)
    return copy


def init_weights(model: nn.Module) -> None:
    """Initialize the weights of a model without unpickling a checkpoint.

    Args:
        model (BaseModule): Built from any config.

    Raises:
        MMHierError: If a checkpoint cannot be read.
    """
    check_pretrained(model)
    model.init_weights()


def check_pretrained(model: nn.Module) -> None:
    """Check checkpoints that modules would load through mmengine.

    mmdet's SwinTransformer, for one, has a loader of its own, which falls
    back to unpickling. Its file is read safely first, and ``init_cfg`` is
    pointed at that file.

    Args:
        model (nn.Module): Before its weights are initialized.

    Raises:
        MMHierError: If a checkpoint cannot be read.
    """
    for module in model.modules():
        is_plain = (
            isinstance(module, BaseModule)
            and type(module).init_weights is BaseModule.init_weights)
        for cfg in _checkpoint_cfgs(getattr(module, 'init_cfg', None)):
            is_safe = is_plain and cfg.get('_scope_') == _SCOPE
            if not is_safe and not has_own_loader(cfg['checkpoint']):
                path = locate_checkpoint(cfg['checkpoint'])
                read_checkpoint(path)
                cfg['checkpoint'] = path


def _checkpoint_cfgs(init_cfg: Any) -> Iterator[dict[str, Any]]:
    for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
        if isinstance(cfg, dict) and isinstance(cfg.get('checkpoint'), str):
            yield cfg


def _is_pretrained(kind: Any) -> bool:
    if isinstance(kind, str):
        return kind.rpartition('.')[2] == 'Pretrained'
    return kind is PretrainedInit
