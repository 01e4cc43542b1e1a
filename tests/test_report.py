import base64
import io
import json
import os
import re
import shutil
import socket
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import Colours
from forked import Forked
from PIL import Image

from reidlab.data.records import Record, Splits
from reidlab.distributed import process_group
from reidlab.errors import DataError
from reidlab.evaluation import evaluate_model
from reidlab.results import check_comparable
from reidlab.training import RunFolder, TrainConfig, load_checkpoint, report, train
from reidlab.training.config import flat_settings
from reidlab.training.report import extremes, finish_run, write_report
from reidlab.training.run_folder import read_run

SETTINGS = {"iterations": 4, "identities_per_batch": 2, "images_per_identity": 2, "log_every": 2, "save_every": 4}


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes, texts, and whether all that is opened is closed."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += re.sub(r"[ \n]+", " ", data)

    def pictures(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]

    def alternatives(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "alt")]


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    """A run that ended, with best.pt, and its scores."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    config = TrainConfig().replace(**SETTINGS, evaluate_every=2, held_out=0.34)
    train(config, colours, run=RunFolder(folder, preset="laptop"))
    before = plt.get_fignums()
    scores = finish_run(folder, colours)
    assert plt.get_fignums() == before
    return folder, scores


@pytest.fixture
def quick(monkeypatch, described):
    """Small galleries, and pictures that are described, but not drawn."""
    monkeypatch.setattr(report, "QUERIES", 1)
    monkeypatch.setattr(report, "RESULTS", 2)


@pytest.fixture
def run(trained, tmp_path, quick):
    """A copy of the run to break."""
    return shutil.copytree(trained[0], tmp_path / "first")


def test_the_scores_are_those_of_the_checkpoints(trained, colours):
    folder, scores = trained
    assert scores == json.loads((folder / "scores.json").read_text()) and list(scores) == ["last", "best"]
    for name, record in scores.items():
        model, _ = load_checkpoint(folder / f"{name}.pt")
        result = evaluate_model(model, colours)
        assert (record["rank1"], record["mean_ap"]) == (result.rank1, result.mean_ap)
        assert record["intervals"]["mean_ap"] == list(result.interval("mean_ap", over="identities"))
        assert record["model"] == f"first/{name}.pt" and record["seeds"] == [0] and record["box"] == "as given"
    check_comparable(list(scores.values()))


def test_the_page_needs_no_other_file_and_no_script(trained):
    page = Page(trained[0] / "report.html")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(", page.source)
    outside = [v for _, name, v in page.attributes if name in ("src", "href") and not v.startswith(("data:", "#"))]
    assert outside == []
    marks = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= marks
    for source in page.pictures():
        kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups()
        assert Image.open(io.BytesIO(base64.b64decode(content))).format.lower() == kind
    assert 100_000 < len(page.source) < 2_000_000


def test_the_page_says_what_there_is_to_say(trained, colours):
    folder, scores = trained
    page = Page(folder / "report.html")
    assert "Run first: colours, as given boxes, halves protocol" in page.text
    for record in scores.values():
        low, high = record["intervals"]["mean_ap"]
        assert f"{record['mean_ap']:.1%} ({100 * low:.1f} to {100 * high:.1f})" in page.text.replace("\xa0", " ")
    for said in (
        "market rule, cosine distance, the query's own camera left out",
        "AP formula: step",
        "one run with one seed (0)",
        "mAP on 2 held-out training identities",
        "changed; the preset laptop has 250",
        "taken 3 times",
        json.loads((folder / "config.json").read_text())["data"]["fingerprint"],
    ):
        assert said in page.text, said
    assert "Not all is there" not in page.text
    shown = " ".join(page.alternatives())
    for figure in (
        "training, iterations 2 to 4",
        "scores on 2 held-out people",
        "matching curves",
        "average precision",
    ):
        assert f"Figure: {figure}" in shown
    assert len(page.alternatives()) == len(page.pictures()) and all(page.alternatives())


def test_all_settings_are_there_as_the_command_line_takes_them(trained):
    page = Page(trained[0] / "report.html")
    for name, value in (
        ("model", "baseline"),
        ("num_stripes", "0"),
        ("flip", "false"),
        ("weights", "none"),
        ("evaluate_every", "2"),
    ):
        assert f'<th scope="row">{name}</th><td>{value}</td>' in page.source
    config = json.loads((trained[0] / "config.json").read_text())["config"]
    assert all(f'<th scope="row">{name}</th>' in page.source for name in flat_settings(config))


def test_each_image_is_embedded_once_and_equal_weights_only_for_one_checkpoint(run, colours, monkeypatch):
    looked_at = []
    usual = report.extract_features
    monkeypatch.setattr(report, "extract_features", lambda m, r, **k: looked_at.append(len(r)) or usual(m, r, **k))
    finish_run(run, colours)
    assert looked_at in ([6, 18], [6, 18, 6, 18])
    looked_at.clear()
    shutil.copy(run / "last.pt", run / "best.pt")
    scores = finish_run(run, colours)
    assert looked_at == [6, 18]
    assert scores["last"]["mean_ap"] == scores["best"]["mean_ap"]
    assert "best.pt and last.pt hold the same weights" in Page(run / "report.html").text


def test_of_several_processes_one_reads_and_writes_and_all_have_the_scores(run, colours, tmp_path):
    (run / "scores.json").unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    environments = [{**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"} for rank in "01"]
    started = [Forked(as_one_of_several, run, tmp_path, env=one) for one in environments]
    try:
        said = [process.communicate(timeout=200)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    together = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert together[0]["error"] == together[1]["error"] == f"{tmp_path}/nothing: no such run folder"
    assert (run / "scores.json").is_file() and not (tmp_path / "elsewhere").exists()
    alone = finish_run(run, colours)
    for found in together:
        for name, scores in found["scores"].items():
            assert scores["mean_ap"] == pytest.approx(alone[name]["mean_ap"], abs=1e-6)
            assert scores["intervals"]["rank1"] == pytest.approx(alone[name]["intervals"]["rank1"], abs=1e-6)
    assert list(together[1]["scores"]) == ["last", "best"]


def test_a_run_that_has_not_ended_has_a_page_that_says_so(run, colours):
    for name in ("scores.json", "best.pt", "last.pt", "report.html"):
        (run / name).unlink()
    first = (run / "metrics.jsonl").read_text().splitlines()[1]
    assert json.loads(first)["kind"] == "train"
    (run / "metrics.jsonl").write_text(f'{first}\n{{"kind": "tra')
    page = Page(write_report(run, colours))
    for said in (
        "There is no scores.json",
        "at iteration 2 of 4",
        "There are no scores during training",
        "last.pt: no such checkpoint",
        "There are none: no checkpoint was evaluated",
    ):
        assert said in page.text, said
    assert not (run / "scores.json").exists()
    (run / "metrics.jsonl").unlink()
    page = Page(write_report(run, colours))
    assert "There are no rows about the loss" in page.text and page.pictures() == []
    (run / "config.json").write_text('{"config": {}, "data": {}}')
    assert "at an unknown time" in Page(write_report(run, colours)).text


def test_a_damaged_checkpoint_is_said_on_the_page_and_is_an_error_of_the_scores(run, colours):
    (run / "last.pt").write_bytes(b"half a file")
    page = Page(write_report(run, colours))
    assert "last.pt was not evaluated" in page.text and "cannot be read as a file of tensors" in page.text
    assert "best.pt" in page.text and len(page.pictures()) > 3
    before = (run / "scores.json").read_bytes()
    with pytest.raises(DataError, match=r"last\.pt: cannot be read"):
        finish_run(run, colours)
    assert (run / "scores.json").read_bytes() == before


def test_without_best_the_page_says_that_nothing_was_chosen(run, colours):
    (run / "best.pt").unlink()
    rows = (run / "metrics.jsonl").read_text().replace('"held-out"', '"seen"')
    (run / "metrics.jsonl").write_text(rows)
    assert list(finish_run(run, colours)) == ["last"]
    text = Page(run / "report.html").text
    assert "nothing was chosen" in text and "identities that it was trained on: they show faults, not success" in text


def test_scores_that_are_not_those_of_the_checkpoints_are_found(run, colours):
    scores = json.loads((run / "scores.json").read_text())
    scores["last"]["mean_ap"] -= 0.01
    (run / "scores.json").write_text(json.dumps(scores))
    assert "scores.json says something else" in Page(write_report(run, colours)).text


def test_other_data_is_named(run, colours):
    text = Page(write_report(run, replace(colours, protocol="thirds"))).text
    assert "Trained on protocol halves, scored on colours, as given boxes, thirds protocol" in text
    text = Page(write_report(run, replace(colours, train=colours.train[:-1]))).text
    assert "and other training images" in text
    nobody = replace(colours, query=[])
    assert "records is empty" in Page(write_report(run, nobody)).text


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("config.json", None, FileNotFoundError, "config.json: no such file; is .* a run folder"),
        ("config.json", "{", DataError, "config.json: damaged, or not JSON"),
        ("config.json", "[]", DataError, "got JSON without config and data"),
    ],
)
def test_a_folder_without_a_readable_configuration_is_no_run(run, colours, name, content, error, message):
    (run / name).unlink()
    if content:
        (run / name).write_text(content)
    for function in (write_report, finish_run):
        with pytest.raises(error, match=message):
            function(run, colours)
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(run / "deeper", colours)


def test_texts_from_files_are_shown_and_not_obeyed(run, colours):
    content = json.loads((run / "config.json").read_text())
    evil = '"><script>alert(1)</script>&amp;'
    content |= {"command": evil, "preset": evil, "hardware": evil, "versions": {evil: evil}, "date": evil}
    content["data"] |= {"title": evil, "fingerprint": evil}
    content["config"] |= {"model": evil, evil: evil}
    (run / "config.json").write_text(json.dumps(content))
    page = Page(write_report(run.rename(run.with_name("a & b")), colours))
    assert "script" not in page.tags and page.text.count(evil) >= 8 and "Run a & b: " in page.text


def test_rows_that_were_written_twice_count_once(run):
    rows = [{"kind": "train", "iteration": i, "triplet": t} for i, t in ((2, 0.9), (4, 0.8), (2, 0.7), (4, 0.6))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["triplet"] for row in read_run(run).rows] == [0.7, 0.6]


def test_a_failed_write_leaves_the_old_page(run, colours, monkeypatch):
    before = (run / "report.html").read_bytes()

    def fail(*_, **__):
        raise OSError(28, "disk full")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_report(run, colours)
    assert (run / "report.html").read_bytes() == before and not list(run.glob(".report*"))


def test_attention_is_shown_where_the_model_has_it(colours, tmp_path, quick):
    config = TrainConfig().replace(**SETTINGS, model="rga", backbone="small", gate_init="half")
    train(config, colours, run=RunFolder(tmp_path / "rga"))
    finish_run(tmp_path / "rga", colours)
    page = Page(tmp_path / "rga" / "report.html")
    assert (
        "No scores were taken during training: evaluate_every is 0" in page.text and "Not all is there" not in page.text
    )
    (gates,) = [text for text in page.alternatives() if "gates of their places" in text]
    assert "stage 1:" in gates and "stage 3:" in gates and "Channel gates" in page.text


def test_extremes_are_different_people_and_in_order():
    values, pids = np.array([0.5, 0.1, 0.2, 1.0, np.nan, 0.9, 1.0]), np.array([1, 2, 2, 3, 4, 5, 6])
    assert extremes(values, pids) == ([1, 0, 5], [3, 6])
    many = np.linspace(0, 1, 30)
    assert extremes(many, np.arange(30)) == ([0, 1, 2, 3], [29, 28, 27, 26])
    assert extremes(np.array([0.3]), np.array([7])) == ([0], [])


def as_one_of_several(run, out):
    """What each process of the test above does: the second one has another folder, in which there is nothing."""
    records = [[Record(f"{p}_{i}", p, 1 + i % 2, Colours()) for i in range(4)] for p in range(10, 22)]
    train_part, rest = ([r for person in part for r in person] for part in (records[:6], records[6:]))
    query, gallery = rest[::4], [record for index, record in enumerate(rest) if index % 4]
    data = Splits("colours", "as given", "halves", train_part, query, gallery)
    report.QUERIES = report.RESULTS = 1
    with process_group("cpu", timeout_seconds=60) as processes:
        found = {"scores": finish_run(run if processes.is_first else out / "elsewhere", data, processes=processes)}
        try:
            finish_run(out / "nothing", data, processes=processes)
        except FileNotFoundError as error:
            found["error"] = str(error).partition(";")[0]
    (out / f"{processes.rank}.json").write_text(json.dumps(found))
