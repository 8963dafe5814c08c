"""mmhier's nodes of OpenMMLab's registries.

``type='mmhier.X'`` needs no import: mmengine imports this module when it
meets the scope. Each type then comes from the one module that defines it, so
a backbone needs neither mmdet, mmseg nor mmpretrain.
"""
from importlib import import_module
from importlib.util import find_spec

for package in ('mmengine', 'mmcv'):
    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f'mmhier needs OpenMMLab, and {package} is not installed: run '
            '`pip install "mmhier[openmmlab]"` (or `pip install -e '
            '".[openmmlab]"` in a checkout of mmhier)',
            name=package)

from mmengine import registry as mmengine_registry  # noqa: E402


class LazyRegistry(mmengine_registry.Registry):
    """Child of mmengine's registry that imports types on demand.

    Args:
        name (str): Name of mmengine's registry, such as 'MODELS'.
        modules (dict[str, str]): Module below mmhier that registers a type,
            by the name of the type.
        locations (Sequence[str]): Modules to import on first use whatever
            the type. Defaults to ().
    """

    def __init__(
        self,
        name: str,
        modules: dict[str, str],
        locations: tuple[str, ...] = ()) -> None:
        parent = getattr(mmengine_registry, name)
        super().__init__(
            parent.name,
            parent=parent,
            scope='mmhier',
            locations=list(locations))
        self.modules = modules

    def get(self, key: str) -> type | None:
        """Get a registered type.

        Args:
            key (str): Its name, with the scope or without.

        Returns:
            type, optional: None if it is not registered.

        Raises:
            ModuleNotFoundError: If its module needs a package, such as mmseg,
                that is not installed.
        """
        if isinstance(key, str):
            module = self.modules.get(key.removeprefix('mmhier.'))
            if module is not None:
                import_module(f'mmhier.{module}')
        return super().get(key)


MODELS = LazyRegistry(
    'MODELS',
    modules=dict(
        ACCViTClsHead='models.heads',
        DetTTAModel='models.detector_tta',
        DropoutClsHead='models.heads',
        SegTTAModel='models.segmentor_tta',
        TimmBackbone='models.backbones.timm'),
    locations=('mmhier.models.backbones', ))
DATASETS = LazyRegistry(
    'DATASETS',
    modules=dict(
        CocoSubset='datasets.coco_subset',
        CustomDataset='datasets.class_folders',
        ImageNet='datasets.class_folders',
        ImageNet21k='datasets.class_folders'))
METRICS = LazyRegistry(
    'METRICS',
    modules=dict(
        CocoMetric='evaluation.coco_metric', IoUMetric='evaluation.iou_metric'))
OPTIM_WRAPPERS = LazyRegistry(
    'OPTIM_WRAPPERS', modules=dict(AutocastOptimWrapper='engine.amp'))
OPTIM_WRAPPER_CONSTRUCTORS = LazyRegistry(
    'OPTIM_WRAPPER_CONSTRUCTORS',
    modules=dict(LayerDecayOptimWrapperConstructor='engine.optim'))
RUNNERS = LazyRegistry(
    'RUNNERS',
    modules=dict(FlexibleRunner='engine.runner', Runner='engine.runner'))
HOOKS = LazyRegistry(
    'HOOKS',
    modules=dict(
        CheckpointFitHook='engine.checkpoints',
        CheckpointHook='engine.checkpoints',
        EarlyStoppingHook='engine.early_stopping',
        EvaluationRecordHook='leaderboard.recording',
        ExactResumeHook='engine.seeding',
        FiniteLossHook='engine.hooks',
        PredictionPicturesHook='engine.pictures',
        TrainingRecordHook='leaderboard.recording'))
LOOPS = LazyRegistry('LOOPS', modules=dict(AutocastTestLoop='engine.amp'))
WEIGHT_INITIALIZERS = LazyRegistry(
    'WEIGHT_INITIALIZERS', modules=dict(Pretrained='checkpoints.initializer'))
STRATEGIES = LazyRegistry(
    'STRATEGIES', modules=dict(ResumableFSDPStrategy='engine.fsdp'))
