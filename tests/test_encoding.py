import dataclasses
from collections import Counter

import pytest
from encoding_templates import (
    ALL,
    CHATML,
    DATED,
    DROPS_THOUGHT,
    LLAMA2,
    LLAMA3,
    PARTS,
    TRL,
    adds_bos,
    byte_level,
    encoder_of,
    sentencepiece_like,
    stops,
    tokenizer_of,
    wrapped,
)
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from charter.encoding import Encoder
from charter.errors import EncodingError
from charter.records import Message, assistant, system, user

BYTE_LEVEL = ("chatml", "llama3-like", "smolvlm", "glm4moe", "gptoss", "phi3")
RESPONSE = "Yes, I can.\n\nHere it is: 1 + 1 = 2."
DIALOGUES = (
    (user("Hello there"),),
    (system("Be good.\nBe brief."), user("Hello there")),
    (user("Hello"), assistant("Yes?"), user("can you help me?")),
    (
        system("Be good."),
        user("Hello"),
        assistant("Yes?"),
        user("help"),
        assistant("How?"),
        user("!"),
    ),
)

# Surrogates are no characters; the last two are the ones that encoding reserves for itself.
anything = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\U0010fffe\U0010ffff")
)
innocuous = st.text("abcHel lo?.\n\té漢😀1", max_size=12)


def dialogue_of(contents):
    """A dialogue that alternates and ends with the user, made of these texts."""
    turns = [user(text) if i % 2 == 0 else assistant(text) for i, text in enumerate(contents)]
    return tuple(turns if len(turns) % 2 else turns[:-1])


dialogues = st.builds(
    lambda rules, contents: ((system(rules),) if rules is not None else ()) + dialogue_of(contents),
    st.none() | innocuous,
    st.lists(innocuous, min_size=1, max_size=4),
)


def plain(tokenizer, template, dialogue, *, parts=False, generation=True):
    """The ids that any server makes of a dialogue: rendered, then tokenized as one text."""
    messages = [
        {"role": m.role, "content": [{"type": "text", "text": m.content}] if parts else m.content}
        for m in dialogue
    ]
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=generation, tokenize=False
    )
    return tokenizer.encode(rendered, add_special_tokens=False)


def takes_parts(name):
    return name.removesuffix("_training") in PARTS


def refuses_system(name):
    return name in {"no-system", "drops-system", "gemma", "gemma_training"}


def control_counts(tokenizer, ids):
    control = tokenizer.backend_tokenizer.get_added_tokens_decoder().keys()
    return Counter(id_ for id_ in ids if id_ in control)


@pytest.mark.parametrize("name", ALL)
def test_an_example_is_what_generation_sees_then_the_response_then_the_terminator(name):
    encoder = encoder_of(name)
    for dialogue in DIALOGUES:
        example = encoder.example(dialogue, RESPONSE)
        supervised = list(example.ids[example.prompt_length :])
        assert list(example.ids[: example.prompt_length]) == encoder.prompt_ids(dialogue)
        assert supervised == [*encoder.response_ids(RESPONSE), encoder.terminator]
        assert encoder.example(dialogue, RESPONSE, ends=False).ids == example.ids[:-1]
        assert encoder.terminator in encoder.eos_ids
        assert encoder.text(supervised) == RESPONSE
        assert encoder.eos_ids.isdisjoint(supervised[:-1])


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_gets_the_ids_that_any_server_gives_it(name):
    tokenizer, encoder = tokenizer_of(name), encoder_of(name)
    for dialogue in DIALOGUES:
        if dialogue[0].role == "system" and refuses_system(name):
            continue
        ids = encoder.prompt_ids(dialogue)
        assert ids.count(tokenizer.bos_token_id) <= 1
        if name not in DATED:
            assert ids == plain(tokenizer, encoder.template, dialogue, parts=takes_parts(name))


