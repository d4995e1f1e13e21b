"""Whether scores leak: one rule, for every reader of models/evaluation.json."""

import pytest

from alzmri.errors import UserError
from alzmri.evaluation import leak


@pytest.mark.parametrize(
    ("unit", "content", "word"),
    [
        ("slice", '{"split": {"shared_subjects": 0}}', "LEAKS"),
        ("subject", '{"split": {"shared_subjects": 0}}', ""),
        ("subject", '{"split": {"shared_subjects": null}}', "LEAKS"),
        ("subject", '{"split": {"shared_subjects": 3}}', "LEAKS"),
        ("subject", '{"split": {"shared_subjects": null, "near_duplicates": 3}}', "LEAKS"),
        ("subject", '{"split": {"shared_subjects": null, "several_groups": true}}', "MAY LEAK"),
        ("subject", None, ""),
        ("slice", None, "LEAKS"),
        ("subject", "[]", None),
        ("subject", '{"split": []}', None),
    ],
)
def test_a_leak_is_known_from_the_evaluation(tmp_path, unit, content, word):
    """As the server and `alzmri sagemaker deploy` know it."""
    if content:
        (tmp_path / "evaluation.json").write_text(content)
    if word is None:
        with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
            leak.of_model(tmp_path, unit)
    else:
        assert leak.of_model(tmp_path, unit) == word
