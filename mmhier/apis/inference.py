"""Predictions for images, videos and cameras, as pictures and json."""
import json
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from mmhier.checkpoints import official_name, resolve_checkpoint
from mmhier.errors import MMHierError
from mmhier.files import distinct_names, make_writable, replacing, shown
from mmhier.progress import track
from .coco_results import CocoResults
from .predictor import Prediction, Predictor

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp',
                  '.ppm', '.pgm')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg',
                  '.mpeg', '.wmv', '.gif')
PICTURE_SUFFIXES = ('.png', '.jpg')
RESULT_NAMES = ('predictions.json', 'pictures', 'labels', 'video.mp4',
                'coco_results.json')


class UnreadableImage(ValueError):
    """A file that holds no usable image, and why."""


def infer(config: str,
          checkpoint: str,
          inputs: str | None = None,
          *,
          out_dir: str,
          camera: int | None = None,
          max_frames: int | None = None,
          score_thr: float = 0.3,
          top_k: int = 5,
          device: str | None = None,
          batch_size: int = 1,
          overwrite: bool = False,
          coco: str | None = None,
          classes: str | Sequence[str] | None = None,
          cfg_options: dict[str, Any] | None = None,
          amp: bool = False,
          amp_dtype: str | None = None) -> dict[str, Any]:
    """Run a model on images, a video or a camera.

    ``out_dir`` receives

    - predictions.json: ``task``, ``precision``, ``classes``, ``images`` (for a
      video, ``frames``), each with its ``file`` (``frame``), ``width``,
      ``height``, ``picture`` and the record of :class:`Predictor`, and
      ``skipped``, the files that could not be used, with the ``reason``;
      after an error, ``ended_by``. Coordinates refer to the image as rotated
      by its EXIF data;
    - pictures/: each image with its predictions drawn; for a video,
      video.mp4 instead;
    - labels/: for segmentation, PNG files whose values are the labels;
    - coco_results.json: with ``coco``, the instances in COCO's results
      format.

    Args:
        config (str): See :class:`Predictor`.
        checkpoint (str): Weights of the model of the config: a path, a URL, a
            name, or 'official'.
        inputs (str, optional): An image, a folder of images, a glob pattern
            such as ``'photos/**/*.jpg'``, or a video. Defaults to None, if
            ``camera`` is given.
        out_dir (str): Where the results go.
        camera (int, optional): Number of a camera to read instead, until
            ``max_frames`` or Ctrl-C. Defaults to None.
        max_frames (int, optional): Frames of a video or camera to read.
            Defaults to None, all.
        score_thr (float): Lowest score of an instance, in pictures and json.
            Defaults to 0.3.
        top_k (int): Number of classes that a classifier reports.
            Defaults to 5.
        device (str, optional): Such as 'cpu' or 'cuda:0'. Defaults to None,
            a GPU if there is one.
        batch_size (int): Images in a batch. Defaults to 1.
        overwrite (bool): Replace results in ``out_dir``. Defaults to False.
        coco (str, optional): COCO json that gives images and categories their
            ids in coco_results.json; '' numbers them from 1. Defaults to
            None: the file is not written.
        classes (str | Sequence[str], optional): See :class:`Predictor`.
        cfg_options (dict, optional): Values of the config by dotted key.
        amp (bool): See :class:`Predictor`. Defaults to False.
        amp_dtype (str, optional): See :class:`Predictor`. Defaults to None.

    Returns:
        dict: Content of predictions.json.

    Raises:
        MMHierError: If an argument cannot be used. Files that cannot be used
            are skipped and listed instead.
    """
    if (inputs is None) == (camera is None):
        raise MMHierError(
            'expected either an INPUT (an image, a folder, a glob '
            'pattern or a video) or --camera')
    for name, value in (('--batch-size', batch_size), ('--max-frames',
                                                       max_frames)):
        if value is not None and value < 1:
            raise MMHierError(f'{name} {value}: expected at least 1')
    _check_out_dir(out_dir, overwrite)
    checkpoint = resolve_checkpoint(official_name(checkpoint, config))
    files: list[str] = []
    video = None
    if camera is not None:
        video = Video.open(camera, max_frames)
    elif inputs is not None and inputs.lower().endswith(VIDEO_SUFFIXES):
        video = Video.open(inputs, max_frames)
    elif inputs is not None:
        files = list_images(inputs)
    if coco is not None and video is not None:
        raise MMHierError('--coco needs images, not a video or a camera')
    results = None if coco is None else CocoResults(files, coco or None)
    # It must not list pictures that this run replaces.
    Path(out_dir, 'predictions.json').unlink(missing_ok=True)
    predictor = Predictor(
        config,
        checkpoint,
        device=device,
        score_thr=score_thr,
        top_k=top_k,
        classes=classes,
        cfg_options=cfg_options,
        amp=amp,
        amp_dtype=amp_dtype)
    summary: dict[str, Any] = dict(
        config=config,
        checkpoint=checkpoint,
        task=predictor.task,
        precision=predictor.precision,
        classes=predictor.classes)
    if results is not None:
        if predictor.task != 'detection':
            raise MMHierError(f'--coco needs a detector, and {config} is of '
                              f'{predictor.task}')
        results.check_classes(predictor.classes)
    if predictor.task == 'detection':
        summary['bbox_format'] = '[x, y, width, height] in pixels'
    try:
        if video is not None:
            _infer_video(predictor, video, batch_size, out_dir, summary)
        else:
            _infer_images(predictor, files, batch_size, out_dir, results,
                          summary)
    except BaseException as error:
        summary['ended_by'] = f'{type(error).__name__}: {error}'
        raise
    finally:
        # Keep the predictions made before an error.
        _write(
            osp.join(out_dir, 'predictions.json'),
            json.dumps(summary, indent=1).encode())
    return summary


