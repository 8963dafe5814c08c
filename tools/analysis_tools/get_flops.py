"""The same as `mmhier flops`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('flops')
