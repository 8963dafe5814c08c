"""Try a model in the browser: drop a photo, see what the model finds.

Needs gradio: pip install "mmhier[web]".

Example:
    python tools/web_demo.py CONFIG CHECKPOINT --port 7860
"""
import argparse
from typing import Any

import numpy as np
from mmengine.config import DictAction
from mmhier.apis import MMHierError, run_tool
from mmhier.apis.predictor import Predictor


def build_page(gradio: Any, predictor: Predictor, title: str) -> Any:
    """Page with a photo on the left, the prediction on the right."""

    def predict(photo: np.ndarray) -> tuple[np.ndarray, dict]:
        if photo is None:
            raise gradio.Error('choose a photo first')
        prediction, = predictor.predict(
            [np.ascontiguousarray(photo[..., ::-1])])
        if isinstance(prediction, str):
            raise gradio.Error(f'the photo {prediction}')
        return prediction.picture, prediction.record

    return gradio.Interface(
        predict,
        gradio.Image(type='numpy', image_mode='RGB', label='photo'),
        [gradio.Image(label=predictor.task),
         gradio.JSON(label='prediction')],
        title=title,
        flagging_mode='never',
        # It would tell gradio's makers of every start.
        analytics_enabled=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config',
        help='config file, or name of a model such as '
        'mask-rcnn_hatnet-tiny_fpn_1x_coco')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of an instance; defaults to 0.3')
    parser.add_argument(
        '--top-k',
        type=int,
        default=5,
        help='classes that a classifier reports; defaults to 5')
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on; defaults to 127.0.0.1, this machine alone')
    parser.add_argument(
        '--port', type=int, default=7860, help='defaults to 7860')
    parser.add_argument(
        '--device', help='cpu, cuda:0, ...; defaults to a GPU if there is one')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes that the model was trained on, or a .txt file with a '
        'name a line, if they are not those of the config')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    arguments = vars(parser.parse_args())
    try:
        import gradio
    except ImportError as error:
        raise MMHierError('the web page needs gradio, which is not installed: '
                          'run pip install "mmhier[web]"') from error
    host, port = arguments.pop('host'), arguments.pop('port')
    predictor = Predictor(**arguments)
    page = build_page(gradio, predictor, arguments['config'])
    try:
        page.launch(server_name=host, server_port=port)
    except OSError as error:
        raise MMHierError(f'cannot listen on {host}:{port} ({error}): choose '
                          'another port with --port') from error


if __name__ == '__main__':
    run_tool(main)
