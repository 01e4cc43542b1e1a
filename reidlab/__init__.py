"""reidlab: person re-identification, from CUHK03's raw `.mat` to a trained, evaluated model."""

from importlib import import_module

__version__ = "0.1.0"

_PLACES = {
    "CUHK03": "data",
    "FolderDataset": "data",
    "Market1501": "data",
    "Baseline": "models",
    "MGN": "models",
    "RGANet": "models",
    "RelationNet": "models",
    "load_published": "models.published",
    "wrap": "models.base",
    "TrainConfig": "training",
    "load_checkpoint": "training",
    "train": "training",
    "evaluate": "evaluation",
    "evaluate_model": "evaluation",
    "search": "evaluation",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    # Loaded when they are asked for: torch takes seconds, and reading files does not need it.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
