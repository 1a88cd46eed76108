from modelplex.wire import grpc_body
from modelplex.wire.framing import PartReader
from modelplex.wire.grpc_body import Status


def test_messages_and_a_status_are_read_as_they_were_written() -> None:
    status = Status(5, "there is none", [(b"name", b"value"), (b"raw-bin", b"\x00\xff")])
    data = grpc_body.message(b"") + grpc_body.message(b"s") + grpc_body.status(status)
    reader = PartReader()
    parts = [part for at in range(len(data)) for part in reader.feed(data[at : at + 1])]
    assert list(map(grpc_body.read, parts)) == [b"", b"s", status]


def test_metadata_are_text_unless_their_name_says_otherwise() -> None:
    metadata: grpc_body.Metadata = [("name", "value"), ("raw-bin", b"\x00\xff")]
    assert grpc_body.packed(metadata) == [(b"name", b"value"), (b"raw-bin", b"\x00\xff")]
    assert grpc_body.unpacked(grpc_body.packed(metadata)) == metadata
