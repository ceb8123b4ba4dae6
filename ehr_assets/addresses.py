"""Addresses of object stores: what is one, and how what is none may be shown."""

import re

S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^/?#@]+)*/*")
"""``s3://bucket`` or ``s3://bucket/prefix``. Credentials, region and endpoint come from the environment."""

S3_VARIABLES = (
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, "
    "and AWS_ENDPOINT_URL where the store is not Amazon's"
)


def is_remote(text: str) -> bool:
    """Whether this is meant as an address rather than as a path."""
    return "://" in text


def without_user(text: str) -> str:
    """An address as it may be shown: it may hold a key and its secret, or a user and a password."""
    return re.sub(r"//.*@", "//…@", text)


def bucket_and_prefix(address: str) -> tuple[str, str]:
    """The parts of an S3 address; the prefix without slashes around it."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/")
