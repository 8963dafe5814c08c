import logging

import pytest


@pytest.fixture(autouse=True)
def tracing_without_a_record():
    """pytest records all that torch logs; of a trace, that takes minutes."""
    logger = logging.getLogger('torch.__trace')
    logger.disabled = True
    yield
    logger.disabled = False
