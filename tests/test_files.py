import json

import pytest

from reidlab.files import atomic_path, check_writable, write_json
from reidlab.progress import progress


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_temporary_file_keeps_the_suffix_and_the_folder_is_made(tmp_path):
    with atomic_path(tmp_path / "new" / "a.tar.gz") as temporary:
        assert temporary.suffix == ".gz"
    assert (tmp_path / "new" / "a.tar.gz").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IsADirectoryError, match="is a folder, expected a file name"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match=r"file/a\.json: cannot be written .*choose another folder"):
        write_json(tmp_path / "file" / "a.json", {})


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"rank1": float("nan")})
    assert list(tmp_path.iterdir()) == []
    assert json.loads(write_json(tmp_path / "b.json", {"ø": 1}).read_text(encoding="utf-8")) == {"ø": 1}


def test_progress_is_silent_in_a_batch_run(capsys):
    assert list(progress(iter("ab"), "letters", total=2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
