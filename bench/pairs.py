"""Pairs of measurements, one right after the other: the mean of their ratios, and how sure it is."""
import math, statistics

# Student's t, two-sided 95 %, for n - 1 degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 9: 2.26, 14: 2.14, 19: 2.09, 29: 2.05, 39: 2.02}


def interval(values):
    """Geometric mean and its 95 % interval."""
    logs = [math.log(value) for value in values]
    mean, n = statistics.mean(logs), len(logs)
    if n < 2:
        return math.exp(mean), float("nan"), float("nan")
    half = T95.get(n - 1, 2.0) * statistics.stdev(logs) / math.sqrt(n)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
