"""One interface to the inferencers of mmdet, mmseg and mmpretrain."""
import os.path as osp
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as mask_api
from torch import nn
from mmhier.checkpoints import read_checkpoint, unwrap_state_dict
from mmhier.engine.amp import autocast_dtype
from mmhier.engine.build import build_model
from mmhier.engine.checkpoints import CheckpointFitHook
from mmhier.engine.config import iter_datasets, load_config, resolve_type
from mmhier.engine.config_errors import naming_config_errors
from mmhier.errors import MMHierError

TASKS = dict(
    mmdet='detection', mmseg='segmentation', mmpretrain='classification')


@dataclass
class Prediction:
    """Prediction of a model for one image.

    Attributes:
        record (dict): For json; see :class:`Predictor`.
        picture (np.ndarray): The image with the predictions drawn, (H, W, 3)
            uint8, RGB.
        labels (np.ndarray, optional): Label of each pixel, (H, W), in
            segmentation.
    """
    record: dict[str, Any]
    picture: np.ndarray
    labels: np.ndarray | None = None

    def to_supervision(self) -> Any:
        """Convert to supervision's Detections.

        Returns:
            supervision.Detections: Boxes, and masks where the model predicts
            them, with ``confidence``, ``class_id`` and
            ``data['class_name']``; of a segmentor, a mask for each class,
            without confidence.

        Raises:
            MMHierError: If supervision is not installed, or the model is a
                classifier.
        """
        try:
            import supervision
        except ImportError as error:
            raise MMHierError('supervision is not installed: run pip install '
                              '"mmhier[supervision]"') from error
        if 'top' in self.record:
            raise MMHierError('classes of whole images have no boxes: '
                              'to_supervision needs a detector or a segmentor')
        records = self.record.get('instances', self.record.get('segments'))
        if not records:
            return supervision.Detections.empty()
        fields: dict[str, Any] = dict(
            class_id=np.array([r['label'] for r in records]),
            data=dict(class_name=np.array([r['class'] for r in records])))
        if self.labels is not None:
            fields['mask'] = np.stack(
                [self.labels == r['label'] for r in records])
            boxes = supervision.mask_to_xyxy(fields['mask']).astype(float)
        else:
            boxes = np.array([r['bbox'] for r in records])
            boxes[:, 2:] += boxes[:, :2]
            fields['confidence'] = np.array([r['score'] for r in records])
            if 'mask' in records[0]:
                masks = mask_api.decode([r['mask'] for r in records])
                fields['mask'] = masks.transpose(2, 0, 1).astype(bool)
        return supervision.Detections(xyxy=boxes, **fields)


