"""Serve a model as a web page that shows its predictions on a photo.

Needs gradio: pip install "mmhier[web]".

Example:
    mmhier web-demo CONFIG CHECKPOINT --port 7860
"""
import argparse
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmhier.errors import MMHierError
from .arguments import (
    add_amp,
    add_cfg_options,
    add_checkpoint,
    add_config,
    add_device,
    add_predictions,
    add_trained_classes,
    command_parser,
)

if TYPE_CHECKING:
    from mmhier.apis.predictor import Predictor


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('web-demo', __doc__)
    add_config(parser)
    add_checkpoint(parser)
    add_predictions(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on; defaults to 127.0.0.1, this machine alone')
    parser.add_argument(
        '--port', type=int, default=7860, help='defaults to 7860')
    add_device(parser)
    add_amp(parser)
    add_trained_classes(parser)
    add_cfg_options(parser)
    return parser


def build_page(gradio: Any, predictor: 'Predictor', title: str) -> Any:
    """Page with a photo on the left, the prediction on the right."""

    def predict(photo: Any) -> tuple[Any, dict]:
        if photo is None:
            raise gradio.Error('choose a photo first')
        # A copy: OpenCV takes no negative strides.
        prediction, = predictor.predict([photo[..., ::-1].copy()])
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
        # gradio would report every start to its makers.
        analytics_enabled=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    try:
        import gradio
    except ImportError as error:
        raise MMHierError('the web page needs gradio, which is not installed: '
                          'run pip install "mmhier[web]"') from error
    from mmhier.apis.predictor import Predictor

    host, port = arguments.pop('host'), arguments.pop('port')
    # Fail before the model is built and its weights are downloaded.
    _check_address(host, port)
    page = build_page(gradio, Predictor(**arguments), arguments['config'])
    page.launch(server_name=host, server_port=port)


def _check_address(host: str, port: int) -> None:
    """Check that the page can be served at an address.

    Raises:
        MMHierError: If the address cannot be listened on.
    """
    try:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        raise MMHierError(f'cannot listen on {host}:{port} ({error}): choose '
                          'another port with --port') from error