@pytest.mark.parametrize("name", sorted(ALL.keys() - DROPS_THOUGHT))
def test_a_response_gets_the_ids_that_a_finished_dialogue_gives_it(name):
    tokenizer, encoder = tokenizer_of(name), encoder_of(name)
    dialogue = DIALOGUES[0]
    prompt = plain(tokenizer, encoder.template, dialogue, parts=takes_parts(name))
    finished = plain(
        tokenizer,
        encoder.template,
        (*dialogue, assistant(RESPONSE)),
        parts=takes_parts(name),
        generation=False,
    )
    expected = [*prompt, *encoder.response_ids(RESPONSE)]
    assert finished[: len(expected)] == expected


@given(name=st.sampled_from(sorted(ALL.keys() - DATED)), dialogue=dialogues)
def test_text_without_control_tokens_gets_the_ids_of_the_rendered_template(name, dialogue):
    tokenizer, encoder = tokenizer_of(name), encoder_of(name)
    if refuses_system(name) and dialogue[0].role == "system":
        dialogue = dialogue[1:]
    expected = plain(tokenizer, encoder.template, dialogue, parts=takes_parts(name))
    assert encoder.prompt_ids(dialogue) == expected


@given(data=st.data(), name=st.sampled_from(sorted(ALL)))
def test_text_never_becomes_a_control_token(data, name):
    tokenizer, encoder = tokenizer_of(name), encoder_of(name)
    names = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    pieces = st.sampled_from([*names, "\U0010fffe", "\U0010ffff", "\ud800", " ", "\n", "x"])
    hostile = st.lists(pieces, min_size=1, max_size=8).map("".join)
    texts = [data.draw(hostile) + "." for _ in range(4)]
    roles = (system, user, assistant, user)
    said = tuple(make(text) for make, text in zip(roles, texts, strict=True))
    harmless = tuple(make("x") for make in roles)

    seen = control_counts(tokenizer, encoder.prompt_ids(said))
    assert seen == control_counts(tokenizer, encoder.prompt_ids(harmless))
    assert not control_counts(tokenizer, encoder.response_ids(texts[2]))


@given(name=st.sampled_from(BYTE_LEVEL), text=anything)
def test_any_response_survives_the_way_to_ids_and_back(name, text):
    encoder = encoder_of(name)
    assert encoder.text(encoder.response_ids(text)) == text


@given(name=st.sampled_from(BYTE_LEVEL), text=anything)
def test_what_is_supervised_reads_as_the_trimmed_response_and_stops_once(name, text):
    encoder = encoder_of(name)
    example = encoder.example(DIALOGUES[2], text)
    supervised = example.ids[example.prompt_length :]
    assert encoder.text(supervised) in (text, text.strip())
    assert supervised[-1] == encoder.terminator
    assert encoder.eos_ids.isdisjoint(supervised[:-1])


def test_the_trl_templates_are_all_there():
    assert len(TRL) >= 70


def test_text_ends_at_the_first_stop():
    encoder = encoder_of("chatml")
    ids = [*encoder.response_ids("Yes"), encoder.terminator, *encoder.response_ids("No")]
    assert encoder.text(ids) == "Yes"


def test_special_tokens_that_were_sampled_leave_no_text():
    encoder = encoder_of("chatml")
    start = tokenizer_of("chatml").convert_tokens_to_ids("<|im_start|>")
    assert encoder.text([*encoder.response_ids("Yes"), start]) == "Yes"


def test_control_tokens_in_text_are_named_in_order():
    encoder = encoder_of("qwen3")
    assert encoder.control_tokens_in("a<think>b</think><|im_end|><think>") == (
        "<think>",
        "</think>",
        "<|im_end|>",
        "<think>",
    )
    assert encoder.control_tokens_in("a < b, think | c") == ()


def test_surrogates_and_reserved_characters_are_replaced():
    encoder = encoder_of("chatml")
    ids = encoder.response_ids("a\ud800b\U0010fffec\U0010ffff")
    assert encoder.text(ids) == "a\ufffdb\ufffdc\ufffd"


