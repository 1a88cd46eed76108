"""API keys of a program that runs: one is taken back, another made, without a restart."""

import re
from pathlib import Path

import grpc
import pytest
from served import serving, wait_until
from typer.testing import CliRunner

from modelplex.cli import cli

pytestmark = [pytest.mark.system, pytest.mark.doors]

EXAMPLES = Path(__file__).parents[2] / "examples"


def keys(*words: str | Path) -> str:
    done = CliRunner().invoke(cli, ["keys", *map(str, words)])
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def test_keys_come_and_go_while_it_serves(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    first = keys("add", "first", "-f", file)
    config = tmp_path / "serve.yaml"
    config.write_text(
        f"http_options: {{access_file: {file}, num_proxies: 2}}\n"
        "applications: [{name: default, import_path: 'invented:known'}]\n"
    )
    with serving(str(config)) as served:

        def status(key: str) -> int:
            return served.call("real-1", x_api_key=key).status

        assert (status(first), status("mpx_a_b")) == (200, 401)
        assert served.call(path="/-/healthz").status == 200
        second = keys("add", "second", "-f", file)
        keys("remove", "first", "-f", file)
        wait_until(lambda: served.log.count("keys in it: 1.") >= 2, "both proxies have read it")
        assert (status(first), status(second)) == (401, 200)
        file.write_text("keys: [")
        wait_until(lambda: served.log.count("the keys of before are good") >= 2, "both are told")
        assert (status(first), status(second)) == (401, 200)
        secrets = [key.rpartition("_")[2] for key in (first, second)]
        assert not any(secret in served.log for secret in secrets)


def test_calls_of_grpc_need_a_key_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key = keys("add", "client", "-f", file, "--models", "shop-*")
    config = tmp_path / "serve.yaml"
    config.write_text(
        f"http_options: {{access_file: {file}}}\ngrpc_options: {{port: 0}}\n"
        "applications: [{name: default, import_path: 'v2_arrays:entry'}]\n"
    )
    with serving(str(config), EXAMPLES) as served:
        address = re.search(r"gRPC at (\S+):(\d+)", served.first_line)
        assert address is not None
        with grpc.insecure_channel(f"127.0.0.1:{address[2]}") as channel:

            def code(method: str, request: bytes = b"", **metadata: str) -> grpc.StatusCode:
                call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
                try:
                    call(request, timeout=30, metadata=list(metadata.items()))
                except grpc.RpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

            ready = b"\x0a\x05other"  # ModelReadyRequest(name="other")
            assert code("ModelReady", ready) == grpc.StatusCode.UNAUTHENTICATED
            assert code("ModelReady", ready, authorization=f"Bearer {key}x") == grpc.StatusCode.UNAUTHENTICATED
            assert code("ModelReady", ready, authorization=f"Bearer {key}") == grpc.StatusCode.PERMISSION_DENIED
            mine = b"\x0a\x06shop-1"
            assert code("ModelReady", mine, authorization=f"Bearer {key}") in (
                grpc.StatusCode.OK,
                grpc.StatusCode.NOT_FOUND,
            )
