"""The messages of `inference.GRPCInferenceService`, made here rather than by protoc.

They are in a pool of their own: `tritonclient` and `kserve` each put messages of the same names into the one that all
modules share, and a process may have both, and a deployment.

https://github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto; the repository
extension is Triton's, grpc_service.proto.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}

# By message, its fields by number: the name and the type; `*` if there may be several, `{}` for a map of InferParameter
# by text, `|` for one of several of which only one is given.
_MESSAGES: dict[str, dict[int, str]] = {
    "InferParameter": {
        1: "bool_param |bool",
        2: "int64_param |int64",
        3: "string_param |string",
        4: "double_param |double",
        5: "uint64_param |uint64",
    },
    "InferTensorContents": {
        1: "bool_contents *bool",
        2: "int_contents *int32",
        3: "int64_contents *int64",
        4: "uint_contents *uint32",
        5: "uint64_contents *uint64",
        6: "fp32_contents *float",
        7: "fp64_contents *double",
        8: "bytes_contents *bytes",
    },
    # Of requests and answers; an output that is asked for has but its name and parameters.
    "InferTensor": {
        1: "name string",
        2: "datatype string",
        3: "shape *int64",
        4: "parameters {}",
        5: "contents InferTensorContents",
    },
    "InferRequestedOutputTensor": {1: "name string", 2: "parameters {}"},
    "ModelInferRequest": {
        1: "model_name string",
        2: "model_version string",
        3: "id string",
        4: "parameters {}",
        5: "inputs *InferTensor",
        6: "outputs *InferRequestedOutputTensor",
        7: "raw_input_contents *bytes",
    },
    "ModelInferResponse": {
        1: "model_name string",
        2: "model_version string",
        3: "id string",
        4: "parameters {}",
        5: "outputs *InferTensor",
        6: "raw_output_contents *bytes",
    },
    "Ready": {1: "ready bool"},
    "ServerMetadataResponse": {1: "name string", 2: "version string", 3: "extensions *string"},
    "TensorMetadata": {1: "name string", 2: "datatype string", 3: "shape *int64"},
    "ModelMetadataResponse": {
        1: "name string",
        2: "versions *string",
        3: "platform string",
        4: "inputs *TensorMetadata",
        5: "outputs *TensorMetadata",
    },
    # That of kserve has the model's name first, and nothing else.
    "RepositoryModelLoadRequest": {1: "repository_name string", 2: "model_name string", 3: "parameters {}"},
    "RepositoryIndexRequest": {1: "repository_name string", 2: "ready bool"},
    "ModelIndex": {1: "name string", 2: "version string", 3: "state string", 4: "reason string"},
    "RepositoryIndexResponse": {1: "models *ModelIndex"},
    # That of kserve; Triton's has no fields, and its clients read none.
    "RepositoryModelResponse": {1: "model_name string", 2: "is_done bool"},
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="modelplex_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, said in fields.items():
            _add(message, number, *said.split())
    return file


def _add(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    is_list, is_choice = kind.startswith("*"), kind.startswith("|")
    if kind == "{}":
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add(entry, 1, "key", "string")
        _add(entry, 2, "value", "InferParameter")
        is_list, kind = True, f"{message.name}.ParametersEntry"
    label = _Field.LABEL_REPEATED if is_list else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    kind = kind.lstrip("*|")
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    if is_choice:
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0


def _made() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    found = {name: pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


_CLASSES = _made()

InferParameter: Any = _CLASSES["InferParameter"]
ModelInferRequest: Any = _CLASSES["ModelInferRequest"]
ModelInferResponse: Any = _CLASSES["ModelInferResponse"]
Ready: Any = _CLASSES["Ready"]
ServerMetadataResponse: Any = _CLASSES["ServerMetadataResponse"]
ModelMetadataResponse: Any = _CLASSES["ModelMetadataResponse"]
RepositoryModelLoadRequest: Any = _CLASSES["RepositoryModelLoadRequest"]
RepositoryIndexRequest: Any = _CLASSES["RepositoryIndexRequest"]
RepositoryIndexResponse: Any = _CLASSES["RepositoryIndexResponse"]
RepositoryModelResponse: Any = _CLASSES["RepositoryModelResponse"]
