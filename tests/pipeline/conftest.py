"""A small project whose script also judges, for the stages of the feedback half."""

import pytest

pytest.register_assert_rewrite("tests.pipeline.killing")  # or a failure shows no values

VERDICTS = r"""rules:
  - {match: '(?s)\(A\) [^\n]*[aeiou].*Answer \(A\) or', choices: {'(A)': 0.8, '(B)': 0.2}}
  - {match: 'Answer \(A\) or', choices: {'(A)': 0.3, '(B)': 0.7}}
"""


@pytest.fixture
def judged(project):
    """The small project, whose script judges comparisons too."""
    script = project.parent / "script.yaml"
    script.write_text(script.read_text().replace("rules:\n", VERDICTS))
    return project