def test_contents_are_trimmed_where_the_template_trims():
    trims, keeps = encoder_of("llama3-like"), encoder_of("chatml")
    padded, bare = (user(" \u3000Hello\t\n"),), (user("Hello"),)
    assert trims.prompt_ids(padded) == trims.prompt_ids(bare)
    assert keeps.prompt_ids(padded) != keeps.prompt_ids(bare)
    assert trims.example(bare, "\nYes ") == trims.example(bare, "Yes")


def test_a_system_turn_that_the_template_refuses_opens_the_first_user_turn():
    for name in ("no-system", "gemma", "drops-system"):
        encoder = encoder_of(name)
        folded = (user("Be good.\n\nHello"), assistant("Yes?"), user("help"))
        dialogue = (system("Be good."), user("Hello"), *folded[1:])
        assert encoder.prompt_ids(dialogue) == encoder.prompt_ids(folded)


def test_a_system_turn_alone_cannot_be_folded():
    with pytest.raises(EncodingError, match="no user turn right after"):
        encoder_of("no-system").prompt_ids((system("Be good."),))


@pytest.mark.parametrize("name", ["qwen3", "glm4moe", "nemotron_3_nano", "thinks", "deepseekv3"])
def test_the_saved_template_asks_for_no_thoughts_whoever_serves_it(name):
    tokenizer, encoder = tokenizer_of(name), encoder_of(name)
    served = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}],
        chat_template=encoder.template,
        add_generation_prompt=True,
        enable_thinking=True,
        tokenize=False,
    )
    assert served.rstrip().endswith("</think>")
    assert encoder.prompt_ids((user("Hello"),)) == tokenizer.encode(served)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("gptoss", "<|start|>assistant<|channel|>final<|message|>"),
        ("muse_glimmer", "<|start|>assistant to=user<|message|>"),
        ("glm4moe", "<|assistant|>\n<think></think>\n"),
        ("deepseek_r1_distill", "<\uff5cAssistant\uff5c><think>\n\n</think>\n\n"),
    ],
)
def test_the_generation_prompt_reaches_up_to_the_response(name, ending):
    tokenizer = tokenizer_of(name)
    ids = encoder_of(name).prompt_ids((user("Hello"),))
    assert tokenizer.decode(ids).endswith(ending)


def test_a_template_that_leaves_nothing_open_stays_as_it_is():
    assert encoder_of("chatml").template == CHATML
    assert encoder_of("qwen2_5").template == TRL["qwen2_5"]


def test_the_date_in_a_prompt_does_not_depend_on_the_day():
    for name, date in (("llama3_2", "26 Jul 2024"), ("gptoss", "2024-07-26")):
        assert date in tokenizer_of(name).decode(encoder_of(name).prompt_ids((user("Hello"),)))


def test_bos_is_written_once_whether_template_or_tokenizer_adds_it():
    for template in (CHATML, LLAMA3):
        tokenizer = adds_bos(byte_level(template))
        encoder = Encoder.of(tokenizer, eos_ids=stops(tokenizer))
        for dialogue in DIALOGUES:
            ids = encoder.prompt_ids(dialogue)
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 1
            assert ids == plain(tokenizer, encoder.template, dialogue)


def test_chatml_stands_in_for_a_missing_template_and_ends_its_own_turns():
    tokenizer = byte_level(None, added=("<|im_start|>", "<|im_end|>"))
    encoder = Encoder.of(tokenizer, eos_ids=[tokenizer.eos_token_id], template="chatml")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoder.terminator == end
    assert encoder.eos_ids == {end, tokenizer.eos_token_id}
    dialogue = DIALOGUES[3]
    assert encoder.prompt_ids(dialogue) == plain(tokenizer, encoder.template, dialogue)


def test_a_tokenizers_own_template_is_not_replaced():
    tokenizer = tokenizer_of("llama3-like")
    encoder = Encoder.of(tokenizer, eos_ids=stops(tokenizer), template="chatml")
    assert encoder.template == LLAMA3


