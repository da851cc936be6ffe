#!/usr/bin/env python3
"""A client of dfs that knows nothing of dfs but what the servers tell by reflection.

There is no generated code here and no .proto file is read: whatever this can do, any gRPC client can. It checks what it is
answered, and ends with 1 at the first thing that is not as promised.

usage: client.py [HOST:PORT of the Directory]      (needs requirements.txt)
"""

import sys
import uuid

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_SECONDS = 20
FRAME_BYTES = 256 * 1024


class Service:
    """One gRPC service, called by the names and types that reflection gives."""

    def __init__(self, server, name):
        self._server = server
        self._descriptor = server.pool.FindServiceByName(name)

    def __getattr__(self, method_name):
        method = self._descriptor.methods_by_name[method_name]
        kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        stub = getattr(self._server.channel, kind)(
            f"/{self._descriptor.full_name}/{method.name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response_type.FromString,
        )

        def call(*requests, timeout=TIMEOUT_SECONDS, **fields):
            if method.client_streaming:
                return stub(iter([request_type(**each) for each in requests]), timeout=timeout)
            return stub(request_type(**fields), timeout=timeout)

        return call


class Server:
    """One process, and what it says of itself."""

    def __init__(self, address):
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def service(self, name):
        return Service(self, name)

    def message(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def services(self):
        return set(self.database.get_services())

    def services_v1(self):
        """The same over reflection v1, whose messages look like v1alpha's on the wire."""
        call = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answers = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=TIMEOUT_SECONDS)
        return {service.name for service in next(iter(answers)).list_services_response.service}

    def reason(self, error):
        """The ErrorInfo of a failed call, its type taken from reflection too."""
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        expect(details is not None, f"{error.code()} {error.details()} carries no details")
        status = self.message("google.rpc.Status").FromString(details)
        for detail in status.details:
            if detail.TypeName() == "google.rpc.ErrorInfo":
                info = self.message("google.rpc.ErrorInfo").FromString(detail.value)
                expect(info.domain == "dfs", f"domain {info.domain}")
                return info.reason
        raise AssertionError(f"no ErrorInfo in {status}")

    def expect_refused(self, reason, call):
        try:
            answer = call()
            if hasattr(answer, "__next__"):
                list(answer)
        except grpc.RpcError as error:
            expect(self.reason(error) == reason, f"expected {reason}, got {error.code()} {error.details()}")
            return
        raise AssertionError(f"expected {reason}, and the call went well")


def expect(holds, otherwise):
    if not holds:
        raise AssertionError(otherwise)


CRC32C_TABLE = []
for value in range(256):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    CRC32C_TABLE.append(value)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def new_id():
    return str(uuid.uuid4())


def write_messages(write_id, data, **begin):
    """The messages of one write: begin, frames, end."""
    messages = [{"write_id": write_id, "begin": begin}]
    for at in range(0, len(data), FRAME_BYTES):
        frame = data[at : at + FRAME_BYTES]
        messages.append({"write_id": write_id, "data": {"data": frame, "checksum": crc32c(frame)}})
    messages.append({"write_id": write_id, "end": {"length": len(data), "checksum": crc32c(data)}})
    return messages


def write(servers, start, *writes):
    """Sends writes of one path down one stream; goes where NOT_LEADER points. Answers by write id."""
    address = start
    for _ in range(5):
        messages = [message for each in writes for message in each]
        responses = {answer.write_id: answer for answer in servers[address].service("dfs.v1.FileServer").Write(*messages)}
        expect(len(responses) == len({each[0]["write_id"] for each in writes}), f"one answer per write id: {responses}")
        leaders = {
            answer.error.metadata["leader_address"]
            for answer in responses.values()
            if answer.WhichOneof("result") == "error" and answer.error.reason == "NOT_LEADER"
        }
        if not leaders:
            return responses
        address = leaders.pop()
    raise AssertionError("NOT_LEADER points in a circle")


def receipt(responses, write_id):
    answer = responses[write_id]
    expect(answer.WhichOneof("result") == "receipt", f"write failed: {answer.error}")
    return answer.receipt


def read(servers_by_id, lookup, server_id):
    """The whole version from one server's disk, every chunk checked."""
    ranges = [{"blob": it.blob, "offset": it.blob_offset, "length": it.length} for it in lookup.extents]
    content = b""
    for response in servers_by_id[server_id].service("dfs.v1.FileServer").Read(ranges=ranges):
        expect(response.WhichOneof("result") == "chunk", f"read failed: {response.error}")
        expect(crc32c(response.chunk.data) == response.chunk.checksum, "a chunk does not match its checksum")
        content += response.chunk.data
    return content


