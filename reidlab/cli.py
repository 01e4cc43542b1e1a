"""The `reidlab` command: thin wrappers, one line of error instead of a traceback."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from reidlab.errors import DataError, message_for_user
from reidlab.files import check_writable
from reidlab.progress import duration_text, say

if TYPE_CHECKING:
    from reidlab.data.records import Splits
    from reidlab.distributed import Processes
    from reidlab.training import TrainConfig


class _Command(TyperGroup):
    """The command: on any console, and with one line in place of a traceback where that says what to do."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run in a program of its own."""
        with contextlib.suppress(AttributeError, ValueError):  # no stdout, or one of another kind
            sys.stdout.reconfigure(errors="replace")
        return super().main(*args, **kwargs)

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        """Read `--traceback` wherever it stands."""
        args = sorted(args, key=lambda word: word != "--traceback")
        return super().make_context(info_name, args, *rest, **more)

    def invoke(self, ctx: Any) -> Any:
        """Turn deliberate errors into one line on stderr and exit code 1; an unexpected one keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted: nothing is left half-written; the same command starts again", error=True)
            raise typer.Exit(130) from None
        except Exception as error:
            text = None if ctx.params.get("traceback") else message_for_user(error)
            if text is None:
                raise
            say(f"error: {text}", error=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Command,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Person re-identification, from data to scores.",
)
lessons_app = typer.Typer(no_args_is_help=True, help="Run and refresh the lessons.")
app.add_typer(lessons_app, name="lessons")

Root = Annotated[Path, typer.Argument(help="Folder with the data set.")]
Box = Annotated[str | None, typer.Option(help="labeled or detected; CUHK03 has no default.")]
Protocol = Annotated[str, typer.Option(help="new (767/700 identities) or classic (20 splits).")]
Split = Annotated[int | None, typer.Option(help="Number of the classic split, 0 to 19.")]
Format = Annotated[str, typer.Option(help="cuhk03, market1501 or folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read images.")]


@app.callback()
def _main(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show log messages.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    warnings.filterwarnings("ignore", "Image size")  # Pillow's: such an image is refused, in one line
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")


@app.command()
def world(
    out: Annotated[Path, typer.Argument(help="Folder to write the world into.")],
    size: Annotated[str, typer.Option(help="tiny, small or full.")] = "small",
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes; all cores if not given.")] = None,
) -> None:
    """Write Walkers, the embedded world, in CUHK03's file formats."""
    from reidlab.walkers import World

    start = time.perf_counter()
    folder = World.preset(size, seed=seed).write(out, jobs=jobs)
    say(f"Walkers {size}, seed {seed}: {folder} ({duration_text(time.perf_counter() - start)})")


@app.command()
def weights(
    out: Annotated[Path | None, typer.Option(help="The weights file; the package's own if not given.")] = None,
    data: Annotated[Path, typer.Option(help="Folder for the crops to train on, 3 GB.")] = Path("build/streets"),
    walkers: Annotated[Path, typer.Option(help="World to measure on; written if needed.")] = Path("data/walkers-small"),
    record: Annotated[Path | None, typer.Option(help="JSON file for recipe and scores.")] = None,
    people: Annotated[int | None, typer.Option(help="How many strangers to draw, a multiple of 40.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, over the settings of the shipped file.")
    ] = None,
) -> None:
    """Make the weights of Baseline.pretrained() again, from drawn people alone: about an hour, on one thread."""
    from reidlab.files import write_json
    from reidlab.models import Baseline
    from reidlab.models.weights import WEIGHTS
    from reidlab.training import parse_settings
    from reidlab.walkers import Streets, World
    from reidlab.walkers.pretraining import PEOPLE, make_weights, measure, street_config

    if out is None and (people is not None or settings):
        raise ValueError("--people and --set make other weights than those of the package: say where with --out FILE")
    out = out or WEIGHTS
    people = PEOPLE if people is None else people
    Streets(people)  # refuses a number that it cannot draw, before anything is written
    for path in (out, record):
        if path:
            check_writable(path)
    config = street_config(**parse_settings(settings or []))
    world = World.preset("small").write(walkers)  # what cannot be written should say so before the hour, not after
    recipe = make_weights(config, data, out, people, report=_print_row)
    scores = measure(Baseline.pretrained(path=out), data, world, config.seed)
    for row in scores:
        say(f"{row['dataset']}, {row['box']} boxes: rank-1 {row['rank1']:.1%}, mAP {row['mean_ap']:.1%}")
    if record:
        write_json(record, {"recipe": recipe, "scores": scores})
    say(f"weights: {out}")


