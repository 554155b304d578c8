"""TLS: who may connect, and what is said to who may not."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.stores.etcd_process import EtcdProcess

from hitless.ports import Put, StoreError, StoreUnavailableError
from hitless.stores.etcd.options import EtcdOptions
from hitless.stores.etcd.store import EtcdStore

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
FAR_AHEAD = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    cert: str
    key: str


class Authority:
    """Issues certificates into a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory / name
        self._directory.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key(), LONG_AGO, FAR_AHEAD)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        path = self._directory / "ca.pem"
        path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self.ca = str(path)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, start: dt.datetime, end: dt.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    def issue(self, name: str, address: str, *, end: dt.datetime = FAR_AHEAD) -> Pair:
        """For a server at an address, and for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), LONG_AGO, end)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            builder.add_extension(names, critical=False)
            .add_extension(usage, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        made = Pair(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        Path(made.cert).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        Path(made.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "theirs")


class Secured(NamedTuple):
    """A server that wants client certificates of one authority, and one for a client."""

    server: EtcdProcess
    client: Pair


@pytest.fixture
def secured(tmp_path: Path, authority: Authority) -> Iterator[Secured]:
    pair = authority.issue("server", "127.0.0.1")
    arguments = (f"--cert-file={pair.cert}", f"--key-file={pair.key}", f"--trusted-ca-file={authority.ca}")
    server = EtcdProcess(tmp_path / "etcd", scheme="https", arguments=(*arguments, "--client-cert-auth")).start()
    yield Secured(server, authority.issue("client", "127.0.0.9"))
    server.kill()


async def failure(options: EtcdOptions) -> StoreError:
    """What a first call raises."""
    store = EtcdStore(options)
    try:
        await store.epoch()
    except StoreError as error:
        return error
    finally:
        await store.close()
    raise AssertionError("it connected")


def options_of(server: EtcdProcess, ca: str, pair: Pair, endpoint: str = "") -> EtcdOptions:
    return EtcdOptions(
        (endpoint or server.endpoint,),
        ca_file=ca,
        cert_file=pair.cert,
        key_file=pair.key,
        request_timeout_seconds=1.0,
    )


async def test_a_client_with_a_certificate(secured: Secured, authority: Authority) -> None:
    store = EtcdStore(options_of(secured.server, authority.ca, secured.client))
    assert await store.commit((), (Put("k", b""),))
    assert await store.get("k") is not None
    await store.close()


async def test_a_client_without_a_certificate(secured: Secured, authority: Authority) -> None:
    error = await failure(EtcdOptions((secured.server.endpoint,), ca_file=authority.ca, request_timeout_seconds=1.0))
    assert isinstance(error, StoreUnavailableError)
    assert error.code == "store-tls"
    assert "wants a client certificate" in str(error)


async def test_a_client_with_somebody_elses_certificate(
    secured: Secured, authority: Authority, other: Authority
) -> None:
    error = await failure(options_of(secured.server, authority.ca, other.issue("stranger", "127.0.0.9")))
    assert isinstance(error, StoreUnavailableError)
    assert error.code == "store-tls"
    assert "wants a client certificate" in str(error)


async def test_a_server_of_another_authority(secured: Secured, other: Authority) -> None:
    error = await failure(options_of(secured.server, other.ca, secured.client))
    assert error.code == "store-tls"
    assert "not signed by the authority in ca_file" in str(error)


async def test_a_server_under_another_name(secured: Secured, authority: Authority) -> None:
    endpoint = secured.server.endpoint.replace("127.0.0.1", "localhost")
    error = await failure(options_of(secured.server, authority.ca, secured.client, endpoint))
    assert error.code == "store-tls"
    assert "for another host name" in str(error)


async def test_http_where_https_is_spoken(secured: Secured) -> None:
    endpoint = secured.server.endpoint.replace("https", "http")
    error = await failure(EtcdOptions((endpoint,), request_timeout_seconds=1.0))
    assert isinstance(error, StoreUnavailableError)
    assert "http or https" in str(error)


async def test_https_where_http_is_spoken(tmp_path: Path, authority: Authority) -> None:
    server = EtcdProcess(tmp_path / "etcd").start()
    try:
        endpoint = server.endpoint.replace("http", "https")
        error = await failure(EtcdOptions((endpoint,), ca_file=authority.ca, request_timeout_seconds=1.0))
    finally:
        server.kill()
    assert error.code == "store-tls"
    assert "not speak TLS" in str(error)


async def test_a_key_that_does_not_fit_is_noticed_before_connecting(
    secured: Secured, authority: Authority, other: Authority
) -> None:
    mixed = Pair(secured.client.cert, other.issue("stranger", "127.0.0.9").key)
    error = await failure(options_of(secured.server, authority.ca, mixed))
    assert error.code == "store-tls"
    assert mixed.key in str(error)


async def test_certificates_that_are_renewed_are_used_from_the_next_connection_on(
    secured: Secured, authority: Authority
) -> None:
    expired = authority.issue("client", "127.0.0.9", end=LONG_AGO + dt.timedelta(days=1))
    store = EtcdStore(options_of(secured.server, authority.ca, expired))
    with pytest.raises(StoreUnavailableError, match="wants a client certificate"):
        await store.epoch()
    authority.issue("client", "127.0.0.9")  # into the same files
    assert await store.epoch()
    await store.close()
