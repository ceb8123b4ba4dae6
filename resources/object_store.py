"""S3 as the place of datasets: `ehr_assets.lineage.remote.Remote` over Dagster's S3 resource.

Only bytes under names, and what goes wrong with them in words. boto3 is imported when the first byte moves.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehr_assets.addresses import S3_VARIABLES, bucket_and_prefix
from ehr_assets.errors import StorageError, StorageUnavailableError
from ehr_assets.lineage.datasets import DatasetStore
from ehr_assets.lineage.remote import RemoteDatasetStore

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource

ATTEMPTS = 6
"""Of every request, with growing waits between, half a minute in all; AWS_MAX_ATTEMPTS says otherwise."""
MOST_IN_ONE_REQUEST = 1000
"""S3 deletes so many objects at once."""
PARTS_AT_ONCE = 2
"""Of one large file."""

_GONE = {"NoSuchKey", "404"}
_MEANS = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "it denies access",
    "403": "it denies access",
    "InvalidAccessKeyId": "it does not know the access key",
    "SignatureDoesNotMatch": "the access key and its secret do not belong together",
    "ExpiredToken": "the credentials have expired",
    "NoCredentialsError": "there are no credentials",
    "PartialCredentialsError": "the credentials are incomplete",
}
_MAY_PASS = {
    *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeTooSkewed"),
    *("Throttling", "ThrottlingException", "500", "502", "503", "504", "BadDigest", "IncompleteBody"),
    *("EndpointConnectionError", "ConnectionClosedError", "ConnectTimeoutError", "ReadTimeoutError"),
    *("HTTPClientError", "ResponseStreamingError", "IncompleteReadError", "RetriesExceededError"),
    *("FlexibleChecksumError", "ChecksumError", "ProxyConnectionError"),
}


def open_store(home: Path, remote: str) -> DatasetStore:
    """The datasets under a local root, or, where there is an address, those there with the root as cache."""
    return RemoteDatasetStore(home, S3Remote(remote)) if remote else DatasetStore(home)


def s3_resource() -> "S3Resource":
    """Dagster's S3 resource, by the environment. Its credentials never are in any configuration."""
    from dagster_aws.s3 import S3Resource

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    region = region or ("us-east-1" if endpoint else None)
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS)
    return S3Resource(region_name=region, endpoint_url=endpoint, max_attempts=attempts)


@functools.cache
def _client(process: int, *environment: str | None) -> Any:
    """One client, with its connections, per process and environment."""
    return s3_resource().get_client()


class S3Remote:
    """Objects under ``s3://bucket/prefix``; see `Remote` for the methods.

    Every method raises StorageUnavailableError where the store does not answer, or breaks off, after several
    attempts, and StorageError where it refuses.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.bucket, self._prefix = bucket_and_prefix(self.address)

    @property
    def _s3(self) -> Any:
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
        limits = ("AWS_MAX_ATTEMPTS",)
        return _client(os.getpid(), *(os.environ.get(name) for name in (*names, *keys, *limits)))

    def key(self, name: str) -> str:
        """The object's key in the bucket."""
        return f"{self._prefix}/{name}".strip("/")

    def read(self, name: str) -> bytes:
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        with self._told(name):
            for _ in range(ATTEMPTS):  # the client itself asks again only where no answer has begun
                with contextlib.suppress(IncompleteReadError, ResponseStreamingError):
                    return self._s3.get_object(Bucket=self.bucket, Key=self.key(name))["Body"].read()
        raise self._error(name, "IncompleteReadError")

    def fetch(self, name: str, to: Path) -> None:
        with self._told(name):
            self._s3.download_file(self.bucket, self.key(name), str(to), Config=_transfer())

    def put(self, file: Path, name: str) -> None:
        with self._told(name), file.open("rb") as content:
            self._s3.upload_fileobj(content, self.bucket, self.key(name), Config=_transfer())

    def sizes(self, under: str) -> dict[str, int]:
        prefix = self.key(under) + "/"
        return {
            item["Key"].removeprefix(prefix): item["Size"]
            for page in self._pages(under, Prefix=prefix)
            for item in page.get("Contents", [])
        }

    def folders(self, under: str) -> list[str]:
        prefix = self.key(under) + "/"
        return [
            item["Prefix"].removeprefix(prefix).rstrip("/")
            for page in self._pages(under, Prefix=prefix, Delimiter="/")
            for item in page.get("CommonPrefixes", [])
        ]

    def remove(self, names: Sequence[str]) -> None:
        for first in range(0, len(names), MOST_IN_ONE_REQUEST):
            some = [{"Key": self.key(name)} for name in names[first : first + MOST_IN_ONE_REQUEST]]
            with self._told(names[first]):
                done = self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": some, "Quiet": True})
            for refused in done.get("Errors", [])[:1]:
                raise self._error(names[first], refused.get("Code", "unknown"))

    def _pages(self, under: str, **which: str) -> Iterator[dict[str, Any]]:
        with self._told(under):
            yield from self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **which)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        try:
            yield
        except ClientError as e:
            code = str(e.response.get("Error", {}).get("Code", ""))
            if code in _GONE:
                raise FileNotFoundError(f"{self.address}/{name}") from None
            raise self._error(name, code) from None  # its own words may quote keys
        except (BotoCoreError, Boto3Error, RetriesExceededError, ValueError) as e:
            raise self._error(name, type(e).__name__) from None

    def _error(self, name: str, code: str) -> StorageError:
        where = f"{self.address}/{name}"
        if code in _MAY_PASS:
            return StorageUnavailableError(
                f"The object store does not answer, or breaks off ({code}); it was asked several times.",
                where=where,
                do="Run the command again when it is back: what is committed is kept. If it never was there, "
                f"check the environment: {S3_VARIABLES}.",
            )
        return StorageError(
            f"The object store refuses: {_MEANS.get(code, code)}.",
            where=where,
            do=f"Check EHR_HOME and the environment: {S3_VARIABLES}.",
        )


@functools.cache
def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(max_concurrency=PARTS_AT_ONCE)