@app.command()
def check(
    root: Root,
    data_format: Annotated[
        str | None, typer.Option("--format", help="cuhk03, market1501 or folder; found out if not given.")
    ] = None,
) -> None:
    """Check a data set, every image of it: what is there, what is wrong, what to do."""
    from reidlab.data import check as check_files

    report = check_files(root, data_format=data_format)
    say(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def train(
    root: Root,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/PRESET-BOX if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in that folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would take, train nothing.")] = False,
    box: Box = None,
    protocol: Protocol = "new",
    split: Split = None,
    data_format: Annotated[str, typer.Option("--format", help="cuhk03, market1501 or folder.")] = "cuhk03",
    preset: Annotated[str, typer.Option(help="Named settings.")] = "laptop",
    settings: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE, over the preset.")] = None,
    device: Device = "auto",
    workers: Workers = 0,
    cache: Annotated[Path | None, typer.Option(help="File to keep shrunk images in, in place of memory.")] = None,
) -> None:
    """Train a model into a run folder: settings, curves, checkpoints, scores, report.html."""
    from reidlab.distributed import local_device, process_group
    from reidlab.lessons.setup import device as find_device
    from reidlab.training import TrainConfig, parse_settings

    if dry_run and resume:
        raise ValueError("got --dry-run and --resume, expected one of them: a dry run plans a run from its beginning")
    where = local_device(str(find_device(device)))
    config = TrainConfig.preset(preset, **parse_settings(settings or []))
    run = out or Path("runs", "-".join(filter(None, (preset, box))))
    with process_group(where) as processes:
        data = open_data(root, data_format, box, protocol, split)
        if not data.train:
            part = "bounding_box_train/" if data_format == "market1501" else "train/ (beside query/ and gallery/)"
            lacks = "the protocol names no images to train on" if data_format == "cuhk03" else f"{part} is missing"
            raise DataError(f"{root}: nothing to train on: {lacks}; `reidlab evaluate` needs none")
        _train_into(run, resume, dry_run, preset, config, data, where, workers, processes, cache)


def _train_into(
    run: Path,
    resume: bool,
    dry: bool,
    preset: str,
    config: TrainConfig,
    data: Splits,
    device: str,
    workers: int,
    processes: Processes,
    cache: Path | None,
) -> None:
    from reidlab.training import RunFolder
    from reidlab.training import train as fit
    from reidlab.training.dry_run import dry_run
    from reidlab.training.precision import settle_precision
    from reidlab.training.report import finish_run

    folder = None if dry else RunFolder(run, resume, preset, writes=processes.is_first)
    config = settle_precision(config, device, processes, folder)
    _say(processes, f"{data}\n\n{config}\n")
    _say(processes, str(dry_run(config, data, device, workers, run, processes, cache)))
    if folder is None:
        return
    try:
        result = fit(config, data, device, workers, report=_print_row, run=folder, processes=processes, cache=cache)
        _say(
            processes,
            f"trained {config.iterations:,} iterations, {result.epochs:.1f} epochs, "
            f"{duration_text(result.seconds)}: {run}",
        )
        finished = finish_run(run, data, device, workers, processes)
    except KeyboardInterrupt:
        there = f"{folder.last} is written" if folder.last.exists() else "nothing was saved yet"
        _say(processes, f"interrupted: {there}; the same command with --resume goes on")
        raise typer.Exit(130) from None
    for name, scores in finished.items():
        _say(processes, f"{data.title}, {name}.pt: {_score_line(scores)}")
    if (run / "report.html").exists():
        _say(processes, f"report: {run / 'report.html'}")


@app.command()
def evaluate(
    root: Root,
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint of `reidlab train`.")] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="Score the weights that come with the package.")] = False,
    box: Box = None,
    protocol: Protocol = "new",
    split: Split = None,
    data_format: Annotated[str, typer.Option("--format", help="cuhk03, market1501 or folder.")] = "cuhk03",
    metric: Annotated[str, typer.Option(help="cosine or euclidean.")] = "cosine",
    rule: Annotated[
        str, typer.Option(help="market, cuhk03_open_reid, cuhk03_torchreid or allshots; decides rank-k, not mAP.")
    ] = "market",
    same_camera: Annotated[
        str, typer.Option(help="exclude, or keep: count matches from the query's own camera; for data from one camera.")
    ] = "exclude",
    device: Device = "auto",
    workers: Workers = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the scores here, as JSON.")] = None,
) -> None:
    """Score a checkpoint, the shipped weights, or raw pixels where neither is given, on query and gallery."""
    from reidlab.distributed import local_device, process_group
    from reidlab.evaluation import evaluate_model
    from reidlab.lessons.setup import device as find_device
    from reidlab.models import Baseline
    from reidlab.models.pixels import RawPixels
    from reidlab.results import write_scores
    from reidlab.training import load_checkpoint

    if out:
        check_writable(out)
    data = open_data(root, data_format, box, protocol, split)
    if shipped and checkpoint:
        raise ValueError("got --shipped and --checkpoint, expected one of them")
    if shipped:
        model = Baseline.pretrained()
        meta = {"config": model.recipe["settings"]}
    else:
        model, meta = load_checkpoint(checkpoint) if checkpoint else (RawPixels(), {})
    start = time.perf_counter()
    where = local_device(str(find_device(device)))
    with process_group(where) as processes:
        result = evaluate_model(model, data, metric, rule, where, workers, same_camera, processes=processes)
    name = "shipped weights" if shipped else str(checkpoint or "raw pixels (no --checkpoint given)")
    _say(processes, f"{data.title}, {name}: {result}")
    if out and processes.is_first:
        seeds = [meta["config"]["seed"]] if meta else []
        write_scores(out, result, data, seeds=seeds, seconds=time.perf_counter() - start, model=name)
        say(f"scores: {out}")


@lessons_app.command("run")
def lessons_run(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Notebooks; all lessons if none is named.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for executed notebooks, pages and results.")] = Path("build"),
    profile: Annotated[str, typer.Option(help="smoke, laptop or gpu.")] = "laptop",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A notebook parameter.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time.")] = 2,
    html: Annotated[bool, typer.Option(help="Also make HTML pages and an index.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one notebook may take.")] = None,
) -> None:
    """Run lessons headlessly; unknown or ill-typed parameters are refused. Exit code 1 if any fails."""
    from reidlab.checks import name_and_value
    from reidlab.lessons.runner import run_lessons

    results = run_lessons(
        notebooks or None,
        out,
        profile=profile,
        parameters=[name_and_value(text) for text in parameter or []],
        jobs=jobs,
        html=html,
        timeout=timeout,
    )
    if any(not result.ok for result in results):
        raise typer.Exit(1)


@lessons_app.command("refresh")
def lessons_refresh(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Notebooks; all lessons if none is named.")] = None,
) -> None:
    """Execute committed notebooks again, in place."""
    from reidlab.lessons.runner import refresh

    if any(not result.ok for result in refresh(notebooks or None)):
        raise typer.Exit(1)


def open_data(root: Path, data_format: str, box: str | None, protocol: str, split: int | None) -> Any:
    """Open a data set by the name of its format.

    Raises:
        ValueError: an unknown format, or CUHK03 without a box type.
    """
    from reidlab.data import CUHK03, FolderDataset, Market1501

    if data_format == "cuhk03":
        if box is None:
            raise ValueError(
                "--box is missing: CUHK03 has labeled and detected boxes, and their scores differ; for images of "
                "your own --format folder or market1501"
            )
        return CUHK03(root, box=box, protocol=protocol, **({} if split is None else {"split": split}))
    if data_format not in ("market1501", "folder"):
        raise ValueError(f"--format {data_format}: expected cuhk03, market1501 or folder")
    if box is not None or protocol != "new" or split is not None:
        raise ValueError(f"--box, --protocol and --split are for CUHK03; leave them out with --format {data_format}")
    return {"market1501": Market1501, "folder": FolderDataset}[data_format](root)


def _say(processes: Processes, text: str) -> None:
    """Let the first of several processes talk for all."""
    if processes.is_first:
        say(text)


def _score_line(scores: dict[str, Any]) -> str:
    return (
        f"rank-1 {scores['rank1']:.1%}, mAP ({scores['ap_formula']}) {scores['mean_ap']:.1%}; {scores['rule']} rule, "
        f"{scores['metric']} distance, {scores['num_valid_queries']} queries"
    )


def _print_row(row: dict[str, Any]) -> None:
    known = ("iteration", "learning_rate", "images_per_second", "seconds", "memory_mb")
    head = f"iteration {row['iteration']:>6.0f}  "
    if "people" in row:
        scores = f"rank-1 {row['rank1']:.1%}  mAP {row['mean_ap']:.1%} (chance {row['chance_mean_ap']:.1%})"
        say(f"{head}{row['identities']} {row['people']} training identities: {scores}")
    else:
        terms: dict[str, float] = {}
        for name, value in row.items():
            if name not in known:
                group = name.partition("/")[0]  # networks of parts have up to sixty terms
                terms[group] = terms.get(group, 0) + value
        text = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        speed = f"  {row['images_per_second']:.0f} images/s" if "images_per_second" in row else ""
        memory = f"  {row['memory_mb']:.0f} MB" if row.get("memory_mb") else ""
        say(f"{head}{text}  learning rate {row['learning_rate']:.2e}{speed}{memory}")
