r"""Prompts from JSONL files: a row becomes a prompt, a duplicate, or a reason why it is neither.

A row says what the user asks in one of these forms, the first that it has:

- `prompt`: a text (one user turn) or a list of turns;
- `messages`: a list of turns, `{"role": ..., "content": ...}`;
- `transcript`, `chosen` or `rejected`: a text such as "\n\nHuman: Hi\n\nAssistant: Hello.", of
  which everything up to the last Human turn is the prompt.

Beside it may stand `id`, `kind`, `tags`, `expects` and `system` (a text); other keys are the file's
own business. Rows are read one at a time: what stays in memory is a hash and an id per prompt,
never a text.

`read_pairs` reads people's preferences instead: rows whose `chosen` and `rejected` are whole
dialogues that differ in their last answer.
"""

from charter.prompts.files import (
    Duplicate,
    PromptCounts,
    Quarantined,
    check_pairs,
    check_prompts,
    count_prompts,
    read_pairs,
    read_prompts,
    read_rows,
    usable_pairs,
)
from charter.prompts.row import AnswerPair

__all__ = [
    "AnswerPair",
    "Duplicate",
    "PromptCounts",
    "Quarantined",
    "check_pairs",
    "check_prompts",
    "count_prompts",
    "read_pairs",
    "read_prompts",
    "read_rows",
    "usable_pairs",
]
