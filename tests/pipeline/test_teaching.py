from charter.config import ModelSource
from charter.models.loading import load
from charter.pipeline.teaching import pupil_of


def test_a_process_alone_says_that_it_has_nobody_to_spread_a_model_over(tiny_model, caplog):
    loaded = load(ModelSource(source=str(tiny_model)))
    assert pupil_of(loaded, shard=True).model is loaded.model
    assert "changes nothing in a process alone" in caplog.text
    caplog.clear()
    pupil_of(loaded)
    assert caplog.text == ""
