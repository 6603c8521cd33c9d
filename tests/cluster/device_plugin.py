"""Offers devices that are not there: `python device_plugin.py <folder> <resource> <count>`.

A kubelet device plugin (v1beta1) on grpcio alone: the few messages of the protocol are encoded by
hand, so that no generated code is needed. A container learns its devices from CUDA_VISIBLE_DEVICES,
as from the real plugin. Started by the supervisor of a node.
"""

import sys
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

POLL_SECONDS = 0.1
REGISTER_SECONDS = 30.0
LENGTH_DELIMITED = 2


def number(value: int) -> bytes:
    """A varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(index: int, content: bytes | str) -> bytes:
    """One string, bytes or message field."""
    content = content.encode() if isinstance(content, str) else content
    return number(index << 3 | LENGTH_DELIMITED) + number(len(content)) + content


def fields(message: bytes, index: int) -> Iterator[bytes]:
    """The contents of the fields with this index; the requests have no other kind of field."""
    position = 0

    def read() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                return value

    while position < len(message):
        key, length = read(), read()
        if key >> 3 == index:
            yield message[position : position + length]
        position += length


def allocation(request: bytes) -> bytes:
    """The AllocateResponse: for each container its devices, by number, in its environment."""
    response = b""
    for container in fields(request, 1):
        devices = [device.decode().rsplit("-", 1)[1] for device in fields(container, 1)]
        variable = field(1, "CUDA_VISIBLE_DEVICES") + field(2, ",".join(devices))
        response += field(1, field(1, variable))
    return response


class Plugin(grpc.GenericRpcHandler):
    """The service that a kubelet calls."""

    def __init__(self, count: int) -> None:
        self.devices = b"".join(
            field(1, field(1, f"gpu-{index}") + field(2, "Healthy")) for index in range(count)
        )

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        match details.method.rsplit("/", 1)[1]:
            case "ListAndWatch":
                return grpc.unary_stream_rpc_method_handler(self.list_and_watch)
            case "Allocate":
                return grpc.unary_unary_rpc_method_handler(lambda request, _: allocation(request))
            case "GetDevicePluginOptions" | "PreStartContainer" | "GetPreferredAllocation":
                return grpc.unary_unary_rpc_method_handler(lambda *_: b"")
        return None

    def list_and_watch(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield self.devices
        while context.is_active():
            time.sleep(1)


def main(folder: str, resource: str, count: str) -> None:
    kubelet = Path(folder) / "kubelet.sock"
    # The kubelet empties the folder when it starts, and makes its socket after that.
    while not kubelet.exists():
        time.sleep(POLL_SECONDS)
    endpoint = f"{resource.replace('/', '_')}.sock"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((Plugin(int(count)),))
    server.add_insecure_port(f"unix:{folder}/{endpoint}")
    server.start()
    options = (("grpc.default_authority", "localhost"),)
    with grpc.insecure_channel(f"unix:{kubelet}", options=options) as channel:
        register = channel.unary_unary("/v1beta1.Registration/Register")
        request = field(1, "v1beta1") + field(2, endpoint) + field(3, resource)
        register(request, timeout=REGISTER_SECONDS, wait_for_ready=True)
    print(f"registered {count} {resource}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
