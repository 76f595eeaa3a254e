import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from charter.config import FinetuneConfig, LoraConfig
from charter.console import Silent
from charter.constitution import Constitution, Principle
from charter.encoding import Encoder
from charter.errors import GuardError, RunError
from charter.learning.lesson import Places
from charter.learning.pupil import Pupil
from charter.records import Demonstration, Provenance, assistant, system, user
from charter.supervised.finetune import finetune

WORDS = ["may", "i", "have", "my", "order", "number", "yes", "no", "please", "thanks", "you", "see"]
CONTROL = ["<pad>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant", "\n", "<unk>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RULES = Constitution(
    name="support", principles=(Principle(id="ids", rule="Never ask for an SSN."),)
)
SECTION = FinetuneConfig(
    epochs=4, tokens_per_batch=256, lr=1e-2, validate_every=4, checkpoint_every_s=0.0
)


def new_tokenizer():
    vocabulary = {token: number for number, token in enumerate(CONTROL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )


def new_pupil(dtype=torch.float32, *, template=CHATML):
    tokenizer = new_tokenizer()
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    encoder = Encoder.of(tokenizer, eos_ids=None, template="chatml")
    return Pupil(
        source="starter",
        model=LlamaForCausalLM(config).to(dtype),
        tokenizer=tokenizer,
        encoder=encoder,
        fingerprint="tiny",
        context=config.max_position_embeddings,
    )


def demonstration(number, *, answer="no thanks", **changes):
    asked = " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 4 + number % 5))
    fields = {
        "id": f"demo-{number}",
        "prompt": (user(asked),),
        "completion": (assistant(answer),),
        "provenance": Provenance(
            prompt_id=f"prompt-{number}",
            kind="harmful",
            round=1,
            principle_ids=("ids",),
            seed=0,
            model="m",
            constitution=RULES.hash,
        ),
    }
    return Demonstration(**(fields | changes))


@pytest.fixture
def tune(tmp_path):
    """Fine-tunes a fresh pupil into a directory of this name."""

    def tune(name="run", *, pupil=None, section=SECTION, **changes):
        directory = tmp_path / name
        places = Places(
            out=directory / "models" / "sft",
            checkpoints=directory / "checkpoints",
            metrics=directory / "metrics" / "finetune.jsonl",
        )
        options = {
            "demonstrations": [demonstration(number) for number in range(24)],
            "validation": [demonstration(number) for number in range(30, 36)],
            "constitution": RULES,
            "seed": 1,
            "progress": Silent(),
        } | changes
        result = finetune(
            options.pop("demonstrations"),
            section=section,
            pupil=pupil or new_pupil(),
            places=places,
            **options,
        )
        return result, directory

    return tune


def files(directory):
    return {path.name for path in directory.iterdir()}


def test_the_model_learns_to_answer_as_shown_and_to_stop(tune):
    result, directory = tune(section=SECTION.model_copy(update={"epochs": 20}))
    out = directory / "models" / "sft"
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "may i see you"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = model.generate(**prompt, do_sample=False, max_new_tokens=8)
    answer = said[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.convert_ids_to_tokens(answer) == ["no", "thanks", "<|im_end|>"]
    assert result.validation_loss < result.validation_before


def test_the_result_is_a_whole_hugging_face_directory_with_its_card(tune):
    result, directory = tune()
    out = directory / "models" / "sft"
    assert files(out) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    card = (out / "README.md").read_text()
    for part in (
        'base_model: "starter"',
        "support, version 1",
        RULES.hash,
        "| Demonstrations | 24 |",
        f"step {result.best_step}",
        f"{result.validation_loss:.4f} nats",
    ):
        assert part in card
    assert files(directory / "metrics") == {"finetune.jsonl", "finetune.svg"}
    assert not (directory / "checkpoints").exists()


@pytest.mark.parametrize("template", [CHATML, None], ids=["own", "fallback"])
def test_the_saved_model_encodes_as_it_was_taught(tune, template):
    pupil = new_pupil(template=template)
    _, directory = tune(pupil=pupil)
    out = directory / "models" / "sft"
    stops = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    again = Encoder.of(AutoTokenizer.from_pretrained(out), eos_ids=stops)
    assert again.fingerprint == pupil.encoder.fingerprint


def test_a_finished_result_is_read_and_not_made_again(tune):
    result, directory = tune()
    before = (directory / "models" / "sft" / "model.safetensors").stat().st_mtime_ns
    again, _ = tune(demonstrations=[])
    assert again == result
    assert (directory / "models" / "sft" / "model.safetensors").stat().st_mtime_ns == before


def test_the_same_run_gives_the_same_bytes(tune):
    _, first = tune("a")
    _, second = tune("b")
    for name in files(first / "models" / "sft"):
        one, other = (run / "models" / "sft" / name for run in (first, second))
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_saved_as_they_were_loaded(tune, dtype):
    _, directory = tune(pupil=new_pupil(dtype))
    saved = load_file(directory / "models" / "sft" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {dtype}


def test_lora_leaves_an_adapter_and_whole_weights_that_say_the_same(tune):
    section = SECTION.model_copy(update={"lora": LoraConfig(rank=2)})
    result, directory = tune(section=section)
    out = directory / "models" / "sft"
    assert files(out / "adapter") == {"adapter_config.json", "adapter_model.safetensors"}
    assert 0 < result.trained_parameters < result.parameters
    peft = pytest.importorskip("peft")
    ids = torch.tensor([[1, 4, 9, 10]])
    base = new_pupil().model.eval()(ids).logits
    adapted = peft.PeftModel.from_pretrained(new_pupil().model, out / "adapter").eval()(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-5)
    assert not torch.allclose(base, merged, atol=1e-2)


def test_what_is_too_long_is_left_out_and_named(tune, caplog):
    long = demonstration(99, answer=" ".join(["no"] * 60))
    section = SECTION.model_copy(update={"max_length": 40})
    demonstrations = [*(demonstration(number) for number in range(10)), long]
    with caplog.at_level(logging.WARNING):
        result, _ = tune(section=section, demonstrations=demonstrations)
    assert result.too_long == ("demo-99",)
    assert result.examples == 10
    assert "1 of 11 demonstrations are longer than 40 tokens" in caplog.text


def test_nothing_longer_than_the_models_context_is_read(tune, caplog):
    pupil = replace(new_pupil(), context=40)
    long = demonstration(99, answer=" ".join(["no"] * 60))
    with caplog.at_level(logging.WARNING):
        result, directory = tune(pupil=pupil, demonstrations=[demonstration(1), long])
    assert result.too_long == ("demo-99",)
    assert "longer than 40 tokens and left out (the model's context)" in caplog.text
    assert "longer than 40 tokens" in (directory / "models" / "sft" / "README.md").read_text()


def test_without_a_known_context_only_the_setting_counts(tune):
    long = demonstration(99, answer=" ".join(["no"] * 60))
    result, _ = tune(pupil=replace(new_pupil(), context=None), demonstrations=[long])
    assert result.too_long == ()


def test_nothing_left_to_train_on_stops(tune):
    with pytest.raises(GuardError, match=r"finetune.max_length"):
        tune(section=SECTION.model_copy(update={"max_length": 5}))


def test_two_demonstrations_of_one_id_stop(tune):
    with pytest.raises(RunError, match="id demo-1"):
        tune(demonstrations=[demonstration(1), demonstration(1)])


class Listening:
    """An encoder's ears: notes the dialogues it is given."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.heard = []

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def example(self, dialogue, response):
        self.heard.append(dialogue)
        return self.encoder.example(dialogue, response)


def test_a_system_turn_goes_before_prompts_that_have_none(tune):
    pupil = new_pupil()
    ears = Listening(pupil.encoder)
    own = demonstration(2, prompt=(system("no"), user("may i")))
    tune(
        pupil=replace(pupil, encoder=ears),
        section=SECTION.model_copy(update={"system": "see"}),
        demonstrations=[demonstration(1), own],
        validation=[demonstration(3)],
    )
    assert [heard[0].content for heard in ears.heard] == ["see", "no", "see"]


def test_the_automatic_learning_rate_goes_by_the_models_size(tune):
    plain, _ = tune("plain", section=SECTION.model_copy(update={"lr": "auto", "epochs": 1}))
    lora = {"lr": "auto", "epochs": 1, "lora": LoraConfig()}
    adapted, _ = tune("lora", section=SECTION.model_copy(update=lora))
    assert plain.lr == adapted.lr == 1e-3  # both at their ceiling: the pupil is tiny
