"""The same as `mmhier leaderboard`."""
from mmhier.cli.__main__ import run

if __name__ == '__main__':
    run('leaderboard')
