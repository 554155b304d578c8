"""`hitless key`: make, check and show key files. Key material is written to files and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from hitless.core.model.key import AlgorithmSpec, MasterKey

app = typer.Typer(no_args_is_help=True, help="Make, check and show key files.")

_ALGORITHMS = ("aes-gcm-128", "aes-gcm-256", "chacha20-poly1305", "aes-cbc-128-sha256", "aes-cbc-256-sha256")


@app.command("new")
def new(
    file: Path = typer.Argument(help="Key file to write. Its keys are replaced, unless --keep."),
    algorithm: str = typer.Option("", help=f"{', '.join(_ALGORITHMS)}. Default: as before, else the first."),
    keep: bool = typer.Option(False, "--keep", help="Keep the file's keys and add the new one behind them."),
) -> None:
    """Write a fresh key with the next id (after 15 comes 1). Agents that watch the file take it up by themselves."""
    import secrets

    from hitless.agent.keys import read
    from hitless.core.ipsec.keyfile import KEY_ID_MAX
    from hitless.core.model.key import AeadSpec, MasterKey
    from hitless.core.model.secret import Secret

    if file.is_dir():
        raise typer.BadParameter(f"{file} is a directory; name the key file in it, e.g. {file / 'keys'}")
    before: tuple[MasterKey, ...] = read(file) if file.exists() else ()
    spec = _spec(algorithm) if algorithm or not before else before[-1].spec
    length = spec.key_bytes if isinstance(spec, AeadSpec) else spec.auth_bytes + spec.enc_bytes
    key_id = before[-1].key_id % KEY_ID_MAX + 1 if before else 1
    if keep and any(each.key_id == key_id for each in before):
        raise typer.BadParameter(f"the file already has a key {key_id}; without --keep the file is replaced")
    key = MasterKey(key_id, spec, Secret(secrets.token_bytes(length)))
    _write(file, [*(before if keep else ()), key])
    typer.echo(f"{file}: key {key_id}, {spec.label}")


@app.command("check")
def check(files: list[Path] = typer.Argument(help="Key files, or directories of them.")) -> None:
    """Say whether an agent would take these files, and if not, why: file, line, field, code."""
    from hitless.agent.keys import read
    from hitless.core.ipsec.keyfile import KeyFileError

    bad = False
    for file in files:
        try:
            keys = read(file)
        except KeyFileError as error:
            bad = True
            for fault in error.faults:
                typer.echo(str(fault), err=True)
        else:
            typer.echo(f"{file}: good, {len(keys)} key{'s' if len(keys) > 1 else ''}, newest is {keys[-1].key_id}")
    if bad:
        raise typer.Exit(1)


@app.command("show")
def show(
    file: Path = typer.Argument(help="A key file, or a directory of them."),
    cluster: str = typer.Option("", help="Cluster name: with it the fingerprints that the store holds are shown."),
    output: Literal["table", "json"] = typer.Option("table", "--output", "-o", help="A table, or JSON."),
) -> None:
    """Show ids, algorithms and fingerprints: never key material."""
    import msgspec

    from hitless.agent.keys import read
    from hitless.core.ipsec.derive import fingerprint

    rows = [
        {"id": key.key_id, "algorithm": key.spec.label, "fingerprint": fingerprint(key, cluster) if cluster else ""}
        for key in read(file)
    ]
    if output == "json":
        typer.echo(msgspec.json.encode(rows).decode())
        return
    typer.echo(f"{'ID':>3}  {'ALGORITHM':<36}  FINGERPRINT")
    for row in rows:
        typer.echo(f"{row['id']:>3}  {row['algorithm']:<36}  {row['fingerprint'] or '(with --cluster)'}")


def _spec(name: str) -> AlgorithmSpec:
    from hitless.core.model.key import AeadSpec, AuthEncSpec

    specs: dict[str, AlgorithmSpec] = {
        "aes-gcm-128": AeadSpec("rfc4106(gcm(aes))", 20, 128),
        "aes-gcm-256": AeadSpec("rfc4106(gcm(aes))", 36, 128),
        "chacha20-poly1305": AeadSpec("rfc7539esp(chacha20,poly1305)", 36, 128),
        "aes-cbc-128-sha256": AuthEncSpec("hmac(sha256)", 32, 128, "cbc(aes)", 16),
        "aes-cbc-256-sha256": AuthEncSpec("hmac(sha256)", 32, 128, "cbc(aes)", 32),
    }
    name = name or _ALGORITHMS[0]
    if name not in specs:
        raise typer.BadParameter(f"'{name}' is none of {', '.join(specs)}", param_hint="--algorithm")
    return specs[name]


def _write(file: Path, keys: list[MasterKey]) -> None:
    import os

    from hitless.core.ipsec.keyfile import KeyFault, KeyFileError, render

    # Readable for its owner alone from the first byte on, and replaced in one step: an agent sees the old or the new.
    draft = file.with_name(f".{file.name}.new")
    try:
        # A draft that was left behind may have another mode, which O_CREAT would keep.
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.writelines(f"{render(key)}\n" for key in keys)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError as error:
        why = f"cannot be written: {error.strerror}; is the directory there, and writable?"
        raise KeyFileError([KeyFault(str(file), 1, "file", "key-file-unwritable", why)]) from None
