"""moto's S3 server in a process of its own, as this file's main program, and the environment that leads boto3 to it.

One request at a time: moto looks for the object and creates it in two steps, which S3 does in one.
"""

import os
import subprocess
import sys
import threading
import wsgiref.types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

BUCKET = "headrace-tests"
LOOPBACK = "127.0.0.1"


def environment(endpoint: str) -> Mapping[str, str]:
    """What boto3 needs; nobody's own configuration has a say."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def running() -> Iterator[str]:
    """The endpoint of a server with one empty bucket, `BUCKET`."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield f"http://{LOOPBACK}:{port}"
        finally:
            process.kill()


def main() -> None:
    """Prints its port; ends with whoever started it."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: object) -> None:
            return

    moto = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_at_a_time(environ: wsgiref.types.WSGIEnvironment, start: wsgiref.types.StartResponse) -> Iterable[bytes]:
        with lock:
            return list(moto(environ, start))

    server = make_server(LOOPBACK, 0, one_at_a_time, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(environment(f"http://{LOOPBACK}:{server.server_port}"))
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
