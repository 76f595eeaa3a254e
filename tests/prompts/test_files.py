import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charter.config import PromptSource
from charter.errors import PromptError
from charter.prompts import (
    Duplicate,
    PromptCounts,
    Quarantined,
    check_prompts,
    count_prompts,
    files,
    read_prompts,
    read_rows,
)
from charter.records import Prompt, system, user

HH_RLHF = Path(__file__).parents[3] / "shared" / "data" / "hh_rlhf_harmless_1200.jsonl"


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return PromptSource(path=path)


def ignore(row):
    pass


def contents(source):
    return [prompt.messages[-1].content for prompt in read_prompts([source])]


def test_rows_come_in_the_order_of_the_files_with_their_lines(tmp_path):
    first = write(tmp_path / "a.jsonl", {"prompt": "a"}, "", "{", {"prompt": "a"})
    second = write(tmp_path / "b.jsonl", {"prompt": "b"}, {"prompt": "a"})
    a, bad, again, b, once_more = read_rows([first, second])
    assert isinstance(a, Prompt)
    assert isinstance(b, Prompt)
    assert isinstance(bad, Quarantined)
    assert str(bad.problem).startswith(f"{first.path}:3: not JSON")
    assert again == Duplicate(path=first.path, line=4, first_id=a.id)
    assert once_more == Duplicate(path=second.path, line=2, first_id=a.id)


