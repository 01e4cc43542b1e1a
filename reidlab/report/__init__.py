"""The end of a run: its scores, and a page to read about it."""

from reidlab.report.finish import finish_run, write_report

__all__ = ["finish_run", "write_report"]
