"""Progress bars: shown on a terminal only, with the remaining time."""
import io
import re
import sys

import pytest
from mmhier.progress import track


class Terminal(io.StringIO):
    """A terminal that stores its output."""

    def isatty(self):
        return True


def use_terminal(monkeypatch):
    for name in 'NO_COLOR', 'TERM', 'COLUMNS':
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'stderr', Terminal())
    return sys.stderr


def test_count_and_remaining_time_are_shown(monkeypatch):
    terminal = use_terminal(monkeypatch)
    assert list(track(range(3), 'Counting')) == [0, 1, 2]
    shown = re.sub(r'\x1b\[[\d;?]*\w', '', terminal.getvalue())
    assert re.search(r'Counting .*3/3 0:00:\d\d eta 0:00:00', shown)


def test_a_number_of_items_may_be_given(monkeypatch):
    terminal = use_terminal(monkeypatch)
    assert list(track(iter('ab'), 'Reading', 2)) == ['a', 'b']
    assert '2/2' in re.sub(r'\x1b\[[\d;?]*\w', '', terminal.getvalue())


def test_nothing_is_printed_without_a_terminal(capfd, monkeypatch):
    assert list(track(range(3), 'Counting')) == [0, 1, 2]
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('module, argument', [
    ('apis.inference', 'Inference'),
    ('apis.counting', 'Reading '),
    ('checkpoints.fetching', 'progress_bar('),
    ('datasets.coco_checks', 'Checking annotations'),
    ('datasets.mask_checks', 'Checking masks'),
    ('datasets.formats', ' labels'),
    ('evaluation.dry_objects', 'Dry evaluation'),
    ('evaluation.dry_labels', 'Dry evaluation'),
    ('export.checking', 'Checking '),
    ('leaderboard.ade20k_submission', 'Checking the package'),
    ('leaderboard.coco_submission', 'Checking the package'),
])
def test_long_commands_have_one(module, argument):
    path = sys.modules['mmhier'].__path__[0]
    with open(f'{path}/{module.replace(".", "/")}.py') as file:
        text = file.read()
    assert argument in text and re.search(r'\b(track|progress_bar)\(', text)
