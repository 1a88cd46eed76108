"""Where gRPC is listened for."""

import socket
from dataclasses import replace

import pytest

from modelplex.config import GRPCOptions, HTTPOptions
from modelplex.errors import DeploymentFailedError
from modelplex.runtime.listening_sockets import grpc_address, hold_grpc

HTTP = HTTPOptions(grpc=GRPCOptions(port=0))


def test_without_grpc_nothing_is_held() -> None:
    assert hold_grpc(HTTPOptions()) == (HTTPOptions(), None)
    assert grpc_address(HTTPOptions()) == grpc_address(None) == ""


def test_an_encrypted_key_is_refused() -> None:
    options = replace(HTTP, ssl_certfile="a.pem", ssl_keyfile_password="x")
    with pytest.raises(DeploymentFailedError, match="gRPC takes no encrypted key"):
        hold_grpc(options)


@pytest.mark.system
def test_a_port_is_chosen_and_kept_for_proxies_alone() -> None:
    held, holder = hold_grpc(HTTP)
    assert holder is not None
    assert held.grpc is not None
    with holder:
        assert held.grpc.port > 0
        assert grpc_address(held) == f"127.0.0.1:{held.grpc.port}"
        with pytest.raises(DeploymentFailedError, match="Address already in use"):
            hold_grpc(held)  # another system's
        again, successor = hold_grpc(held, succeeds=True)
        assert again == held
        assert successor is not None
        with successor, socket.socket() as client:
            client.settimeout(1.0)
            with pytest.raises(OSError, match="refused"):  # it takes no connections from proxies
                client.connect(("127.0.0.1", held.grpc.port))


def test_the_address_is_one_that_clients_can_use() -> None:
    assert grpc_address(replace(HTTP, host="0.0.0.0")) == "127.0.0.1:0"
    assert grpc_address(replace(HTTP, host="::")) == "[::1]:0"