def main(directory_address):
    directory = Server(directory_address)
    said = directory.services()
    expect({"dfs.v1.Directory", "dfs.v1.Cluster", "grpc.health.v1.Health"} <= said, f"services: {said}")
    expect(said == directory.services_v1(), "reflection v1 and v1alpha differ")
    namespace, cluster = directory.service("dfs.v1.Directory"), directory.service("dfs.v1.Cluster")

    cluster_map = namespace.GetClusterMap().cluster_map
    outside = lambda server: server.external_address or server.address
    lock = Server(outside(cluster_map.lock_servers[0]))
    fileservers = {server.server_id: Server(outside(server)) for server in cluster_map.servers}
    by_address = {server.address: server for server in fileservers.values()}
    expect("dfs.v1.Lock" in lock.services(), "the Lock service is not listed")
    for server in fileservers.values():
        expect("dfs.v1.FileServer" in server.services(), f"{server.address} lists no FileServer")
    print(f"services listed on {2 + len(fileservers)} servers")

    for server, name in [(directory, "Directory"), (lock, "Lock"), *((it, "FileServer") for it in fileservers.values())]:
        health = server.service("grpc.health.v1.Health").Check(service=f"dfs.v1.{name}")
        expect(health.status == 1, f"{server.address} does not serve {name}: {health}")
    expect(cluster.GetClusterStatus().server_up_count >= 1, "no server is up")
    print("health: all serving")

    folder = f"/foreign-{uuid.uuid4().hex[:12]}"
    path = f"{folder}/hello.bin"
    made = namespace.CreateDirectory(write_id=new_id(), path=folder)
    expect(made.entry.path == folder and made.entry.kind == 2, f"mkdir: {made}")
    directory.expect_refused("ENTRY_EXISTS", lambda: namespace.CreateDirectory(write_id=new_id(), path=folder))
    directory.expect_refused("BAD_PATH", lambda: namespace.CreateDirectory(write_id=new_id(), path="no/slash"))
    print(f"mkdir: {folder}")

    locks = lock.service("dfs.v1.Lock")
    session, stranger = new_id(), new_id()
    for each in (session, stranger):
        expect(locks.OpenSession(session_id=each, ttl_ms=30_000, client="foreign").session_id == each, "session")
    events = list(locks.AcquireLock(session_id=session, path=path, mode=1, wait_ms=5_000))
    expect(events[-1].WhichOneof("event") == "grant", f"no grant: {events}")
    token = events[-1].grant.fencing_token
    lock.expect_refused("LOCK_HELD", lambda: locks.AcquireLock(session_id=stranger, path=path, mode=1, wait_ms=0))
    lock.expect_refused("NOT_LOCK_HOLDER", lambda: locks.ReleaseLock(session_id=stranger, path=path, fencing_token=token))
    holders = locks.GetLock(path=path).lock.holders
    expect([holder.fencing_token for holder in holders] == [token], f"holders: {holders}")
    print(f"lock: token {token}")

    data = bytes(range(256)) * 2500
    first, start = new_id(), next(iter(by_address))
    begin = {"path": path, "mode": 1, "precondition": {"fencing_token": token}}
    answers = write(by_address, start, write_messages(first, data, **begin))
    done = receipt(answers, first)
    expect((done.version, done.size, done.checksum) == (1, len(data), crc32c(data)), f"receipt: {done}")
    expect(len(done.servers) >= cluster_map.min_in_sync, f"on stable storage of {done.servers} only")
    again = receipt(write(by_address, start, write_messages(first, data, **begin)), first)
    expect(again.version == 1 and again.revision == done.revision, f"a retry wrote again: {again}")

    blind, wrong = new_id(), new_id()
    answers = write(
        by_address,
        start,
        write_messages(blind, b"blind", path=path, mode=1),
        write_messages(wrong, b"wrong", path=path, mode=1, precondition={"if_version": 7}),
    )
    expect(answers[blind].error.reason == "LOCK_REQUIRED", f"a blind write: {answers[blind]}")
    expect(answers[wrong].error.reason == "VERSION_MISMATCH", f"if_version 7: {answers[wrong]}")
    broken = new_id()
    messages = write_messages(broken, b"damaged on the way", **begin)
    messages[1]["data"]["checksum"] ^= 1
    answers = write(by_address, start, messages)
    expect(answers[broken].error.reason == "CHECKSUM_MISMATCH", f"bad data: {answers[broken]}")

    tail, tail_data = new_id(), b"and a tail"
    done = receipt(write(by_address, start, write_messages(tail, tail_data, path=path, mode=2)), tail)
    expect((done.version, done.offset) == (2, len(data)), f"append: {done}")
    print(f"write: version {done.version} on {', '.join(done.servers)}")

    for version, content in [(1, data), (2, data + tail_data)]:
        lookup = namespace.LookupFile(path=path, version=version)
        expect(lookup.entry.size == len(content), f"size of version {version}: {lookup.entry.size}")
        expect(sum(extent.length for extent in lookup.extents) == len(content), "the extents do not add up")
        expect(lookup.entry.checksum == crc32c(content), f"checksum of version {version}")
        for server_id in done.servers:
            expect(read(fileservers, lookup, server_id) == content, f"{server_id} reads version {version} differently")
    directory.expect_refused("VERSION_NOT_FOUND", lambda: namespace.LookupFile(path=path, version=3))
    print(f"read: both versions equal from {len(done.servers)} servers")

    listed = namespace.ListEntries(path=folder)
    expect([(entry.path, entry.version) for entry in listed.entries] == [(path, 2)], f"list: {listed}")
    versions = namespace.ListVersions(path=path).versions
    expect([version.version for version in versions] == [2, 1], f"versions: {versions}")
    print("list: one file, two versions")

    locks.ReleaseLock(session_id=session, path=path, fencing_token=token)
    expect(not locks.GetLock(path=path).lock.holders, "released, and still held")
    for each in (session, stranger):
        locks.CloseSession(session_id=each)
    print("release: nobody holds it")

    directory.expect_refused("DIRECTORY_NOT_EMPTY", lambda: namespace.DeleteEntry(write_id=new_id(), path=folder))
    expect(namespace.DeleteEntry(write_id=new_id(), path=folder, force=True).deleted_count == 2, "delete")
    directory.expect_refused("ENTRY_NOT_FOUND", lambda: namespace.GetEntry(path=path))
    print("delete: gone; everything as promised")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7070")
    except (AssertionError, grpc.RpcError) as failure:
        print(f"foreign client: {failure}", file=sys.stderr)
        sys.exit(1)
