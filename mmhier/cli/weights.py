"""List, fetch, find and verify the weights that the authors publish.

A file is proven when it is fetched: every name and shape of the model, finite
values. Its sha256 is recorded and verified at each use. Files are looked for
in the folder MMHIER_WEIGHTS, then in the cache; MMHIER_WEIGHTS_URL names a
mirror, a folder or a base URL.

Examples:
    mmhier weights list '*lit-small*'
    mmhier weights fetch hatnet-tiny_in1k mask-rcnn_lit-small_fpn_1x_coco
    mmhier weights fetch --all
    mmhier weights where
    mmhier weights verify
"""
import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import command_parser

if TYPE_CHECKING:
    from mmhier.checkpoints import OfficialWeights

# Seconds to wait for the size of a file.
_TIMEOUT = 10.


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('weights', __doc__)
    parser.add_argument(
        'action',
        choices=['list', 'fetch', 'where', 'verify'],
        help='list: names, licences, sizes, published results; fetch: '
        'download into the cache; where: paths of the files that are here; '
        'verify: prove the files that are here')
    parser.add_argument(
        'names',
        nargs='*',
        metavar='NAME',
        help='names, or quoted shell patterns of names; fetch needs them or '
        '--all, the others default to all')
    parser.add_argument(
        '--all', action='store_true', help='fetch every file of the table')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    from mmhier.errors import MMHierError
    if arguments.action == 'fetch' and arguments.all == bool(arguments.names):
        raise MMHierError('fetch: expected either names or --all; `mmhier '
                          'weights list` shows the names')
    chosen = _choose(arguments.names)
    if arguments.action == 'list':
        _list(chosen)
    elif arguments.action == 'fetch':
        _fetch(chosen)
    elif arguments.action == 'where':
        _where(chosen)
    else:
        sys.exit(_verify(chosen))


def _choose(patterns: list[str]) -> 'list[OfficialWeights]':
    """Weights whose names match, in the order of the table."""
    from fnmatch import fnmatchcase

    from mmhier.checkpoints import official_weights
    from mmhier.errors import MMHierError
    table = official_weights()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in table):
            raise MMHierError(f'no official weights are named {pattern}: '
                              '`mmhier weights list` shows the names')
    return [
        weights for name, weights in table.items()
        if not patterns or any(fnmatchcase(name, p) for p in patterns)
    ]


def _list(chosen: 'list[OfficialWeights]') -> None:
    from mmhier.checkpoints.resolving import find_local
    sizes, reason = _remote_sizes(chosen)
    rows = [('name', 'here', 'MB', 'licence', 'published', 'model')]
    for weights, size in zip(chosen, sizes):
        path = find_local(weights)
        size = path.stat().st_size if path else size
        rows.append((weights.name, 'yes' if path else '',
                     f'{size / 1e6:.0f}' if size else '?', weights.licence,
                     ', '.join(f'{metric} {value:g}'
                               for metric, value in weights.published.items()),
                     str(weights)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print('  '.join(text.ljust(width)
                        for text, width in zip(row, widths)).rstrip())
    notes: dict[str, list[str]] = {}
    for weights in chosen:
        if weights.note:
            notes.setdefault(weights.note, []).append(weights.name)
    for note, names in notes.items():
        print(f'\n{", ".join(names)}: {note}')
    if reason:
        print(f'\nSizes are unknown: {reason}')


def _remote_sizes(
        chosen: 'list[OfficialWeights]') -> tuple[list[int | None], str]:
    """Sizes that servers state, and why they could not be asked."""
    from multiprocessing.pool import ThreadPool
    from urllib.error import HTTPError

    from mmhier.checkpoints.fetching import UnreachableError, remote_size
    from mmhier.checkpoints.resolving import find_local, source_url
    failures: list[str] = []

    def size_of(weights: 'OfficialWeights') -> int | None:
        if failures or find_local(weights):
            return None
        try:
            return remote_size(source_url(weights), _TIMEOUT)
        except UnreachableError as error:
            # One file that is absent says nothing about the others.
            if not isinstance(error.__cause__, HTTPError):
                failures.append(str(error))
            return None

    with ThreadPool(8) as pool:
        return pool.map(size_of, chosen), failures[0] if failures else ''


def _fetch(chosen: 'list[OfficialWeights]') -> None:
    import shutil

    from mmhier.checkpoints import resolve_checkpoint
    from mmhier.checkpoints.resolving import cache_folder, find_local
    from mmhier.errors import MMHierError
    needed = sum(size or 0 for size in _remote_sizes(chosen)[0])
    folder = cache_folder()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MMHierError(
            f'the files take {needed / 1e6:.0f} MB, and {cache_folder()} has '
            f'{free / 1e6:.0f} MB left: make room there, or point '
            'XDG_CACHE_HOME at another disk')
    for weights in chosen:
        is_new = find_local(weights) is None
        path = resolve_checkpoint(weights.name)
        print(f'{weights.name}: {path}' + ' (fetched)' * is_new)


def _where(chosen: 'list[OfficialWeights]') -> None:
    import os

    from mmhier.checkpoints.resolving import cache_folder, find_local
    print(f'MMHIER_WEIGHTS: {os.environ.get("MMHIER_WEIGHTS") or "not set"}')
    print(f'cache: {cache_folder()}')
    for weights in chosen:
        path = find_local(weights)
        if path is not None:
            print(f'{weights.name}: {path}')


def _verify(chosen: 'list[OfficialWeights]') -> int:
    """Verify each file and print the result; return 1 if one fails."""
    from mmhier.checkpoints.proving import prove_official
    from mmhier.checkpoints.resolving import find_local, verify_record
    from mmhier.errors import MMHierError
    failed = 0
    for weights in chosen:
        path = find_local(weights)
        if path is None:
            continue
        try:
            recorded = verify_record(path)
            prove_official(path, weights)
        except MMHierError as error:
            failed = 1
            print(f'{weights.name}: {path}: {error}')
        else:
            print(f'{weights.name}: {path} is complete' +
                  (', as it was fetched'
                   if recorded else ', with no record of its first fetch'))
    return failed
