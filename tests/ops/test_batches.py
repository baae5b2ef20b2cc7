"""Batch axes are only that: extra ones give each element's own result, and float64 in is float64 out, as in float32."""

import pytest
import torch

from tests.ops.cases import VARIANTS
from tests.ops.rows import ROWS, leaves, of_case

SEPARATE = {f"{name}-{i}": of_case(name, i) for name, i in VARIANTS} | {
    key: row for key, row in ROWS.items() if not (row.random or row.whole or row.drawn)
}


def element(row, arguments, place):
    """The arguments of one batch element: no batch axes left."""
    out = {}
    for name, x in arguments.items():
        axes = row.declared[name].split()[1:]
        index = tuple(i for axis in axes for i in (place if axis in ("*", "?*") else (slice(None),)))
        out[name] = x[index]
    return out


@pytest.mark.parametrize("key", SEPARATE)
def test_two_batch_axes_equal_each_element(key):
    row = SEPARATE[key]
    batch = (2, 3)
    if row.drawn:
        name, _, variant = key.rpartition("-")
        time = any("T" in words for words in row.declared.values())
        row = of_case(name, int(variant), (5, *batch) if time else batch)
    arguments = row.arguments(batch)
    whole = leaves(row.call(**arguments))
    assert whole
    places = [(i, j) for i in range(batch[0]) for j in range(batch[1])]
    single = [leaves(row.call(**element(row, arguments, place))) for place in places]
    for place, found in enumerate(whole):
        expected = torch.stack([out[place] for out in single]).unflatten(0, batch)
        if found.dim() < 2 and expected.dim() >= 2:  # a count, the same for all
            assert (expected == found).all()
            continue
        # The batch axes stand first, or after the time or sample axis.
        if found.shape != expected.shape or (expected.dim() > 2 and found.shape[:2] != batch):
            expected = expected.movedim(2, 0)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("key", [key for key, row in (SEPARATE | ROWS).items() if not row.random])
def test_float64_stays_and_agrees_with_float32(key):
    row = (SEPARATE | ROWS)[key]
    fine, rough = (leaves(row.call(**row.arguments(dtype=dtype))) for dtype in (torch.float64, torch.float32))
    for a, b in zip(fine, rough, strict=True):
        if a.is_floating_point():
            assert a.dtype == torch.float64
            assert b.dtype == torch.float32 or row.name == "one_hot"  # told its dtype
        torch.testing.assert_close(b.to(a.dtype), a, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row.random])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_numbers_have_the_dtype_and_shape_of_the_arguments(key, dtype):
    row = ROWS[key]
    torch.manual_seed(0)
    arguments = row.arguments((2, 3), dtype=dtype)
    for out in leaves(row.call(**arguments)):
        assert out.shape[:2] == (2, 3)
        assert out.dtype == (dtype if out.is_floating_point() else torch.int64)
