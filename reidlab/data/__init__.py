"""Reading CUHK03 and other person re-identification data sets, batches and transforms."""

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


def __getattr__(name: str) -> object:
    # These need torch, which takes seconds to load; reading files does not.
    if name == "PKBatchSampler":
        from reidlab.data.samplers import PKBatchSampler

        return PKBatchSampler
    if name == "PixelStore":
        from reidlab.data.store import PixelStore

        return PixelStore
    if name == "BatchAugmentation":
        from reidlab.data.augment import BatchAugmentation

        return BatchAugmentation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
