import pytest

from bptt_relax.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8e9), ("8 gb", 8e9), ("500M", 5e8), ("2GiB", 2**31), ("1.5k", 1500), ("64", 64), ("64B", 64)],
)
def test_sizes_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "8 gigs", "-1GB", "0GB", "1e9", "8GBs"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="write for example 8GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"), [(8e9, "8 GB"), (46.13e6, "46.1 MB"), (1500, "1.5 kB"), (12, "12 B"), (0, "0 B")]
)
def test_sizes_in_the_unit_that_suits_them(count, text):
    assert format_bytes(count) == text
