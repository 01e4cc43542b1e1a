"""Named settings of training runs, and where the values of the papers' presets are from.

The four presets of the papers are for CUHK03 under the new protocol: 767 training identities with 7,368 labeled or
7,365 detected images. Their ResNet-50 sees 256×128 pixels in `bnneck` and `rga_sc`, 384×128 in `relation` and `mgn`,
as the papers' do. `SOURCES` says for each of their settings which paper or which file of the public code it is from,
and what is different here.
"""

from __future__ import annotations

from typing import Any

RECIPE_EPOCHS: dict[str, tuple[int, int]] = {
    "bnneck": (120, 93),
    "rga_sc": (600, 47),
    "relation": (80, 461),
    "mgn": (80, 115),
}
"""The papers' epochs, and how many batches of 64 one has on CUHK03's 7,368 labeled images.

An epoch is something else in each:

- bnneck: the sampler deals each person's images out in fours until fewer than 16 people have four left: 93 batches.
- rga_sc: four images of each of the 767 people; the rest of a batch is dropped: 47.
- relation: the sampler takes each image in turn, and in its place four others of the same person: 29,472 draws, 461.
- mgn: not said in the paper, and there is no public code by its authors. Taken as one pass over the images, 115: the
  public re-implementations draw four images of each person and came near the paper's scores with 400 such epochs,
  93 passes over Market-1501; with 120 of them, 28 passes, their scores with SGD stay far below.
"""

PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {},
    "smoke": {"iterations": 8, "identities_per_batch": 4, "images_per_identity": 2, "log_every": 4},
    "relative_distance": {
        "model": "relative_distance",
        "iterations": 300,
        "identities_per_batch": 8,
        "learning_rate": 1e-3,
        "clip": 5.0,
    },
    "bnneck": {
        "model": "baseline",
        "backbone": "resnet50",
        "weights": "torchvision",
        "neck": True,
        "flip": False,
        "iterations": 120 * 93,
        "identities_per_batch": 16,
        "images_per_identity": 4,
        "optimizer": "adam",
        "learning_rate": 3.5e-4,
        "backbone_rate": 1.0,
        "schedule": "steps",
        "steps": (40 / 120, 70 / 120),
        "decay": 0.1,
        "warmup": 10 / 120,
        "warmup_start": 0.1,
        "weight_decay": 5e-4,
        "decay_all": True,
        "cross_entropy": True,
        "label_smoothing": 0.1,
        "metric_loss": "batch_hard",
        "metric": "euclidean",
        "margin": 0.3,
        "augmentation": "crop",
        "erasing": 0.5,
        "precision": "float32",
        "evaluate_every": 10 * 93,
        "held_out": 0.0,
    },
    "rga_sc": {
        "model": "rga",
        "backbone": "resnet50",
        "weights": "torchvision",
        "attention": "both",
        "start": "random",
        "search": "features",
        "flip": False,
        "iterations": 600 * 47,
        "identities_per_batch": 16,
        "images_per_identity": 4,
        "optimizer": "adam",
        "learning_rate": 8e-4,
        "backbone_rate": 1.0,
        "schedule": "steps",
        "steps": tuple(epoch / 600 for epoch in (80, 120, 160, 200, 240, 280, 320, 360)),
        "decay": 0.5,
        "warmup": 20 / 600,
        "warmup_start": 0.01,
        "weight_decay": 5e-4,
        "decay_all": True,
        "label_smoothing": 0.1,
        "margin": 0.3,
        "augmentation": "zoom",
        "erasing": 0.5,
        "precision": "float32",
        "evaluate_every": 10 * 47,
        "held_out": 0.0,
    },
    "relation": {
        "model": "relation",
        "backbone": "resnet50",
        "weights": "torchvision",
        "parts": (6, 4, 2),
        "contrast": "released",
        "pooling": "contrastive",
        "one_vs_rest": True,
        "terms": ("triplet", "relational", "local", "rest", "global"),
        "flip": True,
        "iterations": 80 * 461,
        "identities_per_batch": 16,
        "images_per_identity": 4,
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 1e-2,
        "backbone_rate": 0.1,
        "schedule": "steps",
        "steps": (40 / 80, 60 / 80),
        "decay": 0.1,
        "warmup": 0.0,
        "weight_decay": 5e-4,
        "decay_all": True,
        "margin": 1.2,
        "augmentation": "mirror",
        "erasing": 0.5,
        "precision": "float32",
        "evaluate_every": 5 * 461,
        "held_out": 0.0,
    },
    "mgn": {
        "model": "mgn",
        "backbone": "resnet50",
        "weights": "torchvision",
        "flip": True,
        "iterations": 80 * 115,
        "identities_per_batch": 16,
        "images_per_identity": 4,
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 1e-2,
        "backbone_rate": 1.0,
        "schedule": "steps",
        "steps": (40 / 80, 60 / 80),
        "decay": 0.1,
        "warmup": 0.0,
        "weight_decay": 5e-4,
        "decay_all": True,
        "label_smoothing": 0.0,
        "margin": 1.2,
        "augmentation": "mirror",
        "erasing": 0.0,
        "precision": "float32",
        "evaluate_every": 10 * 115,
        "held_out": 0.0,
    },
}
"""Named settings; what is not named has `TrainConfig`'s default.

The papers train on all 767 identities, so the four presets hold none out, and there is no best.pt: nothing is chosen
but the last weights. Set `held_out` to choose among checkpoints by people that are neither trained on nor tested.
"""

