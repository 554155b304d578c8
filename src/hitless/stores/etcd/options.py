"""What an administrator says about a cluster, and what can be judged of it before anything is sent.

Secrets are named by file and read when they are needed, so that a renewed certificate or a changed password is used
from the next connection on, and no secret stands in a configuration or in an argument list.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from hitless.ports import StoreError

DEFAULT_PORT = 2379
"""etcd's client port, as registered with IANA."""

DEFAULT_EPOCH_KEY = "/hitless/epoch"


class EtcdOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="etcd"):
    """A cluster and how to reach it.

    `endpoints` are `https://host:port` or `http://host:port`, all of one kind and all of one cluster; their order says
    nothing. `ca_file` alone verifies the servers, `cert_file` and `key_file` (always together, PEM, without passphrase)
    prove who we are; without `ca_file` the certificate authorities that gRPC ships are trusted. `user` goes with
    `password_file`, whose last line break does not count.
    `connect_timeout_seconds` is for one endpoint, `request_timeout_seconds` for a call with all its attempts.
    `epoch_key` holds the mark of this history (see `log`); all nodes of a cluster must agree on it.
    """

    endpoints: tuple[str, ...]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    password_file: str = ""
    connect_timeout_seconds: float = 2.0
    request_timeout_seconds: float = 5.0
    epoch_key: str = DEFAULT_EPOCH_KEY


class Tls(msgspec.Struct, frozen=True):
    """PEM as gRPC takes it. Not for printing: `key` is a secret."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None

    def __repr__(self) -> str:
        return "Tls(...)"


def targets(options: EtcdOptions) -> tuple[tuple[str, ...], bool]:
    """The endpoints as `host:port`, and whether they speak TLS.

    Raises StoreError (`store-bad-options`) for a configuration that cannot be meant.
    """
    if not options.endpoints:
        raise _bad("no endpoint is given; name at least one, e.g. https://etcd1.example:2379")
    schemes = set()
    found = []
    for endpoint in options.endpoints:
        parts = urlsplit(endpoint)
        try:
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError:
            host, port = None, 0
        if parts.scheme not in {"http", "https"} or not host or parts.path.strip("/") or parts.query or "@" in endpoint:
            raise _bad(f"{endpoint!r} is not an endpoint; write https://host:port")
        schemes.add(parts.scheme)
        found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    if len(schemes) > 1:
        raise _bad("some endpoints are https and some http; a cluster is one or the other")
    secure = schemes == {"https"}
    if not secure and (options.ca_file or options.cert_file or options.key_file):
        raise _bad("certificates are given but the endpoints are http; write https:// to use them")
    if bool(options.cert_file) != bool(options.key_file):
        raise _bad("cert_file and key_file belong together; give both or neither")
    if bool(options.user) != bool(options.password_file):
        raise _bad("user and password_file belong together; give both or neither")
    if not (options.connect_timeout_seconds > 0 and options.request_timeout_seconds > 0):
        raise _bad("timeouts must be positive numbers of seconds")
    if not options.epoch_key:
        raise _bad(f"epoch_key is empty; leave it out to use {DEFAULT_EPOCH_KEY}")
    return tuple(dict.fromkeys(found)), secure


def read_tls(options: EtcdOptions) -> Tls:
    """The certificates, after making sure that they are some and fit each other: gRPC would only fail to connect.

    Raises StoreError (`store-tls`).
    """
    ca = _read("ca_file", options.ca_file) if options.ca_file else None
    cert = _read("cert_file", options.cert_file) if options.cert_file else None
    key = _read("key_file", options.key_file) if options.key_file else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if options.ca_file:
        try:
            context.load_verify_locations(options.ca_file)
        except (ssl.SSLError, OSError):
            raise StoreError(
                "store-tls", f"ca_file {options.ca_file} holds no PEM certificate; give the cluster's authority"
            ) from None
    if options.cert_file:
        try:
            context.load_cert_chain(options.cert_file, options.key_file, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError):
            raise StoreError(
                "store-tls",
                f"cert_file {options.cert_file} and key_file {options.key_file} are not a certificate and its key "
                "in PEM without a passphrase; check that they belong together",
            ) from None
    return Tls(ca, cert, key)


def read_password(options: EtcdOptions) -> str:
    """The password, as it is in its file now. Raises StoreError (`store-auth`)."""
    try:
        text = Path(options.password_file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StoreError(
            "store-auth", f"cannot read password_file {options.password_file}: {reason}; correct its path or mode"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StoreError(
            "store-tls", f"cannot read {name} {path}: {error.strerror}; correct its path or mode"
        ) from None


def _bad(why: str) -> StoreError:
    return StoreError("store-bad-options", f"the etcd configuration makes no sense: {why}")
