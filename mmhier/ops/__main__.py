"""``python -m mmhier.ops {status,install,remove}``."""
import argparse
import sys

from . import describe_operators, install_shim, operator_source, remove_shim


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m mmhier.ops',
        description='Operators of mmcv on torchvision, for a mmcv that was '
        'installed without compiled ones.')
    parser.add_argument(
        'action',
        choices=['status', 'install', 'remove'],
        help='status: say where the operators come from; install: write '
        'mmcv/_ext.py, so that processes which never import mmhier have '
        'them too; remove: take that file away')
    action = parser.parse_args().action
    try:
        if action == 'install':
            path = install_shim()
            print(f'{path} hands over to mmhier.ops'
                  if path else 'mmcv has compiled operators: nothing written')
        elif action == 'remove':
            path = remove_shim()
            print(f'removed {path}' if path else
                  'mmcv/_ext.py is not from mmhier: nothing removed')
    except (ModuleNotFoundError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(describe_operators())
    return 0 if operator_source() in ('compiled', 'torchvision') else 1


if __name__ == '__main__':
    sys.exit(main())
