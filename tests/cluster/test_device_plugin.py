"""What the device plugin says on the wire, byte by byte."""

import pytest

from tests.cluster.device_plugin import allocation, field, fields, number


@pytest.mark.parametrize(
    ("value", "want"),
    [
        pytest.param(0, b"\x00", id="zero"),
        pytest.param(127, b"\x7f", id="one-byte"),
        pytest.param(300, b"\xac\x02", id="two-bytes"),
    ],
)
def test_encodes_numbers_in_groups_of_seven_bits(value, want):
    assert number(value) == want


def test_reads_the_fields_it_wrote():
    message = field(1, "a") + field(2, "b" * 300) + field(1, b"c")
    assert list(fields(message, 1)) == [b"a", b"c"]
    assert list(fields(message, 2)) == [b"b" * 300]


def test_names_the_devices_of_each_container():
    request = field(1, field(1, "gpu-0") + field(1, "gpu-5")) + field(1, field(1, "gpu-3"))
    responses = list(fields(allocation(request), 1))
    want = [(b"CUDA_VISIBLE_DEVICES", b"0,5"), (b"CUDA_VISIBLE_DEVICES", b"3")]
    variables = [next(fields(response, 1)) for response in responses]
    assert [(next(fields(v, 1)), next(fields(v, 2))) for v in variables] == want
