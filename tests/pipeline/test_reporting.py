import pytest

from charter.console import Silent
from charter.errors import RunError
from charter.pipeline import Request, run_pipeline
from charter.pipeline.reporting import write_report


def test_every_run_ends_with_a_page_of_what_there_is(project, tmp_path):
    folder = tmp_path / "run"
    outcome = run_pipeline(Request(config=project, run=folder, until="revise"), progress=Silent())
    early = (folder / "report.html").read_text()
    assert "report.html" in dict(outcome.files)
    assert "Not evaluated yet" in early
    run_pipeline(Request(config=project, run=folder), progress=Silent())
    whole = (folder / "report.html").read_text()
    assert "sft breaks a rule in" in whole
    assert 'id="finetuning"' in whole


def test_the_page_can_be_written_anew(project, tmp_path):
    folder = tmp_path / "run"
    run_pipeline(Request(config=project, run=folder, until="revise"), progress=Silent())
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert write_report(folder).read_bytes() == first


def test_no_page_is_written_where_there_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no run there"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
