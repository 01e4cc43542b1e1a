"""With same_camera="keep", queries that are in the gallery themselves are refused, in any order and precision."""

import numpy as np
import pytest
import torch

from reidlab.evaluation import ChanceLevelWarning, calibrate, evaluate, evaluate_distances

GENERATOR = torch.Generator().manual_seed(0)
PEOPLE = torch.arange(60) % 20
FEATURES = torch.randn(20, 16, generator=GENERATOR)[PEOPLE] + 0.3 * torch.randn(60, 16, generator=GENERATOR)
HALF = FEATURES.bfloat16().float()


def labels(query, gallery, **changes):
    found = {"query_pids": PEOPLE[query], "gallery_pids": PEOPLE[gallery]}
    found |= {"query_camids": torch.ones(len(query)), "gallery_camids": torch.ones(len(gallery))}
    return found | {"same_camera": "keep"} | changes


ALL, SHUFFLED = torch.arange(60), torch.randperm(60, generator=GENERATOR)
CASES = {
    "the same": (ALL, ALL, FEATURES),
    "shuffled": (ALL, SHUFFLED, FEATURES),
    "one query of many": (torch.arange(20), torch.cat([torch.arange(19, 20), torch.arange(20, 60)]), FEATURES),
    "computed again in bfloat16": (ALL, SHUFFLED, HALF),
    "before a neck, far from 0": (ALL, SHUFFLED, HALF + 5),
}


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "squared"])
@pytest.mark.parametrize("case", CASES)
def test_queries_in_the_gallery_are_refused(case, metric):
    query, gallery, again = CASES[case]
    offset = 5 if case == "before a neck, far from 0" else 0
    with pytest.raises(ValueError, match="in the gallery themselves"):
        evaluate(FEATURES[query] + offset, again[gallery], metric=metric, **labels(query, gallery))


@pytest.mark.parametrize("score", [evaluate_distances, calibrate])
@pytest.mark.parametrize("again", [FEATURES, HALF], ids=["float32", "bfloat16"])
def test_distances_of_queries_in_the_gallery_are_refused(score, again):
    distances = torch.cdist(FEATURES, again[SHUFFLED])
    for given in (distances, distances**2, list(distances.split(7))):
        with pytest.raises(ValueError, match="in the gallery themselves"):
            score(given, **labels(ALL, SHUFFLED))


def test_the_message_names_the_places_as_they_were_given():
    gallery = torch.cat([torch.tensor([5, 6, 30]), torch.arange(40, 60)])
    given = labels(torch.tensor([10, 30]), gallery)
    given["gallery_pids"] = torch.cat([torch.tensor([-1, -1]), PEOPLE[gallery[2:]]])  # identity -1 moves the places
    with pytest.raises(ValueError, match=r"1 of 2 queries.*query 1 and gallery image 2 "):
        evaluate(FEATURES[[10, 30]], FEATURES[gallery], **given)


def test_other_images_of_one_camera_other_cameras_and_other_people_are_scored():
    query, gallery = torch.arange(20), torch.arange(20, 60)
    frames = FEATURES[query] + 0.1 * torch.randn(20, 16, generator=GENERATOR)  # the next frame of a video
    both = torch.cat([FEATURES[gallery], frames])
    given = labels(query, torch.cat([gallery, query]))
    assert evaluate(FEATURES[query], both, **given).rank1 == 1
    distances = torch.cdist(FEATURES[query], both)
    assert evaluate_distances(distances, **given).rank1 == 1 and calibrate(distances, **given).num_positives == 60
    twins = labels(ALL, ALL, gallery_pids=PEOPLE.roll(1))
    assert evaluate(FEATURES, FEATURES, **twins).rank1 < 1


def test_features_that_are_all_one_point_are_not_taken_for_copies():
    query, gallery = torch.arange(20), torch.arange(20, 60)
    one = torch.ones(60, 4)
    with pytest.warns(ChanceLevelWarning):
        assert evaluate(one[query], one[gallery], **labels(query, gallery)).num_queries == 20
    with pytest.warns(ChanceLevelWarning):
        assert evaluate_distances(np.zeros((20, 40)), **labels(query, gallery)).num_queries == 20


def test_copies_from_another_camera_and_negated_similarities_are_refused():
    unit = torch.nn.functional.normalize(FEATURES)
    with pytest.raises(ValueError, match="60 of 60 queries are in the gallery themselves"):
        evaluate(FEATURES, FEATURES, **labels(ALL, ALL, gallery_camids=torch.full((60,), 2)))
    for score in (evaluate_distances, calibrate):
        with pytest.raises(ValueError, match="60 of 60 queries"):
            score(-(unit @ unit[SHUFFLED].T), **labels(ALL, SHUFFLED))
    query, gallery = torch.arange(20), torch.arange(20, 60)
    assert evaluate_distances(-(unit[query] @ unit[gallery].T), **labels(query, gallery)).rank1 > 0.9
