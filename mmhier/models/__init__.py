from importlib.util import find_spec

from .backbones import *  # noqa: F401,F403

if find_spec('mmdet') is not None:
    from .detector_tta import *  # noqa: F401,F403
if find_spec('mmpretrain') is not None:
    from .heads import *  # noqa: F401,F403
if find_spec('mmseg') is not None:
    from .segmentor_tta import *  # noqa: F401,F403
