"""nginx as deployments run it: TLS, and single sign-on instead of passwords. Behind it stands a stub."""

import datetime
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from jobs.uis.site import Site, render_site

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"


class Behind(BaseHTTPRequestHandler):
    """Dagster, MLflow and oauth2-proxy at once: says what it was asked, and knows people by their cookie."""

    def do_GET(self):
        place = urlsplit(self.path)
        status = 200
        if place.path == "/oauth2/auth":
            groups = parse_qs(place.query)["allowed_groups"]
            cookie = self.headers.get("Cookie")
            status = 401 if cookie is None else 202 if f"ehr-{cookie}" in groups else 403
        self.send_response(status)
        body = f"{place.path} {self.headers.get('Authorization')}".encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.do_GET()

    def log_request(self, code="-", size="-"):
        pass


@pytest.fixture(scope="module")
def behind():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def certificate(folder):
    """A key and a certificate for localhost that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture(scope="module")
def ask(tmp_path_factory, behind):
    folder = tmp_path_factory.mktemp("deployed")
    cert, key = certificate(folder)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    stub = f"http://127.0.0.1:{behind}"
    user = "root" if os.geteuid() == 0 else ""
    site = Site(f"127.0.0.1:{port}", behind, behind, stub, "localhost", cert, key, stub, str(folder), user)
    config = render_site(site, folder / "site")
    command = [NGINX, "-e", "stderr", "-p", str(folder / "site"), "-c", str(config)]
    subprocess.run([*command, "-t"], check=True)
    trusting = ssl.create_default_context(cafile=cert)

    def asked(method, path, **headers):
        connection = http.client.HTTPSConnection("localhost", port, timeout=120, context=trusting)
        try:
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return response.status, response.getheader("Location") or response.read().decode()
        finally:
            connection.close()

    with subprocess.Popen(command) as nginx:
        for _ in range(1200):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            with pytest.raises(subprocess.TimeoutExpired):
                nginx.wait(0.1)
        try:
            yield asked
        finally:
            nginx.terminate()


@pytest.mark.parametrize("path", ["/audit/", "/audit/graphql", "/engineers/", "/engineers/mlflow/"])
def test_strangers_are_sent_to_sign_on(ask, path):
    assert ask("GET", path) == (302, f"/oauth2/start?rd={path}")


def test_who_signed_on_comes_to_the_paths_of_their_group(ask):
    assert ask("GET", "/audit/assets", Cookie="auditors") == (200, "/audit/assets None")
    assert ask("GET", "/engineers/assets", Cookie="auditors")[0] == 403
    assert ask("GET", "/engineers/assets", Cookie="engineers") == (200, "/engineers/assets None")
    assert ask("GET", "/audit/assets", Cookie="engineers")[0] == 403
    assert ask("GET", "/engineers/mlflow/version", Cookie="engineers")[1].startswith("/version ")
    assert ask("GET", "/audit/mlflow/get-artifact", Cookie="auditors")[0] == 403
    assert ask("POST", "/audit/assets", Cookie="auditors")[0] == 403


def test_the_questions_to_the_sign_on_cannot_be_asked_from_outside(ask):
    assert ask("GET", "/sign_on/auditors", Cookie="auditors")[0] == 404


def test_passwords_end_at_nginx(ask):
    basic = "Basic eDp5"
    assert ask("GET", "/audit/x", Cookie="auditors", Authorization=basic)[1] == "/audit/x None"
    assert ask("GET", "/audit/mlflow/version", Cookie="auditors", Authorization=basic)[1] == "/version None"


@pytest.mark.parametrize("path", ["logs/../x", "logs/%2e%2e/x", "logs/a/..%2f../x", "/./x"])
def test_what_stands_behind_is_asked_for_the_path_that_was_judged(ask, path):
    assert ask("GET", f"/audit/{path}", Cookie="auditors") == (200, "/audit/x None")


def test_a_slash_that_was_forgotten_is_added(ask):
    for path in ("/audit", "/audit/mlflow", "/engineers", "/engineers/mlflow"):
        assert ask("GET", path, Cookie="auditors") == (301, f"{path}/")
