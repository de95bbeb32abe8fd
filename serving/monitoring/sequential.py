"""Statistics that may be looked at after every record, and what each of them guarantees.

    WinEvidence          which version wins the discordant records       exact; counts
    RateInterval        share of records with a property                exact; counts
    MeanInterval        mean of numbers within known bounds             exact; in order
    AsymptoticInterval  mean of numbers without bounds                  in the limit; sums
    ArmDifference       difference of means of two unpaired arms        in the limit; sums
    rate_difference     difference of rates of two unpaired arms        exact; counts
    SampleRatio         whether assignment keeps to its plan            exact; counts

Each gives an e-process: a non-negative number of mean at most 1 under its null at every stopping time,
so that the probability that it ever reaches 1/alpha is at most alpha (Ville's inequality); they are in
logarithms. Intervals are confidence sequences: they cover at all times together with 1 - alpha. Both
mean the same: stop whenever you like, look as often as you like, and go on afterwards.

Exact: for every number of records. In the limit: the level is approached as the first look moves out,
which is why nothing is said before 100 records. Counts and sums may be merged, and results do not
depend on how records were cut into batches; "in order" depends on the order only, and to the bit not
on the cuts. Every state is JSON: a statistic that is restored goes on as if it had never stopped.

Rejected: fixed-sample tests looked at repeatedly. McNemar's statistic, looked at every 50 pairs,
rejects a true null in a third of all runs within 5,000 pairs.
"""

from serving.monitoring.arms import ArmDifference, SampleRatio, rate_difference
from serving.monitoring.intervals import Interval
from serving.monitoring.means import AsymptoticInterval, MeanInterval
from serving.monitoring.proportions import RateInterval, WinEvidence

__all__ = [
    "ArmDifference",
    "AsymptoticInterval",
    "Interval",
    "MeanInterval",
    "RateInterval",
    "SampleRatio",
    "WinEvidence",
    "rate_difference",
]
