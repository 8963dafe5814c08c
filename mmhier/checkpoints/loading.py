"""Loading weights into a backbone, with a report of matches."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn
from mmhier.errors import MMHierError
from .converting import convert_model_state_dict
from .reading import read_checkpoint, unwrap_state_dict


@dataclass
class LoadReport:
    """Outcome of loading weights, by name.

    Attributes:
        source (str): The file, or a description of the weights.
        matched (list[str]): Names loaded, `resized` ones among them.
        converted (list[str]): Names of the file that were renamed from an
            official format.
        resized (list[str]): Names whose values were interpolated.
        mismatched (list[str]): Names whose shapes differ; not loaded.
        unused (list[str]): Names of the file that the model does not have.
        missing (list[str]): Names of the model that the file lacks.
        new (list[str]): Those of `missing` that no official file has.
        fraction (float): Share of the model's parameters that were loaded,
            counted in elements, `new` ones apart.
    """
    source: str
    matched: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    fraction: float = 0.

    def __str__(self) -> str:
        lines = [
            f'weights from {self.source}: {len(self.matched)} tensors '
            f'matched, {100 * self.fraction:.1f} % of the parameters'
        ]
        for kind in ('converted', 'resized', 'mismatched', 'unused', 'missing',
                     'new'):
            names = getattr(self, kind)
            if names:
                shown = ', '.join(names[:8])
                more = f', and {len(names) - 8} more' * (len(names) > 8)
                lines.append(f'  {kind} {len(names)}: {shown}{more}')
        return '\n'.join(lines)


def match_backbone_weights(
        backbone: nn.Module,
        state_dict: dict[str, Tensor],
        source: str = 'a state dict',
        prefix: str | None = None) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find the weights that fit a backbone, without loading them.

    Args:
        backbone (HierarchicalBackbone): On any device, 'meta' included.
        state_dict (dict): In the authors' names, in those of a model that
            holds such a backbone, or in the backbone's own.
        source (str): For the report. Defaults to 'a state dict'.
        prefix (str, optional): Prefix of the backbone's names; found
            automatically for official names and 'backbone.'. Defaults to None.

    Returns:
        tuple[LoadReport, dict]: Report, and the fitting weights under the
        backbone's own names.
    """
    state_dict = dict(state_dict)
    report = LoadReport(source=source)
    converted = convert_model_state_dict(state_dict, type(backbone))
    if converted is not None:
        report.converted = sorted(set(state_dict) - set(converted))
        state_dict = converted
    if prefix is None and any(k.startswith('backbone.') for k in state_dict):
        prefix = 'backbone.'
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        inside = {k for k in state_dict if k.startswith(prefix)}
        report.unused = sorted(set(state_dict) - inside)
        state_dict = {k[len(prefix):]: state_dict[k] for k in inside}
    report.resized = sorted(backbone.fit_state_dict(state_dict))

    own = backbone.state_dict()
    for key, value in state_dict.items():
        if key not in own:
            report.unused.append(key)
        elif own[key].shape != value.shape:
            report.mismatched.append(
                f'{key} {tuple(value.shape)} for {tuple(own[key].shape)}')
        else:
            report.matched.append(key)
    for key in set(own) - set(report.matched):
        is_new = key.startswith(backbone.new_parameters)
        (report.new if is_new else report.missing).append(key)
    for names in (report.matched, report.unused, report.missing, report.new):
        names.sort()

    sizes = {
        k: p.numel()
        for k, p in backbone.named_parameters() if k not in report.new
    }
    found = sum(sizes.get(key, 0) for key in report.matched)
    report.fraction = found / sum(sizes.values())
    return report, {key: state_dict[key] for key in report.matched}


def load_backbone_weights(backbone: nn.Module,
                          source: str | Path | dict[str, Tensor],
                          prefix: str | None = None,
                          min_matched: float = 0.95,
                          map_location: Any = 'cpu') -> LoadReport:
    """Load official or mmhier weights into a backbone and report.

    Args:
        backbone (HierarchicalBackbone): Where the weights go.
        source (str | Path | dict): A checkpoint file, see
            :func:`read_checkpoint`, or an unwrapped state dict, named as in
            :func:`match_backbone_weights`.
        prefix (str, optional): See there. Defaults to None.
        min_matched (float): Share of the parameters that must be found.
            Defaults to 0.95.
        map_location (Any): As in ``torch.load``. Defaults to 'cpu'.

    Returns:
        LoadReport: It is logged as well.

    Raises:
        MMHierError: If the file cannot be read, or fewer parameters
            match than ``min_matched``; the backbone is left as it was.
    """
    if isinstance(source, dict):
        state_dict, name = source, 'a state dict'
    else:
        content = read_checkpoint(source, map_location)
        state_dict, name = unwrap_state_dict(content), str(source)
    report, fitting = match_backbone_weights(backbone, state_dict, name, prefix)
    if report.fraction < min_matched:
        raise MMHierError(
            f'{name} does not fit {type(backbone).__name__}: '
            f'{len(report.matched)} of {len(backbone.state_dict())} tensors '
            f'matched, {100 * report.fraction:.1f} % of the parameters, at '
            f'least {100 * min_matched:.0f} % are needed (min_matched)\n'
            f'{report}')
    backbone.load_state_dict(fitting, strict=False)
    print_log(str(report), logger='current')
    return report
