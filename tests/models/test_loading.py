import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from charter.config import STARTER, ModelSource
from charter.errors import BackendError, EncodingError, RunError
from charter.models.loading import control_tokens, fingerprint, load


@pytest.fixture
def directory(model_dir, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(model_dir, tmp_path / "model")


def load_from(directory, **settings):
    return load(ModelSource(source=str(directory), **settings))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory, edit):
    path = directory / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def test_a_directory_is_loaded_with_all_that_belongs_to_it(model_dir, loaded):
    again = load_from(model_dir)
    assert again.name == str(model_dir)
    assert again.context == 256
    assert again.encoder.fingerprint == loaded.encoder.fingerprint
    assert not again.model.training
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_weights_stored_in_half_precision_are_loaded_in_full(directory):
    edit_weights(directory, lambda weights: {name: w.half() for name, w in weights.items()})
    edit_json(directory / "config.json", dtype="float16")
    assert load_from(directory).model.dtype == torch.float32
    assert load_from(directory, dtype="bfloat16").model.dtype == torch.bfloat16


def test_the_fingerprint_is_that_of_the_content(model_dir, directory, loaded):
    known = load_from(model_dir).fingerprint
    assert load_from(directory).fingerprint == known
    assert fingerprint(loaded.model, encoder=loaded.encoder) == known


@pytest.mark.parametrize("spoil", ["weights", "config", "template", "dtype"])
def test_the_fingerprint_changes_with_whatever_shapes_an_answer(directory, spoil):
    before = load_from(directory).fingerprint
    settings = {}
    match spoil:
        case "weights":
            edit_weights(directory, lambda weights: {n: w * 1.001 for n, w in weights.items()})
        case "config":
            edit_json(directory / "config.json", rms_norm_eps=1e-5)
        case "template":
            template = directory / "chat_template.jinja"
            template.write_text("{{ ' ' }}" + template.read_text())
        case "dtype":
            settings = {"dtype": "bfloat16"}
    assert load_from(directory, **settings).fingerprint != before


def test_weights_without_dimensions_are_part_of_the_fingerprint(model_dir):
    again = load_from(model_dir)
    known = {again.fingerprint}
    for scale in (1.0, 2.0):
        again.model.register_buffer("scale", torch.tensor(scale))
        known.add(fingerprint(again.model, encoder=again.encoder))
    assert len(known) == 3


def test_the_fingerprint_is_taken_before_the_weights_move(model_dir, monkeypatch):
    known = load_from(model_dir).fingerprint
    monkeypatch.setattr(
        LlamaForCausalLM, "to", lambda model, device: torch.nn.Module.to(model.half(), device)
    )
    again = load_from(model_dir)
    assert again.model.dtype == torch.float16
    assert again.fingerprint == known


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("step", ["from_pretrained", "to"])
def test_out_of_memory_while_loading_says_what_to_do(model_dir, monkeypatch, error, step):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(LlamaForCausalLM, step, fails)
    with pytest.raises(RunError, match=r"out of memory while loading .* `dtype: bfloat16`"):
        load_from(model_dir)


def test_another_failure_than_memory_keeps_its_name(model_dir, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(LlamaForCausalLM, "to", fails)
    with pytest.raises(RuntimeError, match="no kernel image"):
        load_from(model_dir)


def test_control_tokens_are_known_without_the_weights(directory):
    (directory / "model.safetensors").unlink()
    tokens = control_tokens(ModelSource(source=str(directory)))
    assert tokens == {"<|end|>", "<|system|>", "<|user|>", "<|assistant|>"}
    assert control_tokens(ModelSource(source="scripted:none.yaml")) == frozenset()
    assert "<|end|>" in control_tokens(ModelSource(source=STARTER))


def test_a_missing_tokenizer_is_an_error_that_names_the_model(tmp_path):
    with pytest.raises(BackendError, match="cannot be loaded"):
        control_tokens(ModelSource(source=str(tmp_path)))


def test_a_missing_directory_is_told_from_a_hub_id(tmp_path):
    with pytest.raises(BackendError, match="no such directory"):
        load_from(tmp_path / "nowhere")


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match=r"org/none cannot be loaded: .* name the directory"):
        load_from("org/none")


def test_what_was_fetched_once_is_loaded_without_the_hub(model_dir, tmp_path, monkeypatch):
    cached = tmp_path / "models--org--tiny"
    shutil.copytree(model_dir, cached / "snapshots" / "c0ffee")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load_from("org/tiny").fingerprint == load_from(model_dir).fingerprint


def test_pickled_weights_are_refused(directory):
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    with pytest.raises(BackendError, match=r"weights as \*\.safetensors"):
        load_from(directory)


def test_code_that_comes_with_a_model_is_not_run(directory):
    (directory / "evil.py").write_text("raise SystemExit('it ran')")
    edit_json(
        directory / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    with pytest.raises(BackendError, match="without remote code"):
        load_from(directory)


def test_broken_weights_are_an_error(directory):
    (directory / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_from(directory)


def test_weights_with_gaps_are_not_filled_with_random_numbers(directory):
    edit_weights(
        directory, lambda weights: {n: w for n, w in weights.items() if "layers.1." not in n}
    )
    with pytest.raises(BackendError, match=r"9 weights are missing, model\.layers\.1\."):
        load_from(directory)


def test_a_tokenizer_that_knows_more_than_the_model_is_an_error(directory):
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"extra{number}": 200 + number for number in range(9)}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BackendError, match="Resize the model's embeddings"):
        load_from(directory)


def test_a_tokenizer_without_template_is_an_error_unless_one_is_named(directory):
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(EncodingError, match="template: chatml"):
        load_from(directory)
