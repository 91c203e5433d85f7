"""A real S3 protocol server on loopback, for tables and model stores on s3://."""

import contextlib
import logging

import pytest

SECRET = "a-secret-that-must-not-be-seen"


@contextlib.contextmanager
def s3_server():
    """Run moto's server; give the options to reach it, as LanceDB takes them."""
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "aws_access_key_id": "key",
        "aws_secret_access_key": SECRET,
        "region": "us-east-1",
        "endpoint": f"http://{host}:{port}",
        "allow_http": "true",
    }
    client(options, boto3).create_bucket(Bucket="bucket")
    try:
        yield options
    finally:
        server.stop()


def client(options, boto3=None):
    """Return a client of another implementation, to look at the objects themselves."""
    if boto3 is None:
        import boto3
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint"],
        aws_access_key_id=options["aws_access_key_id"],
        aws_secret_access_key=options["aws_secret_access_key"],
        region_name=options["region"],
    )


def environment(options):
    """Return the same options as environment variables."""
    return {
        "AWS_ACCESS_KEY_ID": options["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["aws_secret_access_key"],
        "AWS_REGION": options["region"],
        "AWS_ENDPOINT": options["endpoint"],
        "AWS_ALLOW_HTTP": "true",
    }


def all_objects(options, bucket="bucket"):
    """Yield ``(key, bytes)`` of everything in the bucket."""
    s3 = client(options)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            yield found["Key"], s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()


def empty(options, bucket="bucket"):
    """Remove all objects: the server keeps its buckets for as long as the process lives."""
    s3 = client(options)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=found["Key"])
