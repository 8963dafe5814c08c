"""docs/weights.md: its commands, with files of the models' shapes."""
import re
from pathlib import Path

from mmhier.checkpoints import official_weights
from ..golden import official_state_dict
from ..stand_ins import stand_in
from .pages import Shell, commands

PAGE = 'docs/weights.md'


def test_commands(weights_server, tmp_path, monkeypatch, capfd):
    shell = Shell(tmp_path, monkeypatch)
    classifier = official_state_dict('hatnet_tiny')
    weights_server.put('HAT-Net_Tiny.pth', classifier)
    detector = official_weights()['mask-rcnn_lit-small_fpn_1x_coco']
    weights_server.put(detector.file_name, stand_in(detector))
    (tmp_path / 'HAT-Net_Tiny.pth').symlink_to(weights_server.folder /
                                               'HAT-Net_Tiny.pth')
    printed = ''
    for command in commands(PAGE):
        if re.search(r'/(infer|test)\.py ', command):
            shell.run_official(command)
        else:
            shell.run(command)
        printed += capfd.readouterr().out
    assert printed.count('(fetched)') == 2
    assert printed.count('is complete, as it was fetched') == 2
    converted, = Path('weights').iterdir()
    assert re.fullmatch('hatnet-tiny-[0-9a-f]{8}.pth', converted.name)
