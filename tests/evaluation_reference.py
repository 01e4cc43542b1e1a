"""The four rules once more, in plain loops over sorted lists, for tests to compare with."""

from __future__ import annotations

import itertools

import numpy as np


def labels(query_pids, gallery_pids, query_camids, gallery_camids):
    return {
        "query_pids": query_pids,
        "gallery_pids": gallery_pids,
        "query_camids": query_camids,
        "gallery_camids": gallery_camids,
    }


def kept_list(distances, pid, camid, gallery_pids, gallery_camids, same_camera="exclude"):
    """Gallery indices nearest first, less -1 and (unless kept) the same identity in the same camera."""
    junk = {
        g
        for g in range(len(distances))
        if gallery_pids[g] == -1 or (same_camera == "exclude" and gallery_pids[g] == pid and gallery_camids[g] == camid)
    }
    return [int(g) for g in sorted(range(len(distances)), key=lambda g: (distances[g], g)) if g not in junk]


def average_precisions(right):
    """Step sum, trapezoid and inverse negative penalty of a list of booleans, nearest first."""
    step = trapezoid = 0.0
    hits, precision_before, last = 0, 1.0, 0
    for rank, is_right in enumerate(right, start=1):
        if is_right:
            hits, last = hits + 1, rank
            step += hits / rank
            trapezoid += (precision_before + hits / rank) / 2
        precision_before = hits / rank
    return step / hits, trapezoid / hits, hits / last


def curve_of(ranked_pids, pid, size, every):
    """Credit by place (0-based) of one list: at the first hit, or 1/n for each of n hits, right ones not in the way."""
    credit = np.zeros(size)
    hits = [k for k, other in enumerate(ranked_pids) if other == pid]
    for j, k in enumerate(hits):
        if not every:
            credit[k] += 1
            break
        credit[k - j] += 1 / len(hits)
    return credit


def expected_curve(rule, ranked, pid, camid, gallery_pids, gallery_camids):
    """The curve of one query; for rules that draw, the mean over all draws there are."""
    size = len(gallery_pids)
    if rule in ("market", "allshots"):
        return curve_of([gallery_pids[g] for g in ranked], pid, size, rule == "allshots").cumsum()
    if rule == "cuhk03_open_reid":
        ranked = [g for g in ranked if gallery_camids[g] != camid]
    by_identity = {}
    for g in ranked:
        by_identity.setdefault(gallery_pids[g], []).append(g)
    draws = list(itertools.product(*by_identity.values()))
    curves = [curve_of([gallery_pids[g] for g in ranked if g in draw], pid, size, True) for draw in draws]
    return np.mean(curves, axis=0).cumsum()


def brute_force(rule, distmat, query_pids, gallery_pids, query_camids, gallery_camids, same_camera="exclude"):
    """Mean curve, and (step, trapezoid, inverse negative penalty) by query, None where it is skipped."""
    curves, lists = [], []
    for row, pid, camid in zip(distmat, query_pids, query_camids, strict=True):
        ranked = kept_list(row, pid, camid, gallery_pids, gallery_camids, same_camera)
        right = [gallery_pids[g] == pid for g in ranked]
        lists.append(average_precisions(right) if any(right) else None)
        if any(right):
            curves.append(expected_curve(rule, ranked, pid, camid, gallery_pids, gallery_camids))
    return (np.mean(curves, axis=0) if curves else None), lists
