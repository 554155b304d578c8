"""What can be wrong with a configuration before any cluster is asked, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hitless.ports import StoreError
from hitless.stores.etcd.options import EtcdOptions, Tls, read_password, read_tls, targets
from hitless.stores.etcd.wire import __main__ as generator


@pytest.mark.parametrize(
    ("endpoints", "found", "secure"),
    [
        (("https://etcd1.example:2379", "https://etcd2.example"), ("etcd1.example:2379", "etcd2.example:2379"), True),
        (("http://127.0.0.1:1/", "http://127.0.0.1:1"), ("127.0.0.1:1",), False),
        (("https://[2001:db8::1]:99",), ("[2001:db8::1]:99",), True),
    ],
)
def test_endpoints(endpoints: tuple[str, ...], found: tuple[str, ...], secure: bool) -> None:
    assert targets(EtcdOptions(endpoints)) == (found, secure)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EtcdOptions(()), "no endpoint"),
        (EtcdOptions(("etcd1:2379",)), "write https://"),
        (EtcdOptions(("https://",)), "write https://"),
        (EtcdOptions(("https://h:port",)), "write https://"),
        (EtcdOptions(("https://h:99999",)), "write https://"),
        (EtcdOptions(("https://user:pw@h",)), "write https://"),
        (EtcdOptions(("https://h/v3",)), "write https://"),
        (EtcdOptions(("https://a", "http://b")), "one or the other"),
        (EtcdOptions(("http://a",), ca_file="/ca.pem"), "write https://"),
        (EtcdOptions(("https://a",), cert_file="/c.pem"), "cert_file and key_file"),
        (EtcdOptions(("https://a",), user="u"), "user and password_file"),
        (EtcdOptions(("https://a",), request_timeout_seconds=0), "timeouts"),
        (EtcdOptions(("https://a",), connect_timeout_seconds=-1), "timeouts"),
        (EtcdOptions(("https://a",), epoch_key=""), "epoch_key"),
    ],
)
def test_options_that_make_no_sense(options: EtcdOptions, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        targets(options)
    assert caught.value.code == "store-bad-options"


def test_a_configuration_file_has_no_place_for_a_password() -> None:
    with pytest.raises(msgspec.ValidationError, match="password"):
        msgspec.convert({"endpoints": ["https://a"], "user": "u", "password": "x"}, EtcdOptions)


def test_a_password_is_read_anew_each_time_without_its_line_break(tmp_path: Path) -> None:
    path = tmp_path / "password"
    options = EtcdOptions(("https://a",), user="u", password_file=str(path))
    with pytest.raises(StoreError, match=str(path)) as caught:
        read_password(options)
    assert caught.value.code == "store-auth"
    path.write_text(" first \n")
    assert read_password(options) == " first "
    path.write_text("second")
    assert read_password(options) == "second"
    path.write_bytes(b"\xff")
    with pytest.raises(StoreError, match="UTF-8"):
        read_password(options)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    missing, empty = str(tmp_path / "missing"), tmp_path / "empty"
    empty.write_text("")
    for options in (
        EtcdOptions(("https://a",), ca_file=missing),
        EtcdOptions(("https://a",), ca_file=str(empty)),
        EtcdOptions(("https://a",), cert_file=str(empty), key_file=str(empty)),
    ):
        with pytest.raises(StoreError) as caught:
            read_tls(options)
        assert caught.value.code == "store-tls"
        assert str(tmp_path) in str(caught.value)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Tls(b"ca", b"cert", b"secret"))


def test_the_options_can_be_read_without_grpc() -> None:
    script = "import sys, hitless.stores.etcd.options; assert not {'grpc', 'google.protobuf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_generated_modules_are_what_the_generator_makes(tmp_path: Path) -> None:
    made = generator.generate(tmp_path)
    assert {path.name for path in made} == {path.name for path in generator.HERE.glob("*_pb2.py*")}
    for path in made:
        assert path.read_text() == (generator.HERE / path.name).read_text(), "run python -m hitless.stores.etcd.wire"
