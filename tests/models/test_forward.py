"""When a training computes in bfloat16: never by chance where the bytes must agree."""

import pytest
import torch

from alzmri.models.forward import bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "amx", "capability", "expected"),
    [
        ("auto", True, "AVX512", True),
        ("auto", True, "AVX2", False),  # as compute.portable caps it
        ("auto", False, "AVX512", False),
        ("bf16", False, "AVX2", True),
        ("fp32", True, "AVX512", False),
    ],
)
def test_auto_uses_bfloat16_where_the_processor_has_it_and_compute_portable_allows_it(
    monkeypatch, precision, amx, capability, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert bfloat16(precision, CPU) is expected