def list_images(inputs: str) -> list[str]:
    """List the images of a file, folder or glob pattern, sorted.

    Args:
        inputs (str): A file, a folder, whose image files are listed by their
            suffix, or a glob pattern.

    Raises:
        MMHierError: If there are none.
    """
    if osp.isfile(inputs):
        return [inputs]
    if osp.isdir(inputs):
        files = [
            osp.join(inputs, name) for name in sorted(os.listdir(inputs))
            if name.lower().endswith(IMAGE_SUFFIXES)
        ]
        if not files:
            raise MMHierError(f'folder {shown(inputs)} holds no images '
                              f'({", ".join(IMAGE_SUFFIXES)})')
        return files
    files = sorted(filter(osp.isfile, glob(inputs, recursive=True)))
    if not files:
        raise MMHierError(
            f'{shown(inputs)} is not a file or a folder, and as a '
            'glob pattern it matches no file')
    return files


def read_image(path: str) -> np.ndarray:
    """Image of a file, as the models are given it in training.

    Gray, palette, 16-bit and CMYK images become 8-bit colour; the rotation
    in EXIF data is applied.

    Args:
        path (str): Any name that the file system takes.

    Returns:
        np.ndarray: (H, W, 3) uint8, BGR.

    Raises:
        UnreadableImage: If the file is empty, no image or cut off.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(f'cannot be read: {error.strerror}') from error
    if not content:
        raise UnreadableImage('is empty (0 bytes)')
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UnreadableImage(f'cannot be decoded: {error.err}') from error
    if image is None:
        raise UnreadableImage('is damaged or not an image: OpenCV cannot '
                              'decode it')
    try:
        # OpenCV before 4.12 silently fills the missing part with gray.
        with Image.open(BytesIO(content)) as parsed:
            parsed.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass
    except (OSError, SyntaxError) as error:
        raise UnreadableImage(f'is damaged or cut off: {error}') from error
    return image


@dataclass
class Video:
    """An open video or camera.

    Attributes:
        name (str): Path, or 'camera 0'.
        capture (cv2.VideoCapture): Where frames come from.
        rate (float): Frames per second.
        length (int, optional): Number of frames that will be read at most,
            as far as it is known.
        is_camera (bool): Whether it goes on until it is interrupted.
    """
    name: str
    capture: Any
    rate: float
    length: int | None
    is_camera: bool

    @classmethod
    def open(cls, source: str | int, max_frames: int | None) -> 'Video':
        """Open a file or, by its number, a camera."""
        is_camera = isinstance(source, int)
        if isinstance(source, int):
            name = f'camera {source}'
        else:
            name = shown(source)
            if not osp.isfile(source):
                raise MMHierError(f'video {name} does not exist')
        capture = cv2.VideoCapture(source)
        if not capture.isOpened():
            raise MMHierError(f'{name} cannot be opened: ' + (
                'is it connected, and not in use by another program?'
                if is_camera else 'is it a video that OpenCV can decode?'))
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        length = None if is_camera or frames <= 0 else frames
        if max_frames is not None:
            length = min(max_frames, length or max_frames)
        rate = capture.get(cv2.CAP_PROP_FPS)
        return cls(name, capture, rate if rate > 0 else 25., length, is_camera)

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8, BGR, until the end, `length` or Ctrl-C."""
        count = 0
        try:
            while self.length is None or count < self.length:
                more, frame = self.capture.read()
                if not more:
                    return
                count += 1
                yield frame
        except KeyboardInterrupt:
            return
        finally:
            self.capture.release()


def _check_out_dir(out_dir: str, overwrite: bool) -> None:
    present = [
        name for name in RESULT_NAMES if osp.exists(osp.join(out_dir, name))
    ]
    if present and not overwrite:
        raise MMHierError(
            f'--out-dir {shown(out_dir)} holds results already '
            f'({", ".join(present)}): choose another folder, or replace them '
            'with --overwrite')
    make_writable('--out-dir', out_dir)


