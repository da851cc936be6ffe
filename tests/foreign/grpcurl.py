#!/usr/bin/env python3
"""Makes the calls of the README's grpcurl examples, as grpcurl would: by reflection, with JSON in and out.

A name, a field or a service of an example that is wrong ends it with 1. The ports are those of the README, shifted by as
much as the Directory's differs from 7070.

usage: grpcurl.py [HOST:PORT of the Directory]      (needs requirements.txt)
"""

import os
import re
import shlex
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
README_PORT = 7070
TIMEOUT_SECONDS = 20


def examples():
    """The words of each example, without the command's name."""
    with open(README, encoding="utf-8") as readme:
        return [shlex.split(line)[1:] for line in re.findall(r"^grpcurl .*$", readme.read(), re.M)]


def call(channel, pool, name, data):
    """One unary call; the answer as JSON."""
    service_name, method_name = name.split("/")
    method = pool.FindServiceByName(service_name).methods_by_name[method_name]
    request = json_format.Parse(data, message_factory.GetMessageClass(method.input_type)(), descriptor_pool=pool)
    response_type = message_factory.GetMessageClass(method.output_type)
    invoke = channel.unary_unary(
        f"/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response_type.FromString,
    )
    return json_format.MessageToJson(invoke(request, timeout=TIMEOUT_SECONDS), descriptor_pool=pool)


def describe(pool, name):
    service_name, method_name = name.rsplit(".", 1)
    method = pool.FindServiceByName(service_name).methods_by_name[method_name]
    fields = [field.name for field in method.input_type.fields if field.type != FieldDescriptor.TYPE_GROUP]
    return f"{method.input_type.full_name}({', '.join(fields)}) -> {method.output_type.full_name}"


def run(words, host, shift):
    assert words.pop(0) == "-plaintext", "an example without -plaintext"
    data = "{}"
    if words[0] == "-d":
        data, words = words[1], words[2:]
    target, what = words[0], words[1:]
    name, port = target.split(":")
    assert name == "localhost", f"an example for {name}"
    channel = grpc.insecure_channel(f"{host}:{int(port) + shift}")
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(database)
    if what == ["list"]:
        return " ".join(database.get_services())
    if what[0] == "describe":
        return describe(pool, what[1])
    return call(channel, pool, what[0], data)


def main(directory):
    host, port = directory.rsplit(":", 1)
    all_examples = examples()
    assert all_examples, "the README has no examples"
    for words in all_examples:
        line = shlex.join(words)
        try:
            answer = run(list(words), host, int(port) - README_PORT)
        except (AssertionError, KeyError, json_format.ParseError, grpc.RpcError) as failure:
            sys.exit(f"grpcurl {line}: {failure}")
        assert answer, f"no answer to {line}"
        print(f"grpcurl {line}\n  {' '.join(answer.split())[:160]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else f"127.0.0.1:{README_PORT}")
