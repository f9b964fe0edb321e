import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from export.components.profiles import Profile
from export.engine.compatibility import IncompatibleExport
from export.store.entries import file_entry
from export.store.manifest import read_manifest, write_manifest
from export.triton import write_repository
from export_manifests import an_engine

Field = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(scope="module")
def model_config() -> Any:
    """What the server reads: the fields of its `ModelConfig` that we write, so that any other word is an error."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(["TYPE_INVALID", "TYPE_FP32", "TYPE_INT64"]):
        kinds.value.add(name=name, number=number)
    tensor = file.message_type.add(name="ModelTensor")
    tensor.field.add(name="name", number=1, type=Field.TYPE_STRING)
    tensor.field.add(name="data_type", number=2, type=Field.TYPE_ENUM, type_name=".inference.DataType")
    tensor.field.add(name="dims", number=3, type=Field.TYPE_INT64, label=Field.LABEL_REPEATED)
    group = file.message_type.add(name="ModelInstanceGroup")
    group_kinds = group.enum_type.add(name="Kind")
    group_kinds.value.add(name="KIND_AUTO", number=0)
    group_kinds.value.add(name="KIND_GPU", number=1)
    group.field.add(name="kind", number=4, type=Field.TYPE_ENUM, type_name=".inference.ModelInstanceGroup.Kind")
    group.field.add(name="count", number=2, type=Field.TYPE_INT32)
    group.field.add(name="profile", number=5, type=Field.TYPE_STRING, label=Field.LABEL_REPEATED)
    config = file.message_type.add(name="ModelConfig")
    for number, name in ((1, "name"), (2, "platform"), (17, "backend")):
        config.field.add(name=name, number=number, type=Field.TYPE_STRING)
    config.field.add(name="max_batch_size", number=4, type=Field.TYPE_INT32)
    for number, name, kind in (
        (5, "input", "ModelTensor"),
        (6, "output", "ModelTensor"),
        (7, "instance_group", "ModelInstanceGroup"),
    ):
        config.field.add(
            name=name,
            number=number,
            type=Field.TYPE_MESSAGE,
            type_name=f".inference.{kind}",
            label=Field.LABEL_REPEATED,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def test_the_server_finds_every_graph_with_its_tensors(exported: Path, tmp_path: Path, model_config: Any) -> None:
    repository = tmp_path / "repository"
    names = write_repository(exported, repository, "onnx")
    described = json.loads((exported / "manifest.json").read_text())["components"]
    assert sorted(path.name for path in repository.iterdir()) == sorted(names) == sorted(described)
    for name, entry in described.items():
        config = text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config())
        assert (config.name, config.backend, config.platform, config.max_batch_size) == (name, "onnxruntime", "", 0)
        for tensors, ports in ((config.input, entry["inputs"]), (config.output, entry["outputs"])):
            assert [tensor.name for tensor in tensors] == [port["name"] for port in ports]
            for tensor, port in zip(tensors, ports, strict=True):
                assert tensor.data_type == {"float32": 1, "int64": 2}[port["dtype"]]
                assert list(tensor.dims) == [size if isinstance(size, int) else -1 for size in port["shape"]]
        assert (repository / name / "1/model.onnx").read_bytes() == (
            exported / entry["onnx"]["file"]["path"]
        ).read_bytes()


def test_engines_offer_their_profiles(exported: Path, tmp_path: Path, model_config: Any) -> None:
    root = tmp_path / "exported"
    shutil.copytree(exported, root)
    with pytest.raises(IncompatibleExport, match="no TensorRT engine of image_tokenizer"):
        write_repository(root, tmp_path / "repository", "tensorrt")
    manifest = read_manifest(root)
    for name, entry in manifest.components.items():
        plan = root / f"{name}.plan"
        plan.write_bytes(name.encode())
        profiles = tuple(Profile(one, {}) for one in (("decode", "prefill") if name == "llm" else ("all",)))
        engine = an_engine(plan=file_entry(plan, root), profiles=profiles)
        entry.engines.update({"rtx-1.7": an_engine(), "tensorrt-11.4": engine})
    write_manifest(root, manifest)
    write_repository(root, tmp_path / "repository", "tensorrt")
    config = text_format.Parse((tmp_path / "repository/llm/config.pbtxt").read_text(), model_config())
    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    assert [list(group.profile) for group in config.instance_group] == [["0", "1"]]
    assert (tmp_path / "repository/llm/1/model.plan").read_bytes() == b"llm"


def test_nothing_is_overwritten_and_nothing_half_written(exported: Path, tmp_path: Path) -> None:
    root = tmp_path / "exported"
    shutil.copytree(exported, root)
    (root / "onnx/vae_decoder.onnx").write_bytes(b"")
    with pytest.raises(IncompatibleExport, match="it was cut"):
        write_repository(root, tmp_path / "new" / "repository", "onnx")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(FileExistsError, match="Name a new directory"):
        write_repository(root, root, "onnx")
