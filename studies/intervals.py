"""Statistics of paired trainings: intervals of a mean difference, and what an interval proves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: of the values.
        half: half the interval's width by Student's t; nan of a single value.
        count: how many values there are.
    """

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half


def interval(values: Sequence[float], confidence: float) -> Interval:
    """The mean of independent values, and its interval by Student's t.

    Args:
        values: at least one; for paired trainings, the difference of each pair.
        confidence: between 0 and 1.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, math.nan, len(values))
    found = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return Interval(mean, float(found.high - found.low) / 2, len(values))


def verdict(cost: Interval, margin: float) -> str:
    """What an interval of a cost says, if costs up to a margin are said not to matter.

    The two one-sided tests of Schuirmann 1987 at level alpha reject where the interval of
    confidence 1 - 2 alpha lies within the margin: with one of 90 %, alpha is 5 %.

    Args:
        cost: positive is worse.
        margin: above 0, fixed before the values are seen.

    Returns:
        "equivalent": both ends are within the margin; "no worse": the upper end is; "worse": the
        lower end is above it; or "not decided".
    """
    if cost.high < margin:
        return "equivalent" if cost.low > -margin else "no worse"
    return "worse" if cost.low > margin else "not decided"


def dunnett(groups: Sequence[Sequence[float]], control: Sequence[float]) -> list[float]:
    """p-values of Dunnett's comparison of several groups' means with one control's.

    Dunnett 1955: the chance of any false alarm among all groups is held, not that of each.

    Args:
        groups: the values of each; two or more.
        control: two or more values.

    Returns:
        One for each group.
    """
    found = stats.dunnett(*groups, control=control, rng=np.random.default_rng(0))
    return [float(each) for each in found.pvalue]
