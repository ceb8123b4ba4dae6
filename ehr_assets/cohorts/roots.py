"""The roots of raw tables: a local directory or an ``s3://`` prefix; listing and opening what lies there.

Only bytes. Which files a spec's `file` stands for is `files.py`.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ehr_assets.addresses import S3, S3_VARIABLES, is_remote, without_user
from ehr_assets.errors import RawTableError, UnreachableTableError
from ehr_assets.paths import is_inside

LINKS_VARIABLE = "EHR_RAW_LINKS"
FOLLOW = "follow"
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 5, 60, 3
_PASSING = ("the object store does not answer", "the object store is busy")
# What the object store's client says, and what that means.
_STORE_SAYS = {
    "NETWORK_CONNECTION": "the object store does not answer",
    "curlCode: 28": "the object store does not answer in time",
    "ACCESS_DENIED": "the object store denies access",
    "SLOW_DOWN": "the object store is busy",
    "SERVICE_UNAVAILABLE": "the object store is busy",
    "HTTP status 403": "the object store denies access",
    "INVALID_ACCESS_KEY_ID": "the object store does not know the access key",
    "SIGNATURE_DOES_NOT_MATCH": "the access key and its secret do not belong together",
    "NO_SUCH_BUCKET": "there is no such bucket",
    "VALIDATION": "the endpoint of the object store is no address",
    "ExpiredToken": "the credentials have expired",
}


@dataclass(frozen=True)
class RawRoot:
    """The root of a cohort's raw tables. Cheap to pickle: the connection is made where it is used.

    Args:
        uri: an absolute local path, or ``s3://bucket/prefix``. Credentials, region and endpoint come from the
            environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL).
    """

    uri: str

    @classmethod
    def of(cls, root: "RawRoot | Path | str") -> "RawRoot":
        """A root from any of its forms. RawTableError where an address is none that can be read from."""
        if isinstance(root, RawRoot):
            return root
        text = str(root)
        if is_remote(text) and not S3.fullmatch(text):
            raise RawTableError(
                "Raw tables are read from a local directory or from S3, and this is no address of either.",
                where=without_user(text),
                do="Give a path, or s3://bucket/prefix; credentials come from the environment, e.g. "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )
        return cls(text.rstrip("/") or "/")

    @property
    def remote(self) -> bool:
        return is_remote(self.uri)

    def exists(self) -> bool:
        """Whether there is such a directory (or anything under such a prefix)."""
        if not self.remote:
            return Path(self.uri).is_dir()
        filesystem, base = self._opened
        try:
            found = filesystem.get_file_info(fs.FileSelector(base, recursive=False, allow_not_found=True))
        except (OSError, pa.ArrowException) as e:
            raise unreachable(self.uri, e) from None
        return bool(found)

    def where(self, path: str) -> str:
        """A file's full name, for people."""
        return f"{self.uri}/{path}" if path else self.uri

    def sizes(self, folder: str = "", *, recursive: bool = False) -> dict[str, int]:
        """Files in a folder (relative to the root) and their sizes, sorted; empty if there is none."""
        if not self.remote:
            self.refuse_link_out(folder)
            return _local_sizes(self, folder, recursive=recursive)
        filesystem, base = self._opened
        selector = fs.FileSelector(f"{base}/{folder}".rstrip("/"), recursive=recursive, allow_not_found=True)
        try:
            found = filesystem.get_file_info(selector)
        except NotADirectoryError:
            return {}
        except (OSError, pa.ArrowException) as e:
            raise unreachable(self.where(folder), e) from None
        files = {PurePosixPath(f.path).relative_to(base).as_posix(): f for f in found if f.is_file}
        return {path: files[path].size or 0 for path in sorted(files)}

    def size(self, path: str) -> int | None:
        """Bytes of one file; None if there is none."""
        self.refuse_link_out(path)
        info = self._info(path)
        return (info.size or 0) if info.is_file else None

    def changed(self, path: str) -> int | None:
        """When one file was last written, in ns; None where that is not known."""
        self.refuse_link_out(path)
        return self._info(path).mtime_ns

    def _info(self, path: str) -> fs.FileInfo:
        filesystem, base = self._opened
        try:
            return filesystem.get_file_info(f"{base}/{path}")
        except (OSError, pa.ArrowException) as e:
            raise unreachable(self.where(path), e) from None

    def open(self, path: str) -> pa.NativeFile:
        """The bytes of a file, seekable. OSError as the system gives it."""
        self.refuse_link_out(path)
        filesystem, base = self._opened
        return filesystem.open_input_file(f"{base}/{path}")

    def refuse_link_out(self, path: str) -> None:
        """Raises RawTableError where a path, when links are followed, is not below a local root.

        A delivery of tables could otherwise name any file of this machine. EHR_RAW_LINKS=follow allows it.
        """
        if self.remote or os.environ.get(LINKS_VARIABLE) == FOLLOW:
            return
        if not is_inside(Path(self.uri), Path(self.uri) / path):
            raise RawTableError(
                "A link leads out of the root of the raw tables.",
                where=self.where(path),
                do=f"Put the file or folder itself there, or set {LINKS_VARIABLE}={FOLLOW} if it is meant.",
            )

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        if not self.remote:
            return fs.LocalFileSystem(), self.uri
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {
            "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            "connect_timeout": _CONNECT_SECONDS,
            "request_timeout": _REQUEST_SECONDS,
            "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        }
        if endpoint:
            options |= {"endpoint_override": endpoint, "region": options["region"] or "us-east-1"}
        try:
            return fs.S3FileSystem(**options), self.uri.removeprefix("s3://")
        except (OSError, pa.ArrowException) as e:
            raise unreachable(self.uri, e) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}


def _local_sizes(root: RawRoot, folder: str, *, recursive: bool) -> dict[str, int]:
    """Files and sizes; a folder that links lead to again (above all one around itself) is entered once."""
    base = Path(root.uri)
    found: dict[str, int] = {}
    entered: set[tuple[int, int]] = set()
    try:
        for at, folders, files in os.walk(base / folder, followlinks=True, onerror=_raise):
            here = Path(at)
            status = here.stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            root.refuse_link_out(here.relative_to(base).as_posix())
            folders[:] = sorted(folders) if recursive else []
            for path in (here / name for name in files):
                if path.is_file():  # not a pipe, nor a link into nowhere
                    found[path.relative_to(base).as_posix()] = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as e:
        raise unreachable(str(base / folder), e) from None
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error


def unreachable(where: str, error: Exception) -> RawTableError:
    """An error of the system or of the object store, for people (its text may quote credentials)."""
    said = next((words for sign, words in _STORE_SAYS.items() if sign in str(error)), None)
    do = "Check the path, its permissions and the disk."
    if is_remote(where):
        do = f"Check the address and the environment: {S3_VARIABLES}."
    reason = said or getattr(error, "strerror", None) or type(error).__name__
    kind = UnreachableTableError if reason.startswith(_PASSING) else RawTableError
    return kind(f"The raw tables cannot be read ({reason}).", where=where, do=do)