def test_without_a_generation_config_the_tokenizers_eos_ends_a_response():
    tokenizer = byte_level(CHATML.replace("<|im_end|>", "<EOS>"))
    encoder = Encoder.of(tokenizer, eos_ids=None)
    assert encoder.terminator == tokenizer.eos_token_id
    assert encoder.eos_ids == {tokenizer.eos_token_id}


@pytest.mark.parametrize("legacy", [False, True])
@given(contents=st.lists(st.text("Helo wxyz?,é漢", min_size=1), min_size=1, max_size=4))
def test_sentencepiece_prompts_get_the_ids_that_any_server_gives_them(legacy, contents):
    for template in (LLAMA2, CHATML):
        tokenizer = sentencepiece_like(template, legacy=legacy)
        encoder = Encoder.of(tokenizer, eos_ids=stops(tokenizer))
        dialogue = dialogue_of(contents)
        ids = encoder.prompt_ids(dialogue)
        assert ids == plain(tokenizer, encoder.template, dialogue)
        assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("legacy", [False, True])
def test_sentencepiece_responses_continue_the_prompt(legacy):
    for template in (LLAMA2, CHATML):
        tokenizer = sentencepiece_like(template, legacy=legacy)
        encoder = Encoder.of(tokenizer, eos_ids=stops(tokenizer))
        said = "Hello, can you tell me? é漢 😀 </s>"
        told = plain(
            tokenizer,
            encoder.template,
            (user("Hello"), assistant("Hello, hel lo")),
            generation=False,
        )
        example = encoder.example((user("Hello"),), "Hello, hel lo")
        assert list(example.ids[:-1]) == told[: len(example.ids) - 1]
        assert encoder.text(encoder.response_ids(said)) == said
        assert encoder.terminator not in encoder.response_ids(said)


def test_a_vocabulary_that_holds_control_tokens_does_not_give_them_to_text():
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "user": 3, "assistant": 4, "hi": 5}
    word_level = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    pieces = [("<unk>", -9.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -1.0) for c in "userait n▁hi")]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=0))
    template = "{% for m in messages %}{{ '<s> ' + m.content + ' </s>' }}{% endfor %}"
    for backend in (word_level, unigram):
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens(["<unk>", "<s>", "</s>"])
        tokenizer = wrapped(backend, template, bos="<s>", eos="</s>")
        encoder = Encoder.of(tokenizer, eos_ids=None)
        assert tokenizer.encode("hi </s>")[-1] == 2
        assert 2 not in encoder.response_ids("hi </s> <s>")
        assert encoder.prompt_ids((user("</s>"),)).count(2) == 1


def test_added_white_space_is_text_and_keeps_its_ids():
    tokenizer = byte_level(CHATML, added=("    ", "\n\n", "<think>"))
    encoder = Encoder.of(tokenizer, eos_ids=stops(tokenizer))
    dialogue = (user("a    b\n\nc"),)
    ids = encoder.prompt_ids(dialogue)
    assert ids == plain(tokenizer, CHATML, dialogue)
    assert tokenizer.convert_tokens_to_ids("    ") in ids
    assert encoder.control_tokens_in("a    b\n\nc") == ()


def test_flags_of_control_tokens_are_kept():
    template = "{% for m in messages %}{{ '<|user|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    tokenizer = byte_level(None, added=(AddedToken("<|user|>", rstrip=True), "<|end|>"))
    tokenizer.chat_template = template
    encoder = Encoder.of(tokenizer, eos_ids=stops(tokenizer))
    dialogue = (user("\n\n Hello"),)
    assert encoder.prompt_ids(dialogue) == plain(tokenizer, encoder.template, dialogue)


def test_the_callers_tokenizer_is_left_alone():
    tokenizer = byte_level(CHATML)
    before = tokenizer.backend_tokenizer.to_str()
    Encoder.of(tokenizer, eos_ids=stops(tokenizer)).prompt_ids(DIALOGUES[1])
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer.chat_template == CHATML


