import pytest

from modelplex.runtime.address import Address


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address(path="/tmp/a b/x.sock"), "/tmp/a b/x.sock"),
        (Address("10.0.0.7", 4711), "10.0.0.7:4711"),
        (Address("10.0.0.7", 4711, "node1"), "10.0.0.7:4711 node1"),
        (Address("10.0.0.7", 4711, "node1", "/tmp/a b/x.sock"), "10.0.0.7:4711 node1 /tmp/a b/x.sock"),
        (Address("fd00::7", 4711, "node1", "/x.sock"), "[fd00::7]:4711 node1 /x.sock"),
    ],
)
def test_an_address_is_the_same_after_it_has_travelled(address: Address, text: str) -> None:
    assert str(address) == text
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["app_Echo#abc", "address of Echo", ""])
def test_the_name_of_a_process_without_an_address_is_an_empty_one(text: str) -> None:
    assert Address.parse(text) == Address()
