"""Table of the weights that the authors publish."""
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from mmhier.errors import MMHierError

_TABLE = Path(__file__).with_name('official.yml')
_RELEASES = 'https://github.com/{}/releases/download/{}'


@dataclass(frozen=True)
class OfficialWeights:
    """A file that the authors of a family publish.

    Attributes:
        name (str): Name of a config, or ``VARIANT_in1k`` for an ImageNet
            classifier.
        url (str): Where it is served.
        family (str): Class of the backbone, such as 'HATNet'.
        arch (str): Variant of the family.
        task (str): Such as 'ImageNet classifier'.
        config (str): Name of the config of the model.
        published (dict[str, float]): Published results by metric.
        source (str): Where they are published.
        licence (str): Licence of the authors' repository.
        backbone (dict): Keys that differ from the config's backbone.
        note (str): Facts that the file itself does not tell. Empty if none.
    """
    name: str
    url: str
    family: str
    arch: str
    task: str
    config: str
    published: dict[str, float]
    source: str
    licence: str
    backbone: dict[str, Any] = field(default_factory=dict)
    note: str = ''

    @property
    def file_name(self) -> str:
        """Name of the authors' file."""
        return self.url.rpartition('/')[2]

    def __str__(self) -> str:
        changes = ''.join(f', {k}={v}' for k, v in self.backbone.items())
        return f'{self.family} {self.arch}{changes}, {self.task}'


@cache
def official_weights() -> dict[str, OfficialWeights]:
    """Read the table.

    Returns:
        dict[str, OfficialWeights]: By name.
    """
    table = {}
    for group in yaml.safe_load(_TABLE.read_text(encoding='utf-8')):
        for entry in group['weights']:
            file = entry.pop('file')
            table[entry['name']] = OfficialWeights(
                url=_RELEASES.format(group['repository'], file),
                family=group['family'],
                source=group['source'],
                licence=group['licence'],
                **entry)
    return table


def find_official(source: str) -> OfficialWeights | None:
    """Official weights by name or by URL; None if it is neither."""
    table = official_weights()
    if source in table:
        return table[source]
    return next((w for w in table.values() if w.url == source), None)


def official_name(checkpoint: str, config: str | Path) -> str:
    """Name of official weights where 'official' is asked for.

    Args:
        checkpoint (str): 'official', or anything else.
        config (str | Path): Config file, or name of a config.

    Returns:
        str: Name of the weights of the config, or `checkpoint` as it is.

    Raises:
        MMHierError: If the authors published none for the config.
    """
    if checkpoint != 'official':
        return checkpoint
    config = Path(config).name.removesuffix('.py')
    for weights in official_weights().values():
        if weights.config == config and not weights.backbone:
            return weights.name
    raise MMHierError(
        f'no official weights exist for {config}: give a CHECKPOINT; `mmhier '
        'weights list` shows the models that have some')
