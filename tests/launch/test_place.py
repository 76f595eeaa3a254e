import pytest

from charter.errors import ConfigError
from charter.launch import from_main, is_follower, is_launched, joined, refuse_shards, share

TOLD = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*TOLD, "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch, **changes):
    for name, value in (TOLD | changes).items():
        monkeypatch.setenv(name, value)


def test_a_process_without_a_launcher_leads_itself():
    assert (is_launched(), is_follower()) == (False, False)


def test_of_several_processes_the_first_leads(monkeypatch):
    told(monkeypatch)
    assert (is_launched(), is_follower()) == (True, True)
    told(monkeypatch, RANK="0")
    assert (is_launched(), is_follower()) == (True, False)


def test_the_only_process_of_a_launcher_is_as_without_one(monkeypatch):
    told(monkeypatch, RANK="0", WORLD_SIZE="1")
    assert not is_launched()


def test_a_process_alone_makes_and_keeps_everything():
    items = [3, 1, 2]
    assert share(items) is items
    assert joined(items) is items
    assert from_main(lambda: "made") == "made"


def test_shards_are_refused_where_a_stage_trains(monkeypatch):
    refuse_shards({"finetune"})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refuse_shards(())
    with pytest.raises(ConfigError, match=r"finetune\.shard.*reinforce cannot"):
        refuse_shards({"finetune"})
