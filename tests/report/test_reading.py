import json

import pytest

from charter.errors import RunError
from charter.report.reading import read_run


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RunError, match="no run there"):
        read_run(tmp_path)


def test_keys_that_the_page_does_not_know_are_left_alone(run):
    path = run / "metrics" / "reward.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"younger": [1, {"a": 2}]}))
    assert read_run(run).reward.auc == 0.962


def test_a_line_that_cannot_be_read_is_named(run):
    path = run / "data" / "answers.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{}", *lines[2:]]))
    with pytest.raises(RunError, match=r"answers.jsonl:2: cannot be read for the report: `id`"):
        read_run(run)


def test_a_figure_that_is_no_number_is_named_with_its_key(run):
    (run / "metrics" / "reward.json").write_text('{"accuracy": {"rate": "high"}}')
    with pytest.raises(RunError, match=r"reward.json: .*`accuracy.rate`.*Delete the file"):
        read_run(run)


def test_the_page_is_graded_by_the_constitution_that_grades(run):
    assert read_run(run).graded == read_run(run).constitution
    other = (run / "constitution.yaml").read_text().replace("name: shop", "name: audit")
    (run / "evaluate.constitution.yaml").write_text(other)
    found = read_run(run)
    assert (found.constitution.name, found.graded.name) == ("shop", "audit")
