"""reidlab: person re-identification, from CUHK03's raw `.mat` to a trained, evaluated model."""

__version__ = "0.1.0"
