"""Configs of the zoo and their published results."""
from dataclasses import dataclass
from pathlib import Path

import yaml
import mmhier


@dataclass
class ZooModel:
    """A config of the zoo, from its family's metafile.yml.

    Attributes:
        config (Path): The file.
        params (int): Parameters of its model.
        published (dict[str, tuple[float, str]]): Value in per cent and
            source by metric: 'box AP', 'box AP50', 'mask AP', 'mIoU',
            'Top 1 Accuracy' and so on. Empty where nothing was published.
    """
    config: Path
    params: int
    published: dict[str, tuple[float, str]]


def read_zoo() -> dict[str, ZooModel]:
    """Read the metafiles of the checkout, or of the installed package.

    Returns:
        dict[str, ZooModel]: By name of the config without suffix.
    """
    package = Path(mmhier.__file__).parent
    zoo = {}
    for root in (package.parent, package / '.mim'):
        for path in sorted(root.glob('configs/*/metafile.yml')):
            metafile = yaml.safe_load(path.read_text(encoding='utf-8'))
            for model in metafile['Models']:
                published = {
                    metric: (value, result['Source'])
                    for result in model.get('Results', ())
                    for metric, value in result['Metrics'].items()
                }
                zoo[model['Name']] = ZooModel(root / model['Config'],
                                              model['Metadata']['Parameters'],
                                              published)
        if zoo:
            break
    return zoo
