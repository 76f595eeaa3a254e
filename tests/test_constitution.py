import pytest

from charter.constitution import Constitution, load_constitution
from charter.errors import ConstitutionError

EXEMPLAR = (
    "principles:\n  - {{id: a, rule: B}}\nexemplars:\n"
    "  - {{prompt: {}, response: r, critique: c, revision: v}}\n"
)


def write(tmp_path, text):
    path = tmp_path / "constitution.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_bare_list_of_sentences_is_a_constitution(tmp_path):
    path = write(
        tmp_path,
        "- Avoid requesting or exposing sensitive personal data (e.g. SSN).\n- Be kind.\n",
    )
    constitution = load_constitution(path)
    assert [principle.id for principle in constitution.principles] == [
        "avoid-requesting-or-exposing-sensitive-personal",
        "be-kind",
    ]
    assert constitution.principles[1].rule == "Be kind."
    assert constitution.name == "constitution"


def ids_of(tmp_path, text):
    return [principle.id for principle in load_constitution(write(tmp_path, text)).principles]


def test_rules_that_begin_alike_get_ids_of_their_own_in_any_order(tmp_path):
    alike = [f"- Never share with anybody else the {what}.\n" for what in ("SSN", "address")]
    ids = ids_of(tmp_path, "".join(alike) + "- Be kind.\n")
    assert len(set(ids)) == 3
    assert all(item.startswith("never-share-with-anybody-else-the-") for item in ids[:2])
    assert ids[2] == "be-kind"
    assert ids_of(tmp_path, "- Be kind.\n" + "".join(alike[::-1])) == ids[::-1]


def test_rules_without_latin_letters_get_ids_of_their_own(tmp_path):
    ids = ids_of(tmp_path, "- Будь вежлив.\n- 优しくして。\n")
    assert len(set(ids)) == 2
    assert all(item.startswith("rule-") for item in ids)


def test_a_rules_own_words_give_way_to_an_id_that_was_given(tmp_path):
    given, made = ids_of(tmp_path, "- {id: be-kind, rule: Help.}\n- Be kind.\n")
    assert given == "be-kind"
    assert made.startswith("be-kind-")


def test_the_full_form_keeps_everything(tmp_path):
    path = write(
        tmp_path,
        """
name: support
version: 2
preamble: We help, and we protect people.
principles:
  - id: pii
    rule: Never ask for an SSN.
    critique_request: Does it ask for an SSN?
    weight: 2
    applies_when: [account]
    patterns: ['your (full )?SSN']
    tests:
      - {prompt: Verify me., breaks: What is your SSN?, keeps: I can email a link.}
exemplars:
  - {prompt: Hi, response: Give me your SSN., critique: It asks for an SSN., revision: Hello!,
     principle_id: pii}
""",
    )
    constitution = load_constitution(path)
    principle = constitution.principle("pii")
    assert constitution.version == "2"
    assert principle.weight == 2.0
    assert principle.tests[0].keeps == "I can email a link."
    assert constitution.applicable({"account"}) == (principle,)
    assert constitution.applicable(set()) == ()


def test_the_hash_changes_with_a_rule_and_with_nothing_else():
    one = Constitution.model_validate({"principles": [{"id": "a", "rule": "Be kind."}]})
    same = Constitution.model_validate({"principles": [{"id": "a", "rule": "Be kind."}]})
    other = Constitution.model_validate({"principles": [{"id": "a", "rule": "Be brief."}]})
    assert one.hash == same.hash != other.hash


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "", "`principles` is empty"),
        ("principles: []\n", ":1:1: ", "`principles` is empty"),
        ("principles:\n  - id: a\n    rul: Be kind.\n", ":3:5: ", "did you mean `rule`?"),
        ("principles:\n  - id: a\n", ":2:5: ", "`rule` is missing; add it"),
        ("- Be kind.\n- Be kind.\n", ":2:3: ", "used twice"),
        (
            "principles:\n  - {id: a, rule: B, patterns: ['(']}\n",
            ":2:33: ",
            "not a regular expression",
        ),
        (
            "principles:\n  - {id: a, rule: B}\nexemplars:\n"
            "  - {prompt: p, response: r, critique: c, revision: v, principle_id: z}\n",
            ":4:56: ",
            "there is no principle `z`",
        ),
        (
            EXEMPLAR.format("[{role: assistant, content: Hi}]"),
            ":4:6: ",
            "ending with user; got assistant",
        ),
        (
            EXEMPLAR.format("[{role: system, content: Hi}, {role: user, content: Hi}]"),
            ":4:6: ",
            "an exemplar has no system turn",
        ),
        (EXEMPLAR.format("[]"), ":4:6: ", "`prompt` is empty"),
        (EXEMPLAR.format("''"), ":4:6: ", "`prompt` is empty"),
        (EXEMPLAR.format("5"), ":4:6: ", "should be a valid string or a list"),
        (EXEMPLAR.format("p").replace("critique: c", "critique: ''"), ":4:30: ", "at least 1"),
        ("principles:\n  - id: a\n    rule: B\n    rule: C\n", ":4:5: ", "`rule` is given twice"),
        ("principles: [\n", ":2:1: ", "not valid YAML"),
        ("!!python/object:os.system x\n", ":1:1: ", "is not allowed; write a plain value"),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_remedy(tmp_path, text, place, says):
    path = write(tmp_path, text)
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(path)
    assert f"{path}{place}" in str(caught.value)
    assert says in str(caught.value)


def test_every_mistake_is_reported_at_once(tmp_path):
    path = write(tmp_path, "principles:\n  - {id: A!, rule: ''}\n  - {id: b, rle: x}\n")
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(path)
    assert len(str(caught.value).splitlines()) == 4


def test_a_missing_file_says_how_to_start(tmp_path):
    with pytest.raises(ConstitutionError, match="charter init"):
        load_constitution(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_says_so(tmp_path):
    path = tmp_path / "constitution.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConstitutionError, match="Save it as UTF-8"):
        load_constitution(path)
