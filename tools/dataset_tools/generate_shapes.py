"""The same as `mmhier generate-shapes`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('generate-shapes')
