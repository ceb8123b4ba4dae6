"""What a step of paper size (SMB Table 7) costs and wastes, without making it."""

import numpy as np
import pytest

from ehr_assets.models.attention import ROUND
from ehr_assets.training.collate import collate
from ehr_assets.training.cutting import Example
from tests.benchmarks.steps import QWEN3_1B7, counted

TOKENS, EXAMPLES = 3300, 13


@pytest.mark.slow
def test_the_fused_step_saves_what_it_promises():
    fused, literal = counted(QWEN3_1B7, 1, TOKENS, 0.25)
    assert literal / fused >= 1.3


@pytest.mark.parametrize("hides", [False, True])
def test_padding_is_under_three_percent(hides):
    rng = np.random.default_rng(0)
    for _ in range(20):
        examples = [made_up(rng, int(rng.integers(64, TOKENS + 1)), hides) for _ in range(EXAMPLES)]
        batch = collate(examples).padded(ROUND)
        assert len(batch) % ROUND == 0
        assert 1 - sum(batch.lengths) / len(batch) < 0.03


def made_up(rng: np.random.Generator, tokens: int, hides: bool) -> Example:
    m = max(1, round(rng.uniform(0.1, 0.5) * tokens))
    hidden = rng.random(m) < 0.5 if hides else None
    return Example(rng.integers(1, 100, tokens), tokens - m, np.arange(tokens, dtype=np.int32), hidden)
