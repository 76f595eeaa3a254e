from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from charter.config import Config
from charter.errors import LockedError, RunError
from charter.run import RunDirectory, Tally

HASHES = {"constitution": "c1", "prompts.train": "t1", "prompts.heldout": "h1"}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "rules.yaml").write_text("- Be kind.  # a comment\n")
    return tmp_path


def config(project: Path, **changes: object) -> Config:
    given = {
        "constitution": project / "rules.yaml",
        "prompts": {"train": project / "train.jsonl", "heldout": project / "heldout.jsonl"},
    }
    return Config.model_validate({**given, **changes})


def opened(project: Path, hashes: dict[str, str] = HASHES, **changes: object) -> RunDirectory:
    return RunDirectory.open(project / "run", config=config(project, **changes), hashes=hashes)


def test_a_new_run_writes_down_what_it_is_made_from(project):
    with opened(project, seed=5) as run:
        assert run.data == project / "run" / "data"
        assert run.journal == project / "run" / "journal.sqlite"
    manifest = json.loads((project / "run" / "manifest.json").read_text())
    assert set(manifest) == {"versions", "hashes", "seed", "stages"}
    assert set(manifest["versions"]) == {"charter", "python", "torch", "transformers"}
    assert (manifest["hashes"], manifest["seed"], manifest["stages"]) == (HASHES, 5, {})
    copy = (project / "run" / "constitution.yaml").read_text()
    assert copy == "- Be kind.  # a comment\n"
    written = YAML(typ="safe").load(project / "run" / "config.yaml")
    assert Config.model_validate(written) == config(project, seed=5)
    assert next(iter(written)) == "seed"


def test_finished_stages_are_remembered(project):
    tally = Tally(entered=2, done=2, calls=4)
    with opened(project) as run:
        assert not run.stage_done("revise")
        run.record_stage("revise", tally)
        assert run.stage_done("revise")
    with opened(project) as run:
        assert run.stage_done("revise")
        assert run.manifest.stages == {"revise": tally}
        assert not run.stage_done("finetune")


def test_a_changed_config_is_refused_with_the_difference(project):
    opened(project).close()
    with pytest.raises(RunError) as caught:
        opened(project, finetune={"epochs": 5}, revise={"rounds": 1})
    message = str(caught.value)
    assert "finetune.epochs: 3.0 -> 5.0\n" in message
    assert "revise.rounds: 2 -> 1\n" in message
    assert f"--run NEW. With --reuse {project / 'run'}" in message
    opened(project).close()


def test_a_changed_input_is_refused(project):
    opened(project).close()
    with pytest.raises(RunError, match='content of constitution: "c1" -> "c2"'):
        opened(project, hashes={**HASHES, "constitution": "c2"})


def test_what_changes_no_result_may_change(project):
    opened(project).close()
    with opened(project, revise={"max_failed": 0.5}, finetune={"checkpoint_every_s": 1}):
        written = YAML(typ="safe").load(project / "run" / "config.yaml")
    assert written["revise"]["max_failed"] == 0.5


def test_other_versions_are_said_and_go_on(project, caplog):
    opened(project).close()
    path = project / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    opened(project).close()
    assert 'torch: "1.0" -> ' in caplog.text


def test_files_of_somebody_else_are_left_alone(project):
    (project / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(RunError, match=r"holds other files \(rules\.yaml\) and is no run direct"):
        RunDirectory.open(project, config=config(project), hashes=HASHES)
    assert (project / "config.yaml").read_text() == "mine: 1\n"


def test_a_beginning_that_was_cut_off_begins_again(project):
    opened(project, seed=1).close()
    (project / "run" / "config.yaml").unlink()
    with opened(project, seed=2) as run:
        assert run.manifest.seed == 2


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(project):
    opened(project).close()
    (project / "run" / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"(?s)cannot read .*manifest\.json.*Begin another run"):
        opened(project)


def test_a_config_of_another_version_is_an_error_that_says_what_to_do(project):
    opened(project).close()
    with (project / "run" / "config.yaml").open("a") as file:
        file.write("younger: 1\n")
    with pytest.raises(
        RunError, match=r"(?s)cannot read .*config\.yaml.*written by another version"
    ):
        opened(project)


def test_a_file_in_the_place_of_the_directory_is_an_error(project):
    (project / "run").write_text("x")
    with pytest.raises(RunError, match="cannot make the run directory"):
        opened(project)


def test_a_run_refused_is_not_left_locked(project):
    opened(project).close()
    with pytest.raises(RunError):
        opened(project, seed=9)
    opened(project).close()


HOLDS_THE_LOCK = """
import json, sys, time
from pathlib import Path
from charter.config import Config
from charter.run import RunDirectory

config = Config.model_validate_json(sys.argv[2])
run = RunDirectory.open(Path(sys.argv[1]), config=config, hashes=json.loads(sys.argv[3]))
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_told_who_works_there_until_that_one_dies(project):
    command = [sys.executable, "-c", HOLDS_THE_LOCK, project / "run"]
    command += [config(project).model_dump_json(), json.dumps(HASHES)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match=rf"in use by process {process.pid}\. Wait"):
            opened(project)
        with pytest.raises(LockedError, match=f"process {process.pid}"):
            opened(project)
        os.kill(process.pid, signal.SIGKILL)
    opened(project).close()
