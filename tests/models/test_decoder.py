import pytest
import torch

from charter.models import decoder
from charter.models.attention import Chunk, Group, Step, padded
from charter.models.network import Network, Pass
from charter.models.slots import Slots
from tests.models.conftest import PACKED, make_family

KIN = ["llama", "mistral", "qwen2", "qwen3"]
LENGTHS = (19, 5)


@pytest.fixture(params=KIN)
def model(request, tokenizer):
    return make_family(request.param, tokenizer).model


@torch.inference_mode()
def logits(network, keep):
    """Of a step with two conversations, one behind the other."""
    ends = (0, LENGTHS[0], sum(LENGTHS))
    ids = torch.arange(ends[2]) * 7 % 90
    at = torch.tensor([place for length in LENGTHS for place in range(length)])
    parts = [
        Chunk(rows=slice(*ends[slot : slot + 2]), keys=slice(0, padded(length)), source=slot)
        for slot, length in enumerate(LENGTHS)
    ]
    group = Group(rows=slice(0, ends[2]), parts=parts, shared=0)
    owners = torch.tensor([slot for slot, length in enumerate(LENGTHS) for _ in range(length)])
    step = Step(Slots(2), [group], positions=at, slot=owners, place=at)
    return network.run(Pass(ids, at, step, keep))


def without_decoder(network):
    network._decoder = None
    return network


@pytest.mark.parametrize("name", PACKED)
def test_llama_and_its_kin_have_a_decoder(name, tokenizer):
    network = Network(make_family(name, tokenizer).model)
    if not network._products.used:
        pytest.skip("oneDNN is not used on this machine")
    assert (network._decoder is not None) == (name in KIN)


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("keep", [[], [3], [18, 23], list(range(24))], ids=len)
def test_a_decoder_computes_the_bits_of_transformers(model, monkeypatch, room, keep):
    monkeypatch.setattr(decoder, "has_room", lambda _: room)
    ours = logits(Network(model), keep)
    assert torch.equal(ours, logits(without_decoder(Network(model)), keep))
    assert ours.shape == (len(keep), model.config.vocab_size)


def test_hooks_are_called(model):
    network, called = Network(model), []
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: called.append(1))
    logits(network, [0])
    hook.remove()
    logits(network, [0])
    assert called == [1]


def test_changed_weights_count_once_it_is_said(model):
    network = Network(model)
    before = logits(network, [0])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(2)
    network.weights_changed()
    after = logits(network, [0])
    assert not torch.equal(after, before)
    assert torch.equal(after, logits(without_decoder(Network(model)), [0]))


@pytest.mark.parametrize("late", [True, False])
def test_a_model_with_adapters_is_run_as_it_is(model, late):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    network = Network(model)
    before = logits(network, [18])
    config = peft.LoraConfig(target_modules=["v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    network = network if late else Network(model)
    assert not torch.allclose(logits(network, [18]), before)
    with adapted.disable_adapter():
        assert torch.equal(logits(network, [18]), before)


def test_a_window_that_the_model_does_not_know_is_none(tokenizer):
    model = make_family("llama", tokenizer).model
    model.config.sliding_window = 16
    ours = logits(Network(model), [18])
    assert torch.equal(ours, logits(without_decoder(Network(model)), [18]))


@torch.inference_mode()
def test_angles_are_kept_and_made_further(tokenizer):
    model = make_family("llama", tokenizer).model
    made = decoder.Decoder(model)
    states, rotary = torch.zeros(1, model.config.hidden_size), model.model.rotary_emb
    for last in (3, 700, 255, 256):
        at = torch.tensor([0, last])
        cos, sin = made._angles(states, at)
        expected = decoder._signed(*rotary(states, at[None]))
        assert torch.equal(cos, expected[0])
        assert torch.equal(sin, expected[1])
