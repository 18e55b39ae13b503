"""The settings of pruning and ranking: by which score, and which heads leave at a rung."""

from __future__ import annotations

from headsearch.config.panels import SCORES, SEARCH, setting

PRUNER = setting(
    "rung", "Pruner: rung, none, median, percentile, successive-halving, hyperband.", SEARCH
)
ETA = setting(2.0, "The rung pruner keeps the best 1/eta of the live heads.", SEARCH, ge=1, le=1000)
MIN_KEEP = setting(3, "Minimum number of heads that the rung pruner keeps.", SEARCH, ge=1)
AMONG = setting(
    "cohort",
    "Heads that the rung pruner compares: those of a cohort, or all, as if all cohorts were one. "
    "all needs observe, and --engine if there are several cohorts.",
    SEARCH,
)
STOP = setting(
    "end",
    "When a search ends: end (at its last rung), or settled: at the first rung from 2 on at which "
    "the order of the heads hardly differs from that at the rung before (Kendall's τ of 0.7 or "
    "more). The first cohort decides for all.",
    SEARCH,
)

RANK_BY = setting(
    "auto",
    "Score for pruning and ranking: accuracy, discrepancy, balanced (the geometric mean of "
    "both), complementarity, head_only_right, discrepancy_pooled, absorption, predicted_gain, "
    "static_prior, tasks (the mean over --tasks), or of --dense-data: segmentation, regions, "
    "detection, masks; or a weighted mean: accuracy:1,segmentation:2. auto: accuracy with "
    "labels, discrepancy without.",
    SCORES,
)
