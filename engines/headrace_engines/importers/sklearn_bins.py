"""Scalers before bins, folded into the bins' edges, as those before trees are into thresholds.

Edges are values of the training data that were scaled in FP64 (quantiles most of all), so that in FP32 many
rows would fall into the bin beside theirs.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import KBinsDiscretizer

from headrace_engines.importers.sklearn_folding import SCALERS, searched

Steps = tuple[Any, ...]


def folded(estimator: Any) -> Any:
    """Return an estimator that gives the same, in which no KBinsDiscretizer stands right behind a scaler."""
    match estimator:
        case Pipeline():
            steps = _folded_steps(tuple(step for _, step in estimator.steps))
            return Pipeline([(f"step{place}", step) for place, step in enumerate(steps)])
        case ColumnTransformer():
            columns = copy.copy(estimator)
            columns.transformers_ = [(name, folded(part), at) for name, part, at in estimator.transformers_]
            return columns
    return estimator


def _folded_steps(steps: Steps) -> Steps:
    done: Steps = ()
    for step in (folded(each) for each in steps):
        count = len(done)
        while count and isinstance(done[count - 1], SCALERS):
            count -= 1
        if isinstance(step, KBinsDiscretizer) and count < len(done):
            done = (*done[:count], _unscaled(step, done[count:]))
        else:
            done = (*done, step)
    return done


def _unscaled(bins: KBinsDiscretizer, scalers: Steps) -> KBinsDiscretizer:
    """Return bins that divide FP32 numbers as these divide what the scalers make of them."""
    result = copy.copy(bins)
    edges = np.concatenate(list(bins.bin_edges_)).astype(np.float64)
    counts = [len(each) for each in bins.bin_edges_]
    features = np.repeat(np.arange(len(counts)), counts)
    found = searched(scalers, features, edges, np.ones(len(edges), bool)).astype(np.float64)
    result.bin_edges_ = np.array([None, *np.split(found, np.cumsum(counts)[:-1])], object)[1:]
    return result