def test_an_id_that_another_prompt_has_is_quarantined(tmp_path):
    source = write(
        tmp_path / "a.jsonl", {"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}, {"prompt": "c"}
    )
    bad = [row for row in read_rows([source]) if isinstance(row, Quarantined)]
    assert [row.line for row in bad] == [2]
    assert f"id '1' belongs to a different prompt, at {source.path}:1" in bad[0].reason


def test_the_same_prompt_under_the_same_id_is_a_duplicate(tmp_path):
    source = write(tmp_path / "a.jsonl", {"id": "x", "prompt": "a"}, {"id": "x", "prompt": "a"})
    assert isinstance(list(read_rows([source]))[1], Duplicate)


def test_a_limit_counts_usable_prompts_of_its_file(tmp_path):
    rows = [{"prompt": "a"}, "{", {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]
    source = write(tmp_path / "a.jsonl", *rows).model_copy(update={"limit": 2})
    assert contents(source) == ["a", "b"]


def test_a_system_turn_comes_before_prompts_that_have_none(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": "b", "system": "Be kind."})
    bare = list(read_prompts([source]))
    told = list(read_prompts([source], system="Be brief."))
    assert told[0].messages == (system("Be brief."), user("a"))
    assert told[1] == bare[1]
    assert [prompt.id for prompt in told] == [prompt.id for prompt in bare]


def test_prompts_that_a_system_turn_makes_the_same_are_duplicates(tmp_path):
    source = write(tmp_path / "a.jsonl", {"prompt": "a", "system": "Be brief."}, {"prompt": "a"})
    assert check_prompts([source])[0] == PromptCounts(valid=2)
    counts, problems = check_prompts([source], system="Be brief.")
    assert (counts, problems) == (PromptCounts(valid=1, duplicates=1), [])
    assert count_prompts([source], on_bad=ignore, system="Be brief.") == counts


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_line_ends_marks_and_blank_lines_do_not_matter(tmp_path, start, ending):
    path = tmp_path / "a.jsonl"
    path.write_bytes(start + ending.join([b'{"prompt": "a"}', b"  ", b'{"prompt": "b"}']))
    assert contents(PromptSource(path=path)) == ["a", "b"]


def test_a_line_separator_within_a_text_ends_no_row(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"prompt": "a\u2028b\u0085c"}')
    assert contents(source) == ["a\u2028b\u0085c"]


def test_an_over_long_line_is_quarantined_and_the_next_one_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    rows = [{"prompt": "a" * length} for length in (100, 1000, 89, 202 - 13)]
    bad_1, bad_2, good, bad_3, last = read_rows(
        [write(tmp_path / "a.jsonl", *rows[:2], {"prompt": "b"}, rows[3], {"prompt": "c"})]
    )
    assert [(row.line, row.reason) for row in (bad_1, bad_2, bad_3)] == [
        (line, "longer than 0 MiB") for line in (1, 2, 4)
    ]
    assert [row.messages[0].content for row in (good, last)] == ["b", "c"]


@given(
    rows=st.lists(st.builds(dict, id=st.integers(0, 3) | st.none(), prompt=st.sampled_from("abc ")))
)
def test_every_row_is_accounted_for(tmp_path_factory, rows):
    source = write(tmp_path_factory.mktemp("rows") / "a.jsonl", {"prompt": "first"}, *rows)
    counts = count_prompts([source], on_bad=ignore)
    assert counts.valid + counts.quarantined + counts.duplicates == len(rows) + 1
    prompts = list(read_prompts([source]))
    assert counts.valid == len({p.id for p in prompts}) == len({p.messages for p in prompts})


def test_bad_rows_are_handed_over_as_they_are_met(tmp_path):
    bad = []
    source = write(tmp_path / "a.jsonl", "{", {"prompt": "a"}, "[]")
    assert count_prompts([source], on_bad=bad.append) == PromptCounts(valid=1, quarantined=2)
    assert [row.line for row in bad] == [1, 3]
    assert json.loads(bad[0].model_dump_json()).keys() == {"path", "line", "reason"}


def test_no_usable_prompt_is_an_error_that_quotes_rows(tmp_path):
    source = write(tmp_path / "a.jsonl", "{", '{"quest": 1}', "3", "4")
    with pytest.raises(
        PromptError, match=r"no usable prompt in .*\(4 rows quarantined\)"
    ) as caught:
        count_prompts([source], on_bad=ignore)
    assert f"{source.path}:2: none of the keys" in str(caught.value)
    assert f"{source.path}:4" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file. Correct the path"),
        ("a.csv", b"prompt\nHi\n", "CSV is not read yet. Convert it to JSONL"),
        ("a.bin", b"PAR1\x00", "Parquet is not read yet. Convert it to JSONL"),
        ("a.json", b'\xef\xbb\xbf\n[{"prompt": "Hi"}]', "one JSON array, not a row a line"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "compressed. Unpack it with gunzip"),
        ("a.jsonl", b"\xff\xfe{\x00", "UTF-16. Convert it to UTF-8"),
    ],
)
def test_a_file_that_is_not_jsonl_says_what_to_do(tmp_path, name, content, message):
    source = PromptSource(path=tmp_path / name)
    if content is not None:
        source.path.write_bytes(content)
    with pytest.raises(PromptError, match=message):
        next(read_rows([source]))
    assert check_prompts([source])[1][0].path == source.path


def test_a_directory_is_not_a_file_of_prompts(tmp_path):
    with pytest.raises(PromptError, match="not a regular file"):
        next(read_rows([PromptSource(path=tmp_path)]))


@pytest.mark.parametrize(
    ("name", "content"), [("in.csv", "prompt,kind\nHi,benign\n"), ("in.json", '[{"prompt": "Hi"}]')]
)
def test_the_conversion_that_an_error_proposes_works(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptError) as caught:
        next(read_rows([PromptSource(path=tmp_path / name)]))
    command = str(caught.value).partition("JSONL: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert contents(PromptSource(path=tmp_path / "out.jsonl")) == ["Hi"]


def test_a_check_goes_on_to_the_next_file_and_row(tmp_path):
    missing = PromptSource(path=tmp_path / "missing.jsonl")
    counts, problems = check_prompts([missing, write(tmp_path / "a.jsonl", "{", {"prompt": "a"})])
    assert counts == PromptCounts(valid=1, quarantined=1)
    assert [(problem.path.name, problem.line) for problem in problems] == [
        ("missing.jsonl", None),
        ("a.jsonl", 1),
    ]


def test_a_check_of_an_empty_file_finds_no_prompt(tmp_path):
    counts, (problem,) = check_prompts([write(tmp_path / "a.jsonl")])
    assert counts == PromptCounts()
    assert "no usable prompt" in problem.message


def test_memory_does_not_grow_with_the_texts(tmp_path):
    source = write(tmp_path / "a.jsonl", *({"prompt": f"{i} " + "x" * 20_000} for i in range(200)))
    tracemalloc.start()
    try:
        assert count_prompts([source], on_bad=ignore).valid == 200
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_reading_prompts_loads_no_heavy_library():
    program = (
        "import sys, charter.prompts;"
        "print([m for m in ('torch', 'numpy', 'transformers', 'datasketch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not HH_RLHF.exists(), reason="the hh-rlhf sample is not here")
def test_every_dialogue_of_hh_rlhf_is_a_prompt():
    source = PromptSource(path=HH_RLHF)
    assert count_prompts([source], on_bad=ignore) == PromptCounts(valid=1200)
    for prompt in read_prompts([source]):
        assert prompt.messages[-1].role == "user"