_WEIGHTS = "resnet50-19c8e357.pth, torchvision's first ImageNet weights (IMAGENET1K_V1)"
_ALL_PEOPLE = "the papers train on all 767 identities; there is no best.pt then"
_OURS = "ours, about every 10 of the paper's epochs; people seen in training, as a check, never the test identities"
_FLOAT32 = "the public code has no mixed precision. bfloat16 or float16 are several times faster and another recipe"
_RATE_PER_ITERATION = "there it is set once an epoch, here at each iteration"

SOURCES: dict[str, dict[str, str]] = {
    "bnneck": {
        "model": "Luo et al. 2019, figure 2: ResNet-50, last stride 1, average pooling, batch norm, classifier",
        "backbone": "Luo et al. 2019, section 2: ResNet-50",
        "weights": f"reid-strong-baseline configs/softmax_triplet.yml PRETRAIN_PATH: {_WEIGHTS}",
        "neck": "Luo et al. 2019, section 3.5; config/defaults.py NECK. Search is with the feature after it, cosine "
        "(TEST.NECK_FEAT 'after', FEAT_NORM 'yes')",
        "flip": "engine/inference.py looks at each test image once",
        "iterations": "MAX_EPOCHS 120, for Market-1501; the paper has no CUHK03. 93 batches an epoch: "
        "data/samplers/triplet_sampler.py, run on CUHK03's numbers of images. 11,160 iterations are 97 passes",
        "identities_per_batch": "IMS_PER_BATCH 64 / NUM_INSTANCE 4. Our epochs visit each person once, theirs until "
        "the images run out",
        "images_per_identity": "NUM_INSTANCE 4",
        "optimizer": "OPTIMIZER_NAME 'Adam'",
        "learning_rate": "BASE_LR 0.00035",
        "backbone_rate": "solver/build.py: one rate for all weights (BIAS_LR_FACTOR 1)",
        "schedule": "solver/lr_scheduler.py WarmupMultiStepLR; paper, section 3.1",
        "steps": "STEPS [40, 70]; the code counts epochs from 1 and so lowers the rate one epoch earlier than that",
        "decay": "GAMMA 0.1",
        "warmup": f"paper, section 3.1: 10 epochs; WARMUP_ITERS 10. {_RATE_PER_ITERATION}",
        "warmup_start": "paper, section 3.1: from 3.5e-5 to 3.5e-4. The code has WARMUP_FACTOR 0.01, and 0.109 in its "
        "first epoch",
        "weight_decay": "WEIGHT_DECAY 0.0005, as a part of Adam's gradient",
        "decay_all": "solver/build.py: norms, too, and biases by WEIGHT_DECAY_BIAS 0.0005",
        "cross_entropy": "layers/__init__.py: cross-entropy + triplet, weights 1 and 1; the paper's third loss, on "
        "centres, is left out, as in its configs/softmax_triplet.yml",
        "label_smoothing": "paper, section 3.3; layers/triplet_loss.py epsilon 0.1",
        "metric_loss": "layers/triplet_loss.py hard_example_mining",
        "metric": "layers/triplet_loss.py euclidean_dist, on features before the neck, not with unit norm",
        "margin": "config/defaults.py MARGIN 0.3",
        "augmentation": "data/transforms/build.py: mirror with p = 0.5, pad by 10, crop",
        "erasing": "RE_PROB 0.5; area 2–40 %, aspect 0.3–3.3. Theirs writes PIXEL_MEAN (0.485, 0.456, 0.406) into the "
        "normalised image, ours 0, which is the mean colour",
        "precision": _FLOAT32,
        "evaluate_every": _OURS,
        "held_out": _ALL_PEOPLE,
    },
    "rga_sc": {
        "model": "Zhang et al. 2020, section 4.2; RGA code reid/models/rga_model.py",
        "backbone": "paper, section 4.2: ResNet-50, last stride 1",
        "weights": f"RGA code rga_model.py WEIGHT_PATH: {_WEIGHTS}",
        "attention": "scripts/run_rgasc_cuhk03.sh BRANCH_NAME 'rgasc': spatial, then channel, after all four stages",
        "start": "reid/models/models_utils/rga_modules.py: nothing is set, so torch's random start",
        "search": "img_evaluators.py scores both; `feat_`, before the neck, was the better one in a user's run "
        "(issue 9). Cosine distance",
        "flip": "reid/img_evaluators.py looks at each test image once",
        "iterations": "run_rgasc_cuhk03.sh NUM_EPOCHS 600; reid/utils/data/sampler.py: 767 × 4 images an epoch; "
        "main_imgreid.py drop_last: 47 batches. 28,200 iterations are 245 passes. Our epochs fill up their 48th batch",
        "identities_per_batch": "BATCH_SIZE 64 / num_instances 4",
        "images_per_identity": "main_imgreid.py num_instances 4",
        "optimizer": "run_rgasc_cuhk03.sh --opt adam; without the script the code takes SGD at the same rate",
        "learning_rate": "main_imgreid.py LRScheduler(base_lr=0.0008); its --lr is not read",
        "backbone_rate": "main_imgreid.py: lr_mult 1.0 for both groups",
        "schedule": "reid/utils/lr_scheduler.py",
        "steps": "main_imgreid.py step=[80, 120, …, 360]",
        "decay": "main_imgreid.py factor=0.5",
        "warmup": f"main_imgreid.py warmup_epoch=20. {_RATE_PER_ITERATION}",
        "warmup_start": "main_imgreid.py warmup_begin_lr=0.000008 / 0.0008",
        "weight_decay": "main_imgreid.py weight_decay 5e-4, as a part of Adam's gradient",
        "decay_all": "main_imgreid.py: one decay for all weights",
        "label_smoothing": "reid/loss/loss_set.py epsilon 0.1",
        "margin": "main_imgreid.py margin 0.3; batch-hard, Euclidean, on `feat_`, not with unit norm",
        "augmentation": "reid/utils/data/transforms.py Random2DTranslation (p = 0.5: 9/8 of the size, then a crop), "
        "then mirror with p = 0.5. Ours keeps images at 9/8 and shrinks those that are not cropped",
        "erasing": "reid/img_trainers.py: p = 0.5, area 2–40 %, aspect 0.3–3.3, 0 after normalisation: as ours",
        "precision": _FLOAT32,
        "evaluate_every": _OURS,
        "held_out": _ALL_PEOPLE,
    },
    "relation": {
        "model": "Park and Ham 2020; RRID code Relation_final_ver_last_multi_scale_large_losses.py",
        "backbone": "RRID code resnet.py; Train.py last_conv_stride=1",
        "weights": f"RRID code resnet.py model_urls: {_WEIGHTS}",
        "parts": "Train.py num_stripes=6, and the model's 4 and 2",
        "contrast": "the RRID code; the paper's text subtracts the other way round",
        "pooling": "paper: global contrastive pooling",
        "one_vs_rest": "paper: one-vs.-rest relational module",
        "terms": "Train.py: the sum of 15 triplet losses + 2 × the sum of 45 cross-entropies, as ours",
        "flip": "Evaluate.py: mean of both mirror images, then length 1 for all 3,840 numbers together",
        "iterations": "Train.py --epochs 80; TripletBatchSampler (reid/utils/data/sampler.py) draws four images for "
        "each training image: 29,472 an epoch, 461 batches. 36,880 iterations are 320 passes. The code trains on a "
        "part of the training people without --combine_trainval; here all 767",
        "identities_per_batch": "--batch_size 64 / 4. Theirs can draw a person twice into a batch, ours cannot",
        "images_per_identity": "TripletBatchSampler batch_image=4",
        "optimizer": "Train.py optim.SGD",
        "momentum": "Train.py --momentum 0.9",
        "learning_rate": "Train.py --lr 1e-2, for the new layers",
        "backbone_rate": "Train.py --base_lr 1e-3 / 1e-2",
        "schedule": "utils.py adjust_lr_staircase",
        "steps": "Train.py decay_schedule (40, 60); the code counts epochs from 1 and so lowers the rate one epoch "
        "earlier than that",
        "decay": "Train.py staircase_decay_multiply_factor 0.1",
        "warmup": "there is none in Train.py",
        "weight_decay": "Train.py --weight_decay 0.0005",
        "decay_all": "Train.py: one decay for all weights",
        "margin": "Train.py --margin 1.2; triplet.py, named semi-hard, takes the hardest; not with unit norm",
        "augmentation": "utils.py: resize, erase, mirror; no crop",
        "erasing": "utils.py RandomSizedEarser(). The file with it is not in the public copy we read; others of that "
        "name have p = 0.5 against a draw from [-1, 1] (so 75 % of images), area 2–20 %, one random colour, before "
        "normalisation. Ours 50 %, area 2–40 %, 0 after it",
        "precision": _FLOAT32,
        "evaluate_every": "ours, every 5 of the paper's epochs, 20 passes; people seen in training, as a check",
        "held_out": _ALL_PEOPLE,
    },
    "mgn": {
        "model": "Wang et al. 2018, section 3",
        "backbone": "paper, section 3.1: ResNet-50, in three branches from res_conv4_2 on",
        "weights": "paper, section 4.1 (from memory): ImageNet. All branches start from them. Which file is not said; "
        "the re-implementations take torchvision's first",
        "flip": "paper, section 4.1 (from memory): mean of both mirror images; so MGN-pytorch trainer.py",
        "iterations": "a published summary of the paper: 80 epochs, not said of what (from memory); taken as passes "
        "over the images: 9,200. See RECIPE_EPOCHS",
        "identities_per_batch": "paper, section 4.1 (from memory): P = 16; so MGN-pytorch --batchid",
        "images_per_identity": "paper, section 4.1 (from memory): K = 4; so MGN-pytorch --batchimage",
        "optimizer": "a published summary of the paper: SGD. MGN-pytorch and ReID-MGN take Adam at 2e-4",
        "momentum": "a published summary of the paper: 0.9",
        "learning_rate": "a published summary of the paper: 1e-2. The re-implementations average the terms of each "
        "kind, ours sums 8 cross-entropies and 3 triplet losses, so the same rate takes longer steps",
        "backbone_rate": "the paper names one rate (from memory)",
        "schedule": "a published summary of the paper: 1e-2, 1e-3, 1e-4",
        "steps": "a published summary of the paper: after 40 and 60 epochs",
        "decay": "1e-2, 1e-3, 1e-4",
        "warmup": "the paper names none (from memory)",
        "weight_decay": "a published summary of the paper: 5e-4",
        "decay_all": "not said; torch.optim's usual way, as in both re-implementations",
        "label_smoothing": "the paper names none (from memory)",
        "margin": "paper, section 4.1 (from memory): 1.2; so MGN-pytorch --margin",
        "augmentation": "a published summary of the paper: mirror images only",
        "erasing": "a published summary of the paper: none. Both re-implementations erase with p = 0.5",
        "precision": "not said; the re-implementations have no mixed precision",
        "evaluate_every": _OURS,
        "held_out": _ALL_PEOPLE,
    },
}
"""For each setting of the papers' presets: where its value is from, and what is different here.

Public code, as read: github.com/michuanhaohao/reid-strong-baseline (Luo et al. 2019),
github.com/microsoft/Relation-Aware-Global-Attention-Networks (RGA), github.com/cvlab-yonsei/projects, folder RRID/code
(relation network), github.com/seathiefwang/MGN-pytorch and github.com/GNAYUOHZ/ReID-MGN (re-implementations of MGN).
"From memory" means that the paper itself was not at hand when this was written.
"""
