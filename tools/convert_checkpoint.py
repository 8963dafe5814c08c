"""The same as `mmhier convert`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('convert')
