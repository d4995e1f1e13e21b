"""``alzmri dicom``: one sentence says what is wrong."""

import pytest

from alzmri.clinic.dicom_command import dicom
from alzmri.errors import UserError


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"host": "0.0.0.0"}, "--accept"),  # noqa: S104 - that it is refused is what we test
        ({"send_to": "PACS@here"}, "AET@HOST:PORT"),
        ({"send_to": "PACS@here:0"}, "AET@HOST:PORT"),
        ({"accept": "PACS,"}, "1 to 16"),
        ({"aet": "A" * 17}, "1 to 16"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(options, reason, tmp_path):
    queue = tmp_path / "queue"
    with pytest.raises(UserError, match=reason):
        dicom(queue=queue, **options)
    assert not queue.exists()