def test_the_fingerprint_follows_tokenizer_template_and_stops_and_nothing_else():
    tokenizer = byte_level(CHATML)
    known = Encoder.of(tokenizer, eos_ids=stops(tokenizer)).fingerprint
    tokenizer("Hello", truncation=True, max_length=4)
    assert Encoder.of(tokenizer, eos_ids=stops(tokenizer)).fingerprint == known
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    others = {
        Encoder.of(tokenizer, eos_ids=[end]).fingerprint,
        Encoder.of(byte_level(CHATML, added=("<x>",)), eos_ids=stops(tokenizer)).fingerprint,
        Encoder.of(byte_level(CHATML + " "), eos_ids=stops(tokenizer)).fingerprint,
    }
    assert len(others - {known}) == 3


def test_no_template_is_an_error_that_suggests_one():
    with pytest.raises(EncodingError, match="template: chatml"):
        Encoder.of(byte_level(None), eos_ids=None)


def test_chatml_needs_its_tokens():
    with pytest.raises(EncodingError, match=r"lacks: <\|im_start\|>, <\|im_end\|>"):
        Encoder.of(byte_level(None), eos_ids=None, template="chatml")


def test_several_templates_without_a_default_are_an_error():
    tokenizer = byte_level(CHATML)
    tokenizer.chat_template = {"rag": CHATML, "tools": CHATML}
    with pytest.raises(EncodingError, match="several chat templates"):
        Encoder.of(tokenizer, eos_ids=None)


def test_a_model_that_would_never_stop_is_an_error_that_names_both_sides():
    tokenizer = byte_level(CHATML)
    with pytest.raises(EncodingError, match=r"never learn to stop.*<\|im_end\|>.*<EOS>"):
        Encoder.of(tokenizer, eos_ids=None)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML.replace("m.content", "'hm'"), "exactly once"),
        (CHATML.replace("m.content", "m.content + m.content"), "exactly once"),
        (CHATML.replace("m.content", "m.content | upper"), "exactly once"),
        (CHATML.replace("m.content", "m.content | replace(' ', '_')"), "changes contents"),
        ("{{ raise_exception('closed today') }}", "refuses the turns user: closed today"),
        ("{% if %}", "refuses the turns user"),
    ],
)
def test_a_template_that_cannot_be_used_faithfully_is_an_error(template, message):
    with pytest.raises(EncodingError, match=message):
        Encoder.of(byte_level(template), eos_ids=None)


def test_a_dialogue_that_the_template_refuses_is_an_error_with_its_reason():
    with pytest.raises(EncodingError, match="must alternate"):
        encoder_of("gemma").prompt_ids((user("Hello"), user("there")))


def test_an_empty_dialogue_is_an_error():
    with pytest.raises(EncodingError, match=r"refuses the turns \(none\)"):
        encoder_of("chatml").prompt_ids(())


def test_a_normalizer_that_would_unmask_text_is_an_error():
    tokenizer = byte_level(CHATML, added=(AddedToken("<think>", normalized=True),))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\U0010fffe", "")
    with pytest.raises(EncodingError, match="'<think>' becomes that control token"):
        Encoder.of(tokenizer, eos_ids=stops(tokenizer))


def test_a_control_token_that_the_tokenizer_misses_is_an_error():
    tokenizer = sentencepiece_like(CHATML, legacy=True, normalized=True)
    with pytest.raises(EncodingError, match="does not read all control tokens"):
        Encoder.of(tokenizer, eos_ids=stops(tokenizer))


def test_a_slow_tokenizer_is_an_error():
    with pytest.raises(EncodingError, match="not a fast tokenizer"):
        Encoder.of(PreTrainedTokenizerBase(), eos_ids=None)


def test_an_example_cannot_be_changed():
    example = encoder_of("chatml").example((Message(role="user", content="Hello"),), "Yes")
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.prompt_length = 0  # pyright: ignore[reportAttributeAccessIssue]