def _infer_images(predictor: Predictor, files: list[str], batch_size: int,
                  out_dir: str, results: CocoResults | None,
                  summary: dict[str, Any]) -> None:
    """Write pictures and label maps; add the images to the summary."""
    names = distinct_names(files)
    entries = summary['images'] = []
    skipped = summary['skipped'] = []
    rows: list[dict] = []
    for start in track(range(0, len(files), batch_size), 'Inference'):
        batch = []
        for path in files[start:start + batch_size]:
            try:
                batch.append((path, read_image(path)))
            except UnreadableImage as error:
                skipped.append(dict(file=shown(path), reason=str(error)))
        predictions = predictor.predict([image for _, image in batch
                                         ]) if batch else []
        for (path, image), prediction in zip(batch, predictions):
            if isinstance(prediction, str):
                skipped.append(dict(file=shown(path), reason=prediction))
                continue
            picture = osp.join('pictures', f'{names[path]}.jpg')
            write_picture(osp.join(out_dir, picture), prediction.picture)
            entry = dict(
                file=shown(path),
                width=image.shape[1],
                height=image.shape[0],
                picture=shown(picture))
            _add_labels(entry, prediction, out_dir, names[path])
            if results is not None:
                entry['image_id'] = results.image_ids[path]
                rows += results.rows(path, prediction.record['instances'])
            entries.append(dict(entry, **prediction.record))
    if results is not None:
        _write(
            osp.join(out_dir, 'coco_results.json'),
            json.dumps(rows).encode())


def _infer_video(predictor: Predictor, video: Video, batch_size: int,
                 out_dir: str, summary: dict[str, Any]) -> None:
    """Write a video with what was found; add its frames to the summary."""
    target = osp.join(out_dir, 'video.mp4')
    writer = None
    summary.update(video=video.name, frames_per_second=video.rate)
    entries = summary['frames'] = []
    skipped = summary['skipped'] = []
    frames = video.frames()
    total = -(-video.length // batch_size) if video.length else None
    batches = iter(lambda: list(islice(frames, batch_size)), [])
    number, failure = 0, ''
    with replacing(target) as partial:
        for batch in track(batches, 'Inference', total):
            for frame, prediction in zip(batch, predictor.predict(batch)):
                height, width = frame.shape[:2]
                if writer is None:
                    writer = _open_writer(partial, video.rate, width, height)
                if isinstance(prediction, str):
                    skipped.append(dict(frame=number, reason=prediction))
                    picture = frame
                else:
                    picture = prediction.picture[..., ::-1]
                    entry = dict(frame=number, width=width, height=height)
                    _add_labels(entry, prediction, out_dir, f'{number:06d}')
                    entries.append(dict(entry, **prediction.record))
                if not failure:
                    try:
                        writer.write(np.ascontiguousarray(picture))
                    except cv2.error as error:
                        failure = f'frame {number}: {error.err}'
                number += 1
        if writer is None:
            raise MMHierError(
                f'{video.name} holds no frame that can be decoded')
        writer.release()
        # The writer reports no errors, such as a full disk.
        written = cv2.VideoCapture(str(partial))
        num_written = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
        written.release()
        if failure or num_written != number:
            failure = failure or ('is the disk full, or has this OpenCV no '
                                  'mp4v?')
            raise MMHierError(
                f'cannot write {shown(target)}: {num_written} of {number} '
                f'frames were written: {failure} The predictions are kept in '
                'predictions.json')
    if not video.is_camera and video.length and number < video.length:
        skipped.append(
            dict(
                frame=number,
                reason=f'the video ends here, of {video.length} frames that '
                'were announced or asked for'))


def _open_writer(path: Path, rate: float, width: int,
                 height: int) -> cv2.VideoWriter:
    """Open a video for writing.

    MPEG-4 states the rate as a fraction of 16 bits, so that others than it
    can state are rounded.
    """
    codec = cv2.VideoWriter.fourcc(*'mp4v')
    for candidate in (rate, round(rate, 2), round(rate, 1), round(rate) or 1):
        writer = cv2.VideoWriter(str(path), codec, candidate, (width, height))
        if writer.isOpened():
            return writer
        writer.release()
    raise MMHierError(
        f'cannot write a video of {width}x{height} pixels at {rate:g} frames '
        'per second: this OpenCV has no mp4v, or the folder is full')


def _add_labels(entry: dict[str, Any], prediction: Prediction, out_dir: str,
                name: str) -> None:
    """Write the label map, if there is one, and name it in the entry."""
    if prediction.labels is None:
        return
    path = osp.join('labels', f'{name}.png')
    _write(
        osp.join(out_dir, path),
        cv2.imencode('.png', prediction.labels)[1].tobytes())
    entry['labels'] = shown(path)


def write_picture(path: str, picture: np.ndarray) -> None:
    """Write a picture whole or not at all.

    Args:
        path (str): Ends with .png or .jpg; its folder is made if need be.
        picture (np.ndarray): (H, W, 3) uint8, RGB.

    Raises:
        MMHierError: If it cannot be written.
    """
    suffix = osp.splitext(path)[1]
    _write(path, cv2.imencode(suffix, picture[..., ::-1])[1].tobytes())


def _write(path: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise MMHierError(
            f'cannot write {shown(path)}: {error.strerror}') from error
