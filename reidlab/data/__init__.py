"""Reading CUHK03 and other person re-identification data sets, batches and transforms."""

import importlib

from reidlab.data.check import Report, check
from reidlab.data.cuhk03 import CUHK03
from reidlab.data.export import export_png
from reidlab.data.folders import FolderDataset, Market1501
from reidlab.data.records import Record, Splits

__all__ = [
    "CUHK03",
    "BatchAugmentation",
    "FolderDataset",
    "Market1501",
    "PKBatchSampler",
    "PixelStore",
    "Record",
    "Report",
    "Splits",
    "check",
    "export_png",
]


_WITH_TORCH = {"PKBatchSampler": "samplers", "PixelStore": "store", "BatchAugmentation": "augment"}


def __getattr__(name: str) -> object:
    if name in _WITH_TORCH:  # torch takes seconds to load, and reading files does not need it
        return getattr(importlib.import_module(f"reidlab.data.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