def load_model_config(config: str,
                      classes: str | Sequence[str] | None = None,
                      cfg_options: dict[str, Any] | None = None) -> Config:
    """Read the config of a model that will not be trained.

    Args:
        config (str): Config file, or name of a model of mmhier such as
            'mask-rcnn_hatnet-tiny_fpn_1x_coco'.
        classes (str | Sequence[str], optional): As
            :func:`mmhier.apis.load_config` takes them.
        cfg_options (dict, optional): Values of the config by dotted key.

    Returns:
        Config: Its package is imported and made the default scope.

    Raises:
        MMHierError: If the config cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            config, work_dir=folder, classes=classes, cfg_options=cfg_options)
    scope = cfg.get('default_scope')
    if scope not in TASKS or 'model' not in cfg:
        raise MMHierError(f'{config}: expected a model of one of the packages '
                          f'{", ".join(TASKS)} (default_scope), not of {scope}')
    init_default_scope(scope)
    return cfg


def load_weights(model: nn.Module, checkpoint: str) -> dict[str, Any]:
    """Load all weights of a model, executing no code of the file.

    Args:
        model (nn.Module): Detector, segmentor or classifier.
        checkpoint (str): A file whose names and shapes fit the model.

    Returns:
        dict: ``meta`` of the file, {} without one.

    Raises:
        MMHierError: If the file cannot be used, with the reason.
    """
    content = read_checkpoint(osp.expanduser(checkpoint))
    CheckpointFitHook(complete=True).after_load_checkpoint(
        SimpleNamespace(model=model, _resume=False), content)
    model.load_state_dict(unwrap_state_dict(content), strict=False)
    meta = content.get('meta')
    return meta if isinstance(meta, dict) else {}


class Predictor:
    """Run a model on images; return predictions and visualizations.

    Records hold, by task (``task``):

    - detection: ``instances``, a list of dicts with ``label``, ``class``,
      ``score``, ``bbox`` ([x, y, width, height] in pixels from the top left,
      as in COCO's results) and, where the model predicts masks, ``mask`` as
      compressed RLE of COCO, highest score first;
    - segmentation: ``segments``, a list of dicts with ``label``, ``class``
      and ``pixels``, most pixels first;
    - classification: ``top``, a list of dicts with ``label``, ``class`` and
      ``score``, highest score first.

    Args:
        config (str): Config file for mmdet, mmseg or mmpretrain with a
            ``test_dataloader``, or name of a model of mmhier.
        checkpoint (str): Weights of the model of the config.
        device (str, optional): Such as 'cpu' or 'cuda:0'. Defaults to None,
            a GPU if there is one.
        score_thr (float): Lowest score of an instance that is reported.
            Defaults to 0.3.
        top_k (int): Number of classes that a classifier reports.
            Defaults to 5.
        classes (str | Sequence[str], optional): Those that the model was
            trained on, if they are not the config's own; see
            :func:`mmhier.apis.load_config`.
        cfg_options (dict, optional): Values of the config by dotted key.
        amp (bool): Run the model in mixed precision. Defaults to False.
        amp_dtype (str, optional): 'float16' or 'bfloat16', implies ``amp``.
            Defaults to None: 'bfloat16' on CPUs, 'float16' elsewhere.

    Raises:
        MMHierError: If an argument cannot be used.
    """

    def __init__(self,
                 config: str,
                 checkpoint: str,
                 *,
                 device: str | None = None,
                 score_thr: float = 0.3,
                 top_k: int = 5,
                 classes: str | Sequence[str] | None = None,
                 cfg_options: dict[str, Any] | None = None,
                 amp: bool = False,
                 amp_dtype: str | None = None):
        device = check_device(device)
        self.precision = 'float32'
        if amp or amp_dtype is not None:
            self.precision = autocast_dtype(amp_dtype, device)
        self.device_type = torch.device(device).type
        cfg = load_model_config(config, classes, cfg_options)
        if top_k < 1:
            raise MMHierError(f'--top-k {top_k}: expected at least 1')
        datasets = iter_datasets(cfg.get('test_dataloader'), 'test_dataloader')
        dataset: dict = next((d for _, d in datasets), {})
        if 'pipeline' not in dataset:
            raise MMHierError(f'{config} has no test_dataloader with a dataset '
                              'and its pipeline, which says how images are '
                              'prepared')
        cfg.test_dataloader.dataset = dataset
        self.scope = cfg.default_scope
        self.task = TASKS[self.scope]
        self.score_thr = score_thr
        self.top_k = top_k
        with naming_config_errors(cfg):
            self.inferencer = _build_inferencer(cfg, device)
            meta = load_weights(self.inferencer.model, checkpoint)
            metainfo = dataset_metainfo(dataset)
        metainfo.update(meta.get('dataset_meta') or {})
        self.classes: list[str] = list(metainfo.get('classes') or ())
        self.visualizer = self._visualizer(metainfo)

    def _visualizer(self, metainfo: dict[str, Any]) -> Any:
        """Visualizer of predictions, with classes and colours."""
        if self.scope == 'mmpretrain':
            from mmpretrain.visualization import UniversalVisualizer
            return UniversalVisualizer()
        visualizer = self.inferencer.visualizer
        if visualizer is None:
            raise MMHierError('the config has no visualizer, such as dict(type='
                              "'DetLocalVisualizer')")
        palette = metainfo.get('palette')
        if self.scope == 'mmseg':
            head = self.inferencer.model.decode_head
            if isinstance(head, nn.ModuleList):  # a cascade
                head = head[-1]
            num_classes = max(head.num_classes, 2, len(self.classes))
            self.classes += [
                f'class {i}' for i in range(len(self.classes), num_classes)
            ]
            if palette is None or len(palette) < num_classes:
                palette = np.random.default_rng(0).integers(
                    0, 256, (num_classes, 3)).tolist()
            visualizer.alpha = 0.6
        visualizer.dataset_meta = dict(
            classes=self.classes or None, palette=palette or 'random')
        return visualizer

    def class_name(self, label: int) -> str:
        """Name of a class; 'class 3' where neither checkpoint nor config
        names them."""
        if label < len(self.classes):
            return self.classes[label]
        return f'class {label}'

    def __call__(self, image: str | np.ndarray) -> Prediction:
        """Predict an image.

        Args:
            image (str | np.ndarray): File, or (H, W, 3) uint8, BGR as OpenCV
                reads it.

        Returns:
            Prediction: Its predictions and their picture.

        Raises:
            MMHierError: If the file cannot be read or the model cannot take
                the image.
        """
        name = 'the image'
        if isinstance(image, str):
            from .inference import UnreadableImage, read_image
            name = image
            try:
                image = read_image(image)
            except UnreadableImage as error:
                raise MMHierError(f'{name} {error}') from error
        found, = self.predict([image])
        if isinstance(found, str):
            raise MMHierError(f'{name} {found}')
        return found

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction | str]:
        """Predictions for a batch of images.

        Args:
            images (Sequence[np.ndarray]): (H, W, 3) uint8 each, BGR as
                OpenCV reads them, of any sizes.

        Returns:
            list[Prediction | str]: For each image, in order, or why the model
            cannot take it.
        """
        sizes = {image.shape for image in images}
        if self.task == 'segmentation' and len(sizes) > 1:
            # mmseg stacks images of one size only.
            return [self.predict([image])[0] for image in images]
        try:
            return list(self._predict(images))
        # Errors of OpenCV and the backbones for unsupported sizes.
        except (cv2.error, ValueError, MemoryError) as error:
            if len(images) == 1:
                height, width = images[0].shape[:2]
                reason = (
                    getattr(error, 'err', None) or str(error)
                    or type(error).__name__)
                return [
                    f'has {width}x{height} pixels, which the test '
                    'pipeline or the model of the config cannot take '
                    f'({" ".join(reason.split())})'
                ]
            return [self.predict([image])[0] for image in images]

    def _predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        data, = self.inferencer.preprocess(list(images), batch_size=len(images))
        if self.scope == 'mmdet':
            # The images that it was made from come first.
            data = data[1]
        with torch.autocast(
                self.device_type,
                getattr(torch, self.precision),
                enabled=self.precision != 'float32'):
            samples = self.inferencer.forward(data)
        report = getattr(self, f'_report_{self.task}')
        return [
            report(image[..., ::-1], sample.cpu())
            for image, sample in zip(images, samples)
        ]

    def _report_detection(self, image: np.ndarray, sample: Any) -> Prediction:
        instances = sample.pred_instances
        instances = instances[instances.scores >= self.score_thr]
        instances = instances[instances.scores.argsort(descending=True)]
        sample.pred_instances = instances
        boxes = instances.bboxes.clone()
        boxes[:, 2:] -= boxes[:, :2]
        records = []
        for i, label in enumerate(instances.labels.tolist()):
            record = {
                'label': label,
                'class': self.class_name(label),
                'score': instances.scores[i].item(),
                'bbox': boxes[i].tolist()
            }
            if 'masks' in instances:
                mask = np.asfortranarray(instances.masks[i].numpy(), np.uint8)
                rle = mask_api.encode(mask)
                rle['counts'] = rle['counts'].decode()
                record['mask'] = rle
            records.append(record)
        # Already filtered.
        self.visualizer.add_datasample(
            '', image, sample, draw_gt=False, pred_score_thr=-1.)
        return Prediction(dict(instances=records), self.visualizer.get_image())

    def _report_segmentation(self, image: np.ndarray,
                             sample: Any) -> Prediction:
        labels = sample.pred_sem_seg.data[0].numpy()
        present, pixels = np.unique(labels, return_counts=True)
        records = [{
            'label': int(present[i]),
            'class': self.class_name(int(present[i])),
            'pixels': int(pixels[i])
        } for i in np.argsort(-pixels, kind='stable')]
        self.visualizer.add_datasample('', image, sample, draw_gt=False)
        return Prediction(
            dict(segments=records), self.visualizer.get_image(),
            labels.astype(np.uint8 if len(self.classes) < 256 else np.uint16))

    def _report_classification(self, image: np.ndarray,
                               sample: Any) -> Prediction:
        scores = sample.pred_score
        best = scores.topk(min(self.top_k, len(scores)))
        records = [{
            'label': label,
            'class': self.class_name(label),
            'score': score
        } for score, label in zip(best.values.tolist(), best.indices.tolist())]
        names = [self.class_name(i) for i in range(len(scores))]
        self.visualizer.visualize_cls(
            image, sample, classes=names, draw_gt=False)
        return Prediction(dict(top=records), self.visualizer.get_image())


def check_device(device: str | None) -> str:
    """Device of that name, by default a GPU if there is one.

    Raises:
        MMHierError: If it cannot be used.
    """
    if device is None:
        return get_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MMHierError(f'--device {device} cannot be used: {reason}; leave '
                          'it out, or take cpu or cuda:0') from error
    return device


class _BuiltModel:
    """Mixin for inferencers whose model is built as for training."""

    _load_weights_to_model: Callable

    def _init_model(self, cfg: Config, weights: None, device: str) -> nn.Module:
        model = build_model(cfg)
        model.cfg = cfg
        self._load_weights_to_model(model, weights, cfg)
        return model.to(device).eval()


def _build_inferencer(cfg: Config, device: str) -> BaseInferencer:
    """Inferencer of the config's package, without weights yet."""
    with warnings.catch_warnings():
        # That there are no weights, and of which set the classes are then.
        warnings.simplefilter('ignore')
        if cfg.default_scope == 'mmdet':
            from mmdet.apis import DetInferencer

            class Detector(_BuiltModel, DetInferencer):
                pass

            return Detector(cfg, device=device, show_progress=False)
        if cfg.default_scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            class Segmentor(_BuiltModel, MMSegInferencer):
                pass

            inferencer = Segmentor(cfg, device=device)
            # The original mmseg does not take it as an argument.
            inferencer.show_progress = False
            return inferencer
        from mmpretrain import ImageClassificationInferencer
        model = build_model(cfg)
        model._config = cfg
        return ImageClassificationInferencer(
            model, pretrained=False, device=device)


def dataset_metainfo(dataset: dict) -> dict[str, Any]:
    """Classes and palette that a dataset's config or class states."""
    dataset_class = resolve_type(dataset['type'], DATASETS)
    if not hasattr(dataset_class, '_load_metainfo'):
        return {}
    return dict(dataset_class._load_metainfo(dataset.get('metainfo')))
