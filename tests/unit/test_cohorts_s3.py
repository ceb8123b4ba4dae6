"""Raw tables on S3: found, hashed and extracted as from a disk, and one clear error for what goes wrong."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from cohorts_support import LABS, PEOPLE, extract, tiny, write_tables
from moto.server import ThreadedMotoServer

from ehr_assets.cohorts.files import RawRoot
from ehr_assets.cohorts.inventory import inventory, raw_root, verify_inventory
from ehr_assets.errors import DatasetError, RawTableError
from ehr_assets.meds.preview import preview_cohort

KEY, SECRET, BUCKET = "AKIATESTKEY", "a-secret-nobody-may-read", "hospital"
FOLK = PEOPLE + "1,F,1950,2020-03-05\n2,M,1960,\n"
ROWS = LABS + "1,50,mg,2020-01-01 10:00:00,2020-01-01 11:30:00,1.5,\n2,60,mg,2020-01-02,,2,\n2,50,mg,x,,2,\n"


@pytest.fixture(scope="module")
def server():
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A client of an empty bucket; the environment says where the store is."""
    import boto3

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


def upload(s3, folder: Path) -> RawRoot:
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"raw/v1/{path.relative_to(folder).as_posix()}"
            s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    return RawRoot.of(f"s3://{BUCKET}/raw/v1/")


def frames(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_the_same_bytes_come_out_as_from_a_disk(s3, tmp_path, kind):
    local = write_tables(tmp_path / "raw", FOLK, ROWS)
    expected = extract(local, tmp_path / "here")
    labs = local / "lab" / "labs.csv"
    if kind == "csv.gz":
        (local / "lab" / "labs.csv.gz").write_bytes(gzip.compress(labs.read_bytes()))
    elif kind == "parquet":
        pl.read_csv(labs, infer_schema=False).write_parquet(local / "lab" / "labs.parquet")
    if kind != "csv":
        labs.unlink()
    got = extract(upload(s3, local), tmp_path / "there")
    assert got.reasons == expected.reasons == [("labs", 3, "drawn", "unparsable time")]
    mine, theirs = frames(got.out), frames(expected.out)
    for files in (mine, theirs):
        files.pop("quarantine/quarantine.parquet")  # it names the file, whose ending differs
    assert mine == theirs


def test_the_inventory_sees_what_changes(s3, tmp_path):
    local = write_tables(tmp_path / "raw", FOLK, ROWS)
    root = upload(s3, local)
    entries = inventory(tiny(), root)
    assert entries == inventory(tiny(), local)
    verify_inventory(tiny(), root, entries)
    s3.put_object(Bucket=BUCKET, Key="raw/v1/people.csv", Body=b"pid,sex,born,died\n")
    with pytest.raises(DatasetError, match="was altered"):
        verify_inventory(tiny(), root, entries)


def test_a_table_may_be_a_folder_or_a_pattern(s3, tmp_path):
    local = write_tables(tmp_path / "raw", FOLK, ROWS)
    (local / "lab" / "labs.csv").unlink()
    for part in "ab":
        (local / "lab" / "labs").mkdir(exist_ok=True)
        (local / "lab" / "labs" / f"part-{part}.csv").write_text(ROWS)
    root = upload(s3, local)
    assert extract(root, tmp_path / "x").accounting["read"].to_list() == [2, 6]
    assert preview_cohort(tiny(), root).tables[1].read == 6


def test_the_environment_names_the_root(s3, tmp_path):
    upload(s3, write_tables(tmp_path / "raw", FOLK, ROWS))
    assert raw_root(tiny(), {"EHR_TINY_ROOT": f"s3://{BUCKET}/raw/v1"}).exists()
    for nothing in (f"s3://{BUCKET}/raw/v2", "s3://no-such-bucket/raw"):
        with pytest.raises(RawTableError, match="EHR_TINY_ROOT") as e:
            raw_root(tiny(), {"EHR_TINY_ROOT": nothing})
        assert SECRET not in str(e.value)


@pytest.mark.parametrize(
    "address",
    [
        "gs://bucket/x",
        "s3://",
        "s3://UPPER/x",
        f"s3://{KEY}:{SECRET}@bucket/x",
        "s3://bucket//x",
        "https://h/b",
    ],
)
def test_what_is_no_address_is_told_without_its_secret(address):
    with pytest.raises(RawTableError, match="no address") as e:
        RawRoot.of(address)
    assert SECRET not in str(e.value)
    assert KEY not in str(e.value)


def test_a_store_that_does_not_answer_is_told(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RawTableError, match="does not answer") as e:
        RawRoot.of(f"s3://{BUCKET}/raw").exists()
    assert SECRET not in str(e.value)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "denies access"),
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "SignatureDoesNotMatch", "do not belong together"),
        (400, "ExpiredToken", "expired"),
    ],
)
def test_a_refusal_is_told_in_words(s3, monkeypatch, status, code, said):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 (the server asks for it)

        def log_message(self, *_):
            pass

    refusing = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.server_port}")
    try:
        with pytest.raises(RawTableError, match=said) as e:
            RawRoot.of(f"s3://{BUCKET}/raw").sizes()
    finally:
        refusing.shutdown()
    assert SECRET not in str(e.value)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_an_object_that_vanishes_is_told(s3, tmp_path, ending):
    from ehr_assets.cohorts.file_spec import FileSpec
    from ehr_assets.cohorts.files import RawFile
    from ehr_assets.cohorts.readers import read_table

    file = RawFile(RawRoot.of(f"s3://{BUCKET}/raw"), f"gone.{ending}", 10)
    with pytest.raises(RawTableError, match="cannot be read"):
        list(read_table([file], ["a"], FileSpec(file="gone")))
